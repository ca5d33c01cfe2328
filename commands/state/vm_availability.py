"""What a VM's state says of starting it again: what was asked for, and how its last run ended.

A requested stop wins: a run that somebody asked to end counts as stopped however it ended, even if
its host died meanwhile (contract D 4).
"""

from __future__ import annotations

import datetime as dt

import msgspec

from events.envelope import Recorded
from events.types import vm as e
from events.types import vm_availability as a
from events.types.vm_migration import VmMigrationDeparted
from events.types.vm_power import VmSuspended

PRIORITY_MAX = 100
RESTART_KINDS = {
    a.RestartCause.HIGH_AVAILABILITY: "vm.restart",
    a.RestartCause.START_WITH_HOST: "vm.start_with_host",
}
"""Operations that start VMs by themselves; a start by hand takes the place of one that waits."""


class StartWithHost(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the VM starts when its host is back after a boot; set at position `since`."""

    enabled: bool = False
    priority: int = 1
    delay_s: float = 0.0
    since: int = 0


class Availability(msgspec.Struct, frozen=True, kw_only=True):
    """What the policies that start VMs go by.

    `fell` is the position at which it last went down without anybody's having asked for it, or at
    which a restart of it failed, at the time `fell_at`; 0 once it runs again, or is not wanted any
    more. `stopped`: somebody asked for the end of its last run, or called its start off. `host` is
    where it last ran, from position `placed` to `ended`. `attempts` counts restarts in a row.
    """

    highly_available: bool = False
    priority: int = 1
    start_with_host: StartWithHost = StartWithHost()
    fell: int = 0
    fell_at: dt.datetime | None = None
    reason: e.DownReason | None = None
    attempts: int = 0
    not_before: dt.datetime | None = None
    up_at: dt.datetime | None = None
    stopped: bool = False
    host: str | None = None
    host_name: str = ""
    placed: int = 0
    ended: int = 0


def after(state: Availability, recorded: Recorded, *, asked: bool) -> Availability:
    """Return what follows from an event; `asked`: the end of the run was asked for before it."""
    found = _of_settings(state, recorded) or _of_run(state, recorded)
    return found or _of_end(state, recorded, asked=asked) or state


def _of_settings(state: Availability, recorded: Recorded) -> Availability | None:
    event, change = recorded.event, msgspec.structs.replace
    match event:
        case a.VmHighAvailabilityChanged():
            # What lies there since before was not to be started by itself, and is not now either.
            fell = state.fell if state.highly_available else 0
            return change(state, highly_available=event.enabled, priority=event.priority, fell=fell)
        case a.VmStartWithHostChanged():
            wanted = StartWithHost(
                enabled=event.enabled,
                priority=event.priority,
                delay_s=event.delay_s,
                since=recorded.position,
            )
            return change(state, start_with_host=wanted)
        case a.VmRestartDecided():
            return change(state, attempts=event.attempt, not_before=event.not_before)
        case _:
            return None


def _of_run(state: Availability, recorded: Recorded) -> Availability | None:
    event, change = recorded.event, msgspec.structs.replace
    match event:
        case e.VmStartRequested():
            return change(state, stopped=False)
        case e.VmPlaced() | e.VmAdopted():
            return change(
                state,
                host=event.host,
                host_name=event.host_name,
                placed=recorded.position,
                up_at=None,
            )
        case VmMigrationDeparted():
            return change(
                state,
                host=event.destination,
                host_name=event.destination_name,
                placed=recorded.position,
            )
        case e.VmStarted():
            return change(state, fell=0)
        case e.VmUp():
            return change(state, fell=0, up_at=recorded.time)
        case _:
            return None


def _of_end(state: Availability, recorded: Recorded, *, asked: bool) -> Availability | None:
    event, change = recorded.event, msgspec.structs.replace
    match event:
        case e.VmDown():
            return _down(state, event, recorded, asked=asked)
        case VmSuspended():
            return change(state, fell=0, stopped=True, ended=recorded.position)
        case e.VmStartWithdrawn(cancelled=True):
            return change(state, stopped=True)
        case e.VmStartAbandoned():
            if event.cancelled:
                return change(state, fell=0, stopped=True)
            if state.fell:
                return change(state, fell=recorded.position, fell_at=recorded.time)
            return None
        case _:
            return None


def _down(state: Availability, event: e.VmDown, recorded: Recorded, *, asked: bool) -> Availability:
    change, ended = msgspec.structs.replace, recorded.position
    if asked or state.stopped or event.reason is e.DownReason.ADMIN:
        return change(state, fell=0, stopped=True, ended=ended)
    if event.reason in a.FELL:
        return change(state, fell=ended, fell_at=recorded.time, reason=event.reason, ended=ended)
    if event.reason is e.DownReason.GUEST:
        return change(state, fell=0, ended=ended)
    return change(state, ended=ended)
