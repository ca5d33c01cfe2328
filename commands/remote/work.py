"""One order, carried out: its steps in their order, and what is done when one of them fails.

Whoever carries it out may die at any point, and another one begins anew: each step tests what is
there before it does anything, and what was told of it once is not told again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import msgspec
import structlog

from commands.remote.book import Book, SupersededError
from commands.remote.machine import LoginRefusedError, SshError
from commands.remote.steps import PLANS, Site, Step, Stopped
from commands.state.host import HostState
from commands.state.host_ssh import SshOrder
from events.log.port import OverloadedError, UnavailableError
from events.types import host_ssh as e
from events.types.base import Event

ATTEMPTS_MAX = 3
UNDO_ATTEMPTS_MAX = 5
RETRY_S = 2.0
CANCELLED = "It was cancelled."
log = structlog.get_logger(__name__)


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How the order ends."""

    succeeded: bool
    reason: str = ""
    cancelled: bool = False
    left: str = ""


class Work:
    """Carries one order out. `open_site` logs in to the machine, after it compared its key."""

    def __init__(
        self,
        book: Book,
        state: HostState,
        order: SshOrder,
        open_site: Callable[[], contextlib.AbstractAsyncContextManager[Site]],
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._book = book
        self._state = state
        self._order = order
        self._plan = PLANS[order.task]
        self._open_site = open_site
        self._retry_s = retry_s
        self._at = ""

    async def run(self) -> None:
        """Carry it out to its end; raises SupersededError, or what the log raises."""
        ending = await self._forward() if not self._order.undoing else None
        if ending is None:
            ending = await self._backward()
        await self._book.write(lambda state, order: _ended(state, order, ending))

    async def _forward(self) -> Ending | None:
        """Take all steps; None where what was done is to be undone."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                await self._steps()
            except Stopped:
                await self._give_up(self._at, CANCELLED, cancelled=True)
                return None
            except SshError as error:
                if error.lost and attempt < ATTEMPTS_MAX:
                    await asyncio.sleep(self._retry_s * 2**attempt)
                    continue
                if self._has_left(error):
                    return Ending(succeeded=True)
                if not self._plan.undoes:
                    return Ending(succeeded=False, reason=str(error))
                await self._give_up(self._at, str(error))
                return None
            else:
                return Ending(succeeded=True)
        raise AssertionError("the last attempt returns")

    def _has_left(self, error: SshError) -> bool:
        """Tell whether we are let in no more because that was the last thing to be done."""
        keyless = self._order.password is None and isinstance(error, LoginRefusedError)
        last = self._plan.steps[-1].name
        begun = {*self._order.done, self._order.running}
        return keyless and self._plan.leaves and last in begun

    async def _steps(self) -> None:
        first, *others = self._plan.steps
        await self._begin(first)
        with _failing_visibly():
            async with self._open_site() as site:
                await self._done(first, site.greeting)
                for step in others:
                    await self._begin(step)
                    text = await step.do(site)
                    await self._done(step, text)

    async def _begin(self, step: Step) -> None:
        """Say that a step begins, unless that was said; raises Stopped where it is cancelled."""
        self._at = step.name

        def begins(state: HostState, order: SshOrder) -> Event | None:
            if order.cancel_requested and self._plan.undoes:
                raise Stopped
            if step.name in order.done or order.running == step.name:
                return None
            return _step(state, order, step.name, step.begins)

        await self._book.write(begins)

    async def _done(self, step: Step, text: str) -> None:
        def done(state: HostState, order: SshOrder) -> Event | None:
            if step.name in order.done:
                return None
            return _step(state, order, step.name, text, done=True)

        self._state = await self._book.write(done)

    async def _give_up(self, step: str, reason: str, *, cancelled: bool = False) -> None:
        def gives_up(state: HostState, order: SshOrder) -> Event | None:
            return e.HostSshUndoStarted(
                name=state.name, order=order.order, step=step, reason=reason, cancelled=cancelled
            )

        await self._book.write(gives_up)

    async def _backward(self) -> Ending:
        """Undo everything, the newest first; what cannot be undone is said."""
        order = _order(await self._book.state())
        cancelled = order.failure == CANCELLED
        ending = Ending(succeeded=False, reason=order.failure, cancelled=cancelled)
        # A step that a former attempt, or engine, was in the midst of has left its half there, also
        # where it is another step that failed since.
        begun = {*order.done, order.failed_step, order.unfinished} - {""}
        todo = [
            step
            for step in reversed(self._plan.steps)
            if step.undo is not None and step.name in begun and step.name not in order.undone
        ]
        if begun <= {self._plan.steps[0].name}:  # the machine never saw anything of it
            return ending
        for attempt in range(1, UNDO_ATTEMPTS_MAX + 1):
            try:
                await self._undo(todo)
            except SshError as error:
                log.warning("an undo failed", order=order.order, reason=str(error))
                if attempt == UNDO_ATTEMPTS_MAX:
                    left = f"What was done could not be taken back: {error}"
                    return msgspec.structs.replace(ending, left=left)
                await asyncio.sleep(self._retry_s * 2**attempt)
            else:
                return ending
        raise AssertionError("the last attempt returns")

    async def _undo(self, todo: list[Step]) -> None:
        with _failing_visibly():
            async with self._open_site() as site:
                for step in todo:
                    if step.undo is None:
                        continue
                    text = await step.undo(site)
                    await self._undone(step, text)
                await site.forget()

    async def _undone(self, step: Step, text: str) -> None:
        def undone(state: HostState, order: SshOrder) -> Event | None:
            if step.name in order.undone:
                return None
            return _step(state, order, step.name, text, done=True, undo=True)

        await self._book.write(undone)


@contextlib.contextmanager
def _failing_visibly() -> Iterator[None]:
    """Make of what nobody foresaw a failure that people see, instead of trying it for ever."""
    try:
        yield
    except (SshError, Stopped, SupersededError, UnavailableError, OverloadedError, TimeoutError):
        raise
    except Exception as error:
        log.exception("a step failed unexpectedly")
        raise SshError(f"The engine failed at it: {type(error).__name__}: {error}") from error


def _step(
    state: HostState,
    order: SshOrder,
    step: str,
    text: str,
    *,
    done: bool = False,
    undo: bool = False,
) -> e.HostSshStep:
    return e.HostSshStep(
        name=state.name, order=order.order, step=step, text=text, done=done, undo=undo
    )


def _ended(state: HostState, order: SshOrder, ending: Ending) -> e.HostSshEnded:
    return e.HostSshEnded(
        name=state.name,
        order=order.order,
        task=order.task,
        succeeded=ending.succeeded,
        reason=ending.reason,
        cancelled=ending.cancelled,
        left=ending.left,
    )


def _order(state: HostState) -> SshOrder:
    if state.ssh.order is None:
        raise AssertionError("the book gives open orders only")
    return state.ssh.order
