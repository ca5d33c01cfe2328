"""What is known of a host's power: its fence agents, its silence, and what was tried."""

from __future__ import annotations

import datetime as dt

import msgspec

from events.envelope import Recorded
from events.types import host as h
from events.types import host_power as e
from events.types.host_boot import HostBootOverdue
from events.types.host_power import FenceAction, FenceAgent, FenceOrder, PowerState, ProxyScope

TRIES_MAX = 24
"""How many tries are remembered of a host; an operation looks at those of its own."""


class FenceTry(msgspec.Struct, frozen=True, kw_only=True):
    """One order, and what came of it.

    `state` is None while it is not answered. `position` is that of the order. A try that was
    `withdrawn` counts for nothing, whatever it may have done; nor does one that is `outdated`: the
    host has said hello since, so that an answer may speak of the time before.
    """

    order: FenceOrder
    proxy: str
    proxy_name: str
    round: int
    position: int
    ordered_at: dt.datetime
    state: PowerState | None = None
    reason: str = ""
    withdrawn: bool = False
    outdated: bool = False

    @property
    def open(self) -> bool:
        """Whether the proxy is still to answer."""
        return self.state is None and not (self.withdrawn or self.outdated)

    @property
    def reached(self) -> bool:
        """Whether the order came to what it was for."""
        if self.withdrawn or self.outdated or self.state in {None, PowerState.UNKNOWN}:
            return False
        wanted = {FenceAction.OFF: PowerState.OFF, FenceAction.ON: PowerState.ON}
        return self.state is wanted.get(self.order.action, self.state)


class HostPower(msgspec.Struct, frozen=True, kw_only=True):
    """A host's power management.

    While the host is silent, `silent_at` is the position at which it was found so (0 while it is
    heard), and `fencing` the operation that looks after it. `questioned` and `confirmed` are the
    positions at which its silence was last asked after, and confirmed at `confirmed_at`. It was
    last turned off or on, or found to be off, at `switched_at`. It was turned on at `turned_on_at`,
    and neither said hello nor was proved off since; `boot_overdue`: it takes too long.
    """

    enabled: bool = False
    kdump_detection: bool = False
    proxies: tuple[ProxyScope, ...] = (ProxyScope.CLUSTER, ProxyScope.DATA_CENTER)
    agents: tuple[FenceAgent, ...] = ()
    kdumping: bool = False
    kdumped: bool = False
    silent_at: int = 0
    silent_since: dt.datetime | None = None
    fencing: str | None = None
    questioned: int = 0
    confirmed: int = 0
    confirmed_at: dt.datetime | None = None
    switched_at: dt.datetime | None = None
    turned_on_at: dt.datetime | None = None
    boot_overdue: bool = False
    tries: tuple[FenceTry, ...] = ()

    def agent(self, name: str) -> FenceAgent | None:
        """Return the fence agent of a name."""
        return next((agent for agent in self.agents if agent.name == name), None)

    def groups(self) -> tuple[tuple[FenceAgent, ...], ...]:
        """Return the agents in their order; those of one order together."""
        orders = sorted({agent.order for agent in self.agents})
        return tuple(
            tuple(agent for agent in self.agents if agent.order == order) for order in orders
        )

    def find(self, order: str) -> FenceTry | None:
        """Return what is known of an order."""
        return next((each for each in self.tries if each.order.id == order), None)


def evolve(state: HostPower, recorded: Recorded) -> HostPower:
    """Fold one event of a host's stream."""
    event, change = recorded.event, msgspec.structs.replace
    match event:
        case e.HostPowerConfigured():
            return change(
                state,
                enabled=event.enabled,
                kdump_detection=event.kdump_detection,
                proxies=event.proxies,
            )
        case e.HostFenceAgentSet():
            others = tuple(agent for agent in state.agents if agent.name != event.agent.name)
            return change(state, agents=(*others, event.agent))
        case e.HostFenceAgentRemoved():
            left = tuple(agent for agent in state.agents if agent.name != event.agent)
            return change(state, agents=left)
        case e.HostFenceOrdered() | e.HostFenceAnswered() | e.HostFenceWithdrawn():
            return _evolve_tries(state, recorded)
        case e.HostFencedOff() | e.HostFencedOn() | h.HostConfirmedOff() | HostBootOverdue():
            return _evolve_switch(state, recorded)
        case _:
            return _evolve_silence(state, recorded)


def _evolve_switch(state: HostPower, recorded: Recorded) -> HostPower:
    event, change = recorded.event, msgspec.structs.replace
    match event:
        case HostBootOverdue():
            return change(state, boot_overdue=state.turned_on_at is not None)
        case h.HostConfirmedOff():
            return change(state, turned_on_at=None, boot_overdue=False)
        case e.HostFencedOn():
            time = recorded.time
            return change(state, switched_at=time, turned_on_at=time, boot_overdue=False)
        case _:
            return change(state, switched_at=recorded.time, turned_on_at=None, boot_overdue=False)


def _evolve_silence(state: HostPower, recorded: Recorded) -> HostPower:
    event, change = recorded.event, msgspec.structs.replace
    match event:
        case h.HostSilent() if not state.silent_at:
            return change(
                state,
                silent_at=recorded.position,
                silent_since=recorded.time,
                fencing=None,
                questioned=0,
                confirmed=0,
            )
        case h.HostSessionStarted():
            return _heard(state)
        case e.HostFencingBegun():
            return change(state, fencing=event.operation)
        case e.HostSilenceQuestioned():
            return change(state, questioned=recorded.position)
        case e.HostSilenceConfirmed():
            return change(state, confirmed=recorded.position, confirmed_at=recorded.time)
        case e.HostKdumpStarted():
            return change(state, kdumping=True, kdumped=True)
        case e.HostKdumpEnded():
            return change(state, kdumping=False)
        case _:
            return state


def _heard(state: HostPower) -> HostPower:
    return msgspec.structs.replace(
        state,
        kdumping=False,
        kdumped=False,
        silent_at=0,
        silent_since=None,
        fencing=None,
        questioned=0,
        confirmed=0,
        confirmed_at=None,
        turned_on_at=None,
        boot_overdue=False,
        tries=tuple(msgspec.structs.replace(each, outdated=True) for each in state.tries),
    )


def _evolve_tries(state: HostPower, recorded: Recorded) -> HostPower:
    event, change = recorded.event, msgspec.structs.replace
    if isinstance(event, e.HostFenceOrdered):
        new = FenceTry(
            order=event.order,
            proxy=event.proxy,
            proxy_name=event.proxy_name,
            round=event.round,
            position=recorded.position,
            ordered_at=recorded.time,
        )
        return change(state, tries=(*state.tries, new)[-TRIES_MAX:])
    tries = list(state.tries)
    for number, each in enumerate(tries):
        if not each.open or each.order.id != getattr(event, "order", None):
            continue
        if isinstance(event, e.HostFenceAnswered):
            tries[number] = change(each, state=event.state, reason=event.reason)
        elif isinstance(event, e.HostFenceWithdrawn):
            tries[number] = change(each, withdrawn=True, reason=event.reason)
    return change(state, tries=tuple(tries))
