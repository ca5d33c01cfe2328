"""What a VM's state says of the hosts that it may run on."""

from __future__ import annotations

import msgspec

from events.types.affinity import Member
from events.types.base import Event
from events.types.vm_hosts import VmHostsChosen


class HostChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts that were chosen for a VM: the only ones (`pinned`), or those preferred."""

    hosts: tuple[Member, ...] = ()
    pinned: bool = False


def after(state: HostChoice, event: Event) -> HostChoice:
    """Return what follows from an event of the VM's stream."""
    if isinstance(event, VmHostsChosen):
        return HostChoice(hosts=event.hosts, pinned=event.pinned)
    return state
