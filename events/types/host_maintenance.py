"""What is said of a host's maintenance, beyond its begin and its end (those are in `host`)."""

from __future__ import annotations

import enum
from typing import ClassVar

from events.types.base import Audit, Event, event


class VmsThatStay(enum.StrEnum):
    """What is done with VMs that cannot be moved off a host that goes into maintenance."""

    WAIT = "wait"  # nothing: somebody sees to them
    SHUT_DOWN = "shut_down"  # those that are bound to the host are asked to shut down
    POWER_OFF = "power_off"  # as shut_down; what is left at the deadline is powered off


@event("host.evacuation_begun")
class HostEvacuationBegun(Event, frozen=True, kw_only=True):
    """So many VMs are to leave the host before it is in maintenance."""

    name: str
    vms: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_500,
            name="HOST_EVACUATION_BEGUN",
            message="{vms} VMs are to leave host {name}, which goes into maintenance.",
        ),
    )
