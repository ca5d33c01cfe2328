"""What the inventory shows of a host's power."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from events.envelope import Recorded
from events.types import host_power as e
from events.types.base import Event
from events.types.host_boot import HostBootOverdue
from projections.views.parts import Time

BEING_FENCED = (
    "It is being fenced; the operation shows how far that is. Once it is verified to be off, its"
    " VMs are known to be down."
)
"""What happens next to a host that is silent, and looked after."""
NOT_YET_FENCED = (
    " It has power management: it is fenced by itself once its silence has settled, unless too many"
    " hosts of its cluster are lost at once (the cluster shows `fencing_held`), or somebody"
    " cancelled that."
)
"""What happens next to a host that is silent, and not looked after yet."""


class FenceAgentDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A fence agent; its password is never shown, only whether there is one."""

    name: str
    type: str
    address: str
    port: int | None = None
    username: str = ""
    password_set: bool = False
    options: tuple[e.FenceOption, ...] = ()
    order: int = 1


class PowerDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A host's power management.

    `state` is what its agents said last, at `state_at`, and why it is unknown. `fenced_off`: it was
    turned off, which was verified, and it has not been heard since. It was turned on at
    `turned_on_at`, and has not been heard since either; `boot_overdue`: it takes too long.
    """

    enabled: bool = False
    kdump_detection: bool = False
    proxies: tuple[e.ProxyScope, ...] = (e.ProxyScope.CLUSTER, e.ProxyScope.DATA_CENTER)
    agents: tuple[FenceAgentDocument, ...] = ()
    state: e.PowerState | None = None
    state_at: Time | None = None
    state_reason: str = ""
    kdumping: bool = False
    fenced_off: bool = False
    turned_on_at: Time | None = None
    boot_overdue: bool = False


def heard(power: PowerDocument) -> PowerDocument:
    """Return what is shown once the host says hello."""
    if power.kdumping:
        power = msgspec.structs.replace(power, kdumping=False)
    return unswitched(power)


def unswitched(power: PowerDocument, *, fenced_off: bool = False) -> PowerDocument:
    """Return what is shown where no boot is waited for any more."""
    if (power.fenced_off, power.turned_on_at) == (fenced_off, None):
        return power
    return msgspec.structs.replace(
        power, fenced_off=fenced_off, turned_on_at=None, boot_overdue=False
    )


def _configured(
    power: PowerDocument, event: e.HostPowerConfigured, recorded: Recorded
) -> PowerDocument:
    return msgspec.structs.replace(
        power,
        enabled=event.enabled,
        kdump_detection=event.kdump_detection,
        proxies=event.proxies,
    )


def _agent_set(
    power: PowerDocument, event: e.HostFenceAgentSet, recorded: Recorded
) -> PowerDocument:
    agent = event.agent
    shown = FenceAgentDocument(
        name=agent.name,
        type=agent.type,
        address=agent.address,
        port=agent.port,
        username=agent.username,
        password_set=bool(agent.password),
        options=agent.options,
        order=agent.order,
    )
    others = (each for each in power.agents if each.name != agent.name)
    agents = sorted((*others, shown), key=lambda each: (each.order, each.name))
    return msgspec.structs.replace(power, agents=tuple(agents))


def _agent_removed(
    power: PowerDocument, event: e.HostFenceAgentRemoved, recorded: Recorded
) -> PowerDocument:
    agents = tuple(each for each in power.agents if each.name != event.agent)
    return msgspec.structs.replace(power, agents=agents)


def _answered(
    power: PowerDocument, event: e.HostFenceAnswered, recorded: Recorded
) -> PowerDocument:
    return msgspec.structs.replace(
        power, state=event.state, state_at=recorded.time, state_reason=event.reason
    )


def _fenced_off(power: PowerDocument, event: e.HostFencedOff, recorded: Recorded) -> PowerDocument:
    return unswitched(power, fenced_off=True)


def _fenced_on(power: PowerDocument, event: e.HostFencedOn, recorded: Recorded) -> PowerDocument:
    return msgspec.structs.replace(power, turned_on_at=recorded.time, boot_overdue=False)


def _boot_overdue(
    power: PowerDocument, event: HostBootOverdue, recorded: Recorded
) -> PowerDocument:
    return msgspec.structs.replace(power, boot_overdue=power.turned_on_at is not None)


def _kdump_started(
    power: PowerDocument, event: e.HostKdumpStarted, recorded: Recorded
) -> PowerDocument:
    return msgspec.structs.replace(power, kdumping=True)


def _kdump_ended(
    power: PowerDocument, event: e.HostKdumpEnded, recorded: Recorded
) -> PowerDocument:
    return msgspec.structs.replace(power, kdumping=False)


CHANGES: dict[type[Event], Callable[[PowerDocument, Any, Recorded], PowerDocument]] = {
    e.HostPowerConfigured: _configured,
    e.HostFenceAgentSet: _agent_set,
    e.HostFenceAgentRemoved: _agent_removed,
    e.HostFenceAnswered: _answered,
    e.HostFencedOff: _fenced_off,
    e.HostFencedOn: _fenced_on,
    HostBootOverdue: _boot_overdue,
    e.HostKdumpStarted: _kdump_started,
    e.HostKdumpEnded: _kdump_ended,
}
IGNORED: frozenset[type[Event]] = frozenset(
    {
        e.HostFencingBegun,
        e.HostSilenceQuestioned,
        e.HostSilenceConfirmed,
        e.HostFenceOrdered,
        e.HostFenceWithdrawn,
        e.HostFenceFailed,
    }
)
"""What is tried, and how it goes, shows in the operation."""
