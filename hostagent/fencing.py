"""Fencing on a proxy: what other hosts' power is to be is done once, verified, and told.

An order is written into the journal before anything is done, and its outcome before it is told; so
an agent that dies in between does it again only while the engine still asks for it. Off and on are
not believed: the status of every device must say so, and of a machine that is off nothing may
answer any more. Only orders that are fresh are begun.
"""

from __future__ import annotations

import asyncio

import structlog

from events.types.host_power import AgentAnswer, FenceAction, FenceOrder, PowerState
from events.wire.agent import FenceItem
from hostagent.desk import Desk, utc_now
from hostagent.power import Power, Told
from hostagent.records import FenceBegun, FenceEnded

AT_ONCE_MAX = 8
REASON_CHARACTERS_MAX = 500
_WANTED = {FenceAction.OFF: PowerState.OFF, FenceAction.ON: PowerState.ON}

_log = structlog.get_logger(__name__)


class Fencer:
    """Carries out orders about the power of other hosts. `run` works until it is cancelled."""

    def __init__(self, desk: Desk, power: Power) -> None:
        self._desk = desk
        self._power = power
        self._running: dict[str, asyncio.Task[None]] = {}
        self._told: tuple[str, set[str]] = ("", set())

    async def run(self) -> None:
        """Look at the orders whenever they change, and now and then."""
        desk = self._desk
        try:
            while True:
                self._look()
                try:
                    async with asyncio.timeout(desk.timings.unknown_retry_s):
                        await desk.fences_changed.wait()
                except TimeoutError:
                    continue
                desk.fences_changed.clear()
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _look(self) -> None:
        desk = self._desk
        for key, task in list(self._running.items()):
            if key not in desk.fences and not task.done():
                task.cancel()
        self._retell()
        if not desk.orders_fresh():
            return
        for order in list(desk.fences.values()):
            known = desk.journal.known.fences.get(order.id)
            if order.id in self._running or (known is not None and known.ended is not None):
                continue
            if len(self._running) >= AT_ONCE_MAX:
                return
            task = asyncio.create_task(self._carry_out(order))
            self._running[order.id] = task
            task.add_done_callback(lambda _task, key=order.id: self._over(key))  # type: ignore[misc]

    def _over(self, key: str) -> None:
        task = self._running.pop(key, None)
        if task is not None and not task.cancelled() and task.exception() is not None:
            _log.error("fencing failed", order=key, error=repr(task.exception()))
        self._desk.fences_changed.set()

    def _retell(self) -> None:
        """Tell, once in each session, what was done and is still asked for."""
        desk = self._desk
        session, told = self._told
        if session != desk.session:
            self._told = (desk.session, told := set())
        for key in desk.fences:
            known = desk.journal.known.fences.get(key)
            if known is not None and known.ended is not None and key not in told and desk.session:
                told.add(key)
                desk.tell(known.ended)

    async def _carry_out(self, order: FenceOrder) -> None:
        journal = self._desk.journal
        await journal.write(
            FenceBegun(order=order.id, host=order.host, action=order.action, time=utc_now())
        )
        if order.id not in self._desk.fences or not self._desk.orders_fresh():
            return  # We stood still meanwhile: the host may be back. If it is not, we begin anew.
        _log.info("fencing", order=order.id, host=order.host, action=order.action)
        item = await self._outcome(order)
        await journal.write(FenceEnded(item=item))
        _log.info("fencing ended", order=order.id, state=item.state, reason=item.reason)
        self._retell()

    async def _outcome(self, order: FenceOrder) -> FenceItem:
        if order.fault:
            return _item(order, {}, order.fault)
        deadline = asyncio.get_running_loop().time() + order.timeout_s
        acted: dict[str, Told] = {}
        if order.action is not FenceAction.STATUS:
            acted = await self._all(order, order.action, order.timeout_s)
        while True:
            left_s = deadline - asyncio.get_running_loop().time()
            seen = await self._all(order, FenceAction.STATUS, max(1.0, left_s))
            alive = await self._witness(order, seen)
            if not alive and _agree(seen) and _reached(order, seen):
                return _item(order, seen)
            left_s = deadline - asyncio.get_running_loop().time()
            if order.action is FenceAction.STATUS or left_s <= 0:
                return _item(order, seen, _why(order, seen, acted, alive))
            await asyncio.sleep(min(left_s, self._desk.timings.fence_poll_s))

    async def _all(
        self, order: FenceOrder, action: FenceAction, timeout_s: float
    ) -> dict[str, Told]:
        """Do one thing at all agents at once; return what came of it by the agents' names."""
        told = await asyncio.gather(
            *(self._power.run(agent, action, timeout_s) for agent in order.agents)
        )
        return {agent.name: one for agent, one in zip(order.agents, told, strict=True)}

    async def _witness(self, order: FenceOrder, seen: dict[str, Told]) -> str:
        """Return where the machine still answers though its agents say that it is off."""
        if not seen or any(one.state is not PowerState.OFF for one in seen.values()):
            return ""
        timeout_s = self._desk.timings.witness_timeout_s
        for address in order.witnesses:
            if await self._power.answers(address, timeout_s):
                return address
        return ""


def _agree(seen: dict[str, Told]) -> bool:
    states = {one.state for one in seen.values()}
    return len(states) == 1 and PowerState.UNKNOWN not in states


def _reached(order: FenceOrder, seen: dict[str, Told]) -> bool:
    wanted = _WANTED.get(order.action)
    return wanted is None or all(one.state is wanted for one in seen.values())


def _why(order: FenceOrder, seen: dict[str, Told], acted: dict[str, Told], alive: str) -> str:
    """Return why an order came to nothing certain, in words for people."""
    if alive:
        return f"The fence agents say that it is off, but it answers at {alive}."
    words = []
    for name, one in seen.items():
        word = f"{name} says {one.state}"
        if one.state is PowerState.UNKNOWN and one.detail:
            word += f" ({one.detail})"
        before = acted.get(name)
        if before is not None and not before.succeeded:
            word += f", and {order.action} failed ({before.detail})"
        words.append(word)
    return "; ".join(words)[:REASON_CHARACTERS_MAX] + "."


def _item(order: FenceOrder, seen: dict[str, Told], reason: str = "") -> FenceItem:
    state = PowerState.UNKNOWN
    if not reason:
        state = next(iter(seen.values())).state
    answers = tuple(
        AgentAnswer(agent=name, state=one.state, detail=one.detail) for name, one in seen.items()
    )
    return FenceItem(order=order.id, host=order.host, state=state, answers=answers, reason=reason)
