"""Whether the highly available VMs of a host would fit on the others if it failed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from commands.scheduler.fleet import Fleet, Share, share_at
from commands.scheduler.need import need_of
from commands.state.cluster import ClusterState
from commands.state.vm import VmState


def stranded(fleet: Fleet, cluster: ClusterState, vms: Sequence[VmState]) -> VmState | None:
    """Return the first of a host's VMs for which no other host would be left; None where all fit.

    They are placed one after the other, those with the highest priority first, each taking its
    room; the fleet is as before afterwards.
    """
    placed: list[tuple[str, str, Share]] = []
    try:
        for vm in sorted(vms, key=lambda each: (-each.availability.priority, each.name, each.id)):
            need = msgspec.structs.replace(need_of(vm, cluster), falls=True)
            choice = fleet.choose(need)
            host = choice.host
            if host is None:
                return vm
            placed.append((vm.id, host.id, share_at(vm, choice.dedicated)))
            fleet.take(host.id, placed[-1][2])
            fleet.expect(vm.id, host.id)
    finally:
        for vm_id, host_id, share in placed:
            fleet.take(host_id, share, -1)
            fleet.expect(vm_id, None)
    return None
