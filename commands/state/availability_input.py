"""What admins say of restarting a VM, and the events that follow from it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.refusal import WrongState
from commands.state.vm_availability import PRIORITY_MAX, Availability
from commands.state.vm_hosts import HostChoice
from events.types.base import Event
from events.types.migration import MigrationMode
from events.types.vm_availability import VmHighAvailabilityChanged, VmStartWithHostChanged

Priority = Annotated[
    int,
    msgspec.Meta(ge=1, le=PRIORITY_MAX, description="1 to 100; the highest goes first."),
]
Delay = Annotated[
    float,
    msgspec.Meta(ge=0, le=86_400, description="Seconds from the host's return to the start."),
]


class HighAvailabilityInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the VM is restarted when it or its host fails, and in which order."""

    enabled: bool = True
    priority: Priority = 1


class StartWithHostInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the VM starts when its host is back after a boot, in which order, how much later."""

    enabled: bool = True
    priority: Priority = 1
    delay_s: Delay = 0.0


def require_restartable(name: str, choice: HostChoice) -> None:
    """Raise WrongState where a highly available VM could run on one host only, as in oVirt."""
    if choice.pinned and len(choice.hosts) == 1:
        raise WrongState(
            f"VM {name} cannot be highly available and pinned to host {choice.hosts[0].name}: if"
            " that host is lost, no other may take it.",
            remedy="Pin it to several hosts or to none ('vm choose-hosts'), or let it not be highly"
            " available.",
        )


def require_movable(name: str, mode: MigrationMode) -> None:
    """Raise WrongState where a highly available VM may never be migrated, as in oVirt."""
    if mode is MigrationMode.NONE:
        raise WrongState(
            f"VM {name} cannot be highly available and have migration mode none: it is to be kept"
            " running, and would have to be shut down for maintenance of its host.",
            remedy="Let it have mode manual ('vm migration'), with which people alone migrate it,"
            " or let it not be highly available.",
        )


def high_availability(
    name: str, now: Availability, *, enabled: bool, priority: int | None, tied_to: str = ""
) -> tuple[Event, ...]:
    """Return the event of a change; none where nothing differs."""
    changed = VmHighAvailabilityChanged(
        name=name,
        enabled=enabled,
        priority=now.priority if priority is None else priority,
        tied_to=tied_to if enabled else "",
    )
    same = (changed.enabled, changed.priority) == (now.highly_available, now.priority)
    return () if same else (changed,)


def start_with_host(
    name: str,
    now: Availability,
    *,
    enabled: bool,
    priority: int | None,
    delay_s: float | None,
) -> tuple[Event, ...]:
    """Return the event of a change; none where nothing differs."""
    wanted = now.start_with_host
    changed = VmStartWithHostChanged(
        name=name,
        enabled=enabled,
        priority=wanted.priority if priority is None else priority,
        delay_s=wanted.delay_s if delay_s is None else delay_s,
    )
    before = (wanted.enabled, wanted.priority, wanted.delay_s)
    return () if (changed.enabled, changed.priority, changed.delay_s) == before else (changed,)


def of_new(
    name: str, available: HighAvailabilityInput | None, with_host: StartWithHostInput | None
) -> tuple[Event, ...]:
    """Return the events of a VM that is being created."""
    events: tuple[Event, ...] = ()
    now = Availability()
    if available is not None:
        events += high_availability(
            name, now, enabled=available.enabled, priority=available.priority
        )
    if with_host is not None:
        events += start_with_host(
            name,
            now,
            enabled=with_host.enabled,
            priority=with_host.priority,
            delay_s=with_host.delay_s,
        )
    return events
