"""What is known of a host's maintenance: what was asked for, and how it began."""

from __future__ import annotations

import datetime as dt

import msgspec

from events.envelope import Recorded
from events.types import host as h
from events.types.host_maintenance import HostEvacuationBegun, VmsThatStay


class Maintenance(msgspec.Struct, frozen=True, kw_only=True):
    """The last maintenance that was asked for, at `position`, by `operation`.

    `vms_total` are the VMs that had to leave when it began, None before that.
    """

    operation: str = ""
    position: int = 0
    vms_that_stay: VmsThatStay = VmsThatStay.WAIT
    deadline: dt.datetime | None = None
    vms_total: int | None = None


def evolve(state: Maintenance, recorded: Recorded) -> Maintenance:
    """Fold one event of a host's stream."""
    event = recorded.event
    if isinstance(event, h.HostMaintenanceRequested):
        return Maintenance(
            operation=recorded.correlation or "",
            position=recorded.position,
            vms_that_stay=event.vms_that_stay,
            deadline=event.deadline,
        )
    if isinstance(event, HostEvacuationBegun):
        return msgspec.structs.replace(state, vms_total=event.vms)
    return state
