"""Trying fence agents through proxies, one order after the other, until one came to its end.

Groups of concurrent agents are tried in their order, each through up to `PROXIES_MAX` hosts. What
was tried is read off the host's state, so that whoever takes over goes on where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from commands.policies.saga import Scene
from commands.state.host import HOST, HostState, HostStatus
from commands.state.host_power import FenceTry
from commands.state.operation import StepState
from events.envelope import NewEvent
from events.types import operation as e
from events.types.host_power import (
    FenceAction,
    FenceAgent,
    FenceOrder,
    HostFencedOff,
    HostFencedOn,
    HostFenceOrdered,
    HostFenceWithdrawn,
    PowerState,
    ProxyScope,
)

PROXIES_MAX = 2
TIMER = "answer"
TAKEN_BACK = "the order is taken back; what it did is not known"
"""What undoes the step of an order."""
Group = Sequence[FenceAgent]


class Exhausted(msgspec.Struct, frozen=True):
    """Every group and proxy was tried in vain; the reason says what each said."""

    reason: str

    @property
    def sentence(self) -> str:
        """The reason as a sentence of its own."""
        return f"{self.reason[:1].upper()}{self.reason[1:]}."


def tries(scene: Scene, host: HostState, step: str) -> list[FenceTry]:
    """Return what this round of an operation's step has tried, in order."""
    begins = f"{scene.operation.id}/{step}/"
    round_ = scene.operation.attempts.get(step, 1)
    return [
        each
        for each in host.power.tries
        if each.order.id.startswith(begins) and each.round == round_
    ]


def reached(scene: Scene, host: HostState, step: str) -> FenceTry | None:
    """Return the try that came to what it was for, None while none has."""
    mine = tries(scene, host, step)
    return mine[-1] if mine and mine[-1].reached else None


def waits(scene: Scene, host: HostState, step: str) -> tuple[NewEvent, ...] | None:
    """Return what to do about an open order: nothing, or take it back when its time is up.

    None where no order is open.
    """
    mine = tries(scene, host, step)
    if not mine or not mine[-1].open:
        return None
    if TIMER not in scene.operation.fired:
        return ()
    return withdraw(scene, host, mine[-1], f"host {mine[-1].proxy_name} did not answer in time")


def spoke_since(scene: Scene, host: HostState, step: str) -> bool:
    """Tell whether the host has said hello since this step's last order: then it is on."""
    mine = tries(scene, host, step)
    return bool(mine) and mine[-1].outdated


def withdraw(scene: Scene, host: HostState, each: FenceTry, reason: str) -> tuple[NewEvent, ...]:
    """Take an order back; what it did meanwhile is not known."""
    withdrawn = HostFenceWithdrawn(
        name=host.name, order=each.order.id, proxy=each.proxy, reason=reason
    )
    return scene.target(withdrawn, addressee=each.proxy)


def withdraw_all(scene: Scene, host: HostState, reason: str) -> tuple[NewEvent, ...]:
    """Take back what is open of an operation's orders."""
    return tuple(
        event
        for each in host.power.tries
        if each.open and each.order.id.startswith(f"{scene.operation.id}/")
        for event in withdraw(scene, host, each, reason)
    )


def order(
    scene: Scene, host: HostState, step: str, action: FenceAction, groups: Sequence[Group]
) -> tuple[NewEvent, ...] | Exhausted:
    """Return the next order; Exhausted where there is nothing left to try in this round."""
    mine = tries(scene, host, step)
    missing: list[str] = []
    for group in groups:
        tried = {
            each.proxy for each in mine if each.order.agents == tuple(group) and not each.outdated
        }
        if len(tried) >= PROXIES_MAX:
            continue
        proxy = next((each for each in proxies(scene, host, group) if each.id not in tried), None)
        if proxy is not None:
            return _order(scene, host, step, action, group, proxy)
        if not tried:
            programs = ", ".join(sorted({f"fence_{agent.type}" for agent in group}))
            missing.append(f"no other host that is up can run {programs}")
    said = [f"through host {each.proxy_name}: {_said(each)}" for each in mine]
    return Exhausted("; ".join((*said, *missing)) or "there is no fence agent")


def move(
    scene: Scene, host: HostState, step: str, action: FenceAction, groups: Sequence[Group]
) -> tuple[NewEvent, ...] | Exhausted:
    """Return how a step's orders go on: by waiting, by beginning, or by the next order."""
    waiting = waits(scene, host, step)
    if waiting is not None:
        return waiting
    if scene.is_(step, StepState.PENDING):
        return scene.own(scene.started(step))
    return order(scene, host, step, action, groups)


def proxies(scene: Scene, host: HostState, group: Group) -> Iterator[HostState]:
    """Yield the hosts that could carry an order out, the first choice first.

    Each host has others as its first choice, so that not one is asked for all.
    """
    kinds = {agent.type for agent in group}
    able = [
        each
        for each in scene.hosts.values()
        if each.id != host.id
        and each.status is HostStatus.UP
        and each.capabilities is not None
        and kinds <= set(each.capabilities.fence_agents)
    ]
    able.sort(key=lambda each: (each.id < host.id, each.id))
    for scope in host.power.proxies:
        for each in able:
            near = each.cluster == host.cluster
            beyond = each.data_center == host.data_center and not near
            if near if scope is ProxyScope.CLUSTER else beyond:
                yield each


def clear(scene: Scene, timer: str = TIMER) -> tuple[NewEvent, ...]:
    """Clear a timer, if it is set."""
    if timer not in scene.operation.timers:
        return ()
    return scene.own(e.OperationTimerCleared(timer=timer, input=scene.input))


def _order(
    scene: Scene,
    host: HostState,
    step: str,
    action: FenceAction,
    group: Group,
    proxy: HostState,
) -> tuple[NewEvent, ...]:
    scene.world.get(HOST, proxy.id)  # the append fails where it was lost meanwhile
    rules = scene.timeouts.fencing
    timeout_s = {
        FenceAction.STATUS: rules.status_timeout_s,
        FenceAction.OFF: rules.off_timeout_s,
        FenceAction.ON: rules.on_timeout_s,
    }[action]
    ordered = HostFenceOrdered(
        name=host.name,
        order=FenceOrder(
            id=f"{scene.operation.id}/{step}/{scene.input}",
            host=host.id,
            action=action,
            agents=tuple(group),
            timeout_s=timeout_s,
            witnesses=_witnesses(host),
        ),
        proxy=proxy.id,
        proxy_name=proxy.name,
        round=scene.operation.attempts.get(step, 1),
    )
    timer = scene.own(scene.timer(TIMER, timeout_s + rules.margin_s))
    return (*scene.target(ordered, addressee=proxy.id), *timer)


def _witnesses(host: HostState) -> tuple[str, ...]:
    """Return where the host's own agent listens: while something answers there, it is not off."""
    able = host.capabilities
    return (able.migration_address,) if able is not None and able.migration_address else ()


def turned_off(host: HostState, won: FenceTry, *, automatic: bool = True) -> HostFencedOff:
    """Return the event that a host was turned off, or found to be off."""
    return HostFencedOff(
        name=host.name,
        order=won.order.id,
        proxy_name=won.proxy_name,
        agents=tuple(agent.name for agent in won.order.agents),
        automatic=automatic,
        found=won.order.action is FenceAction.STATUS,
    )


def turned_on(host: HostState, won: FenceTry) -> HostFencedOn:
    """Return the event that a host was turned on."""
    return HostFencedOn(name=host.name, order=won.order.id, proxy_name=won.proxy_name)


def says(won: FenceTry) -> str:
    """Return what the fence agents of an order say, that has come to what it was for."""
    names = ", ".join(agent.name for agent in won.order.agents)
    return f"{names} through host {won.proxy_name}: its power is {won.state}."


def _said(each: FenceTry) -> str:
    if each.withdrawn:
        return "no answer in time"
    if each.reason:
        return each.reason.rstrip(".")
    state = each.state or PowerState.UNKNOWN
    return f"its power is {state}"
