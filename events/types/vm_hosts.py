"""Events of where a VM may run: on its own stream `vm/<id>`. They count at once."""

from __future__ import annotations

from typing import ClassVar

from events.types.affinity import Member
from events.types.base import Audit, Event, event


@event("vm.hosts_chosen")
class VmHostsChosen(Event, frozen=True, kw_only=True):
    """The VM is to run on these hosts: on no others (`pinned`), or there if it can.

    With no hosts, it may run on any.
    """

    name: str
    hosts: tuple[Member, ...] = ()
    pinned: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_152,
            name="VM_HOSTS_CHOSEN",
            message="{actor} chose the hosts that VM {name} may run on, or is to run on.",
        ),
    )
