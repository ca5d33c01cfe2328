"""What is known of starts that failed on a host, and when they say something about the host.

As oVirt has it (NumberOfFailedRunsOnVds 3, TimeToReduceFailedRunOnVdsInMinutes 30), but that three
different VMs must fail: one broken VM must not take one host after the other out of use.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from events.envelope import Recorded
from events.types.base import Event
from events.types.host import HostActivated, HostSessionStarted
from events.types.host_failing import (
    HostFailing,
    HostRecovered,
    HostStartFailed,
    HostStartSucceeded,
)

VMS_MAX = 3
"""So many different VMs whose starts failed in a row put a host into error."""
WINDOW_S = 1_800.0
"""What failed longer ago does not count."""


class FailedStart(msgspec.Struct, frozen=True, kw_only=True):
    """A VM whose last start on the host failed, and when."""

    vm: str
    vm_name: str
    time: dt.datetime


class Failing(msgspec.Struct, frozen=True, kw_only=True):
    """The starts that failed since the last one that did not; `since` while the host is in error.

    `boot` is the host's boot, a new one of which begins anew.
    """

    starts: tuple[FailedStart, ...] = ()
    since: dt.datetime | None = None
    boot: str = ""


def evolve(state: Failing, recorded: Recorded) -> Failing:
    """Fold one event of a host's stream."""
    event = recorded.event
    match event:
        case HostStartFailed():
            others = tuple(each for each in state.starts if each.vm != event.vm)
            failed = FailedStart(vm=event.vm, vm_name=event.vm_name, time=recorded.time)
            kept = (*others, failed)[-VMS_MAX:]
            return msgspec.structs.replace(state, starts=kept)
        case HostFailing():
            return msgspec.structs.replace(state, since=recorded.time)
        case HostSessionStarted():
            return state if event.boot == state.boot else Failing(boot=event.boot)
        case HostStartSucceeded() | HostRecovered() | HostActivated():
            return Failing(boot=state.boot)
        case _:
            return state


def after_failure(
    state: Failing, name: str, vm: str, vm_name: str, now: dt.datetime
) -> tuple[Event, ...]:
    """Return what follows for a host from a start that failed there."""
    if state.since is not None:
        return ()
    earliest = now - dt.timedelta(seconds=WINDOW_S)
    before = {each.vm: each.vm_name for each in state.starts if each.time > earliest}
    failed = before | {vm: vm_name}
    event = HostStartFailed(name=name, vm=vm, vm_name=vm_name)
    if len(failed) < VMS_MAX:
        return (event,)
    failing = HostFailing(name=name, vms=tuple(failed), told=", ".join(failed.values()))
    return (event, failing)


def after_success(state: Failing, name: str) -> tuple[Event, ...]:
    """Return what follows for a host from a start that did not fail there."""
    return (HostStartSucceeded(name=name),) if state.starts and state.since is None else ()
