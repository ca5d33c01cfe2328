"""What ends with a host: what ran on a machine that is off, and the work of one that is gone."""

from __future__ import annotations

from commands.state.host import HostState
from commands.state.vm import OpenJob, VmState


def given_up(vm: VmState, host: HostState) -> tuple[OpenJob, ...]:
    """Return the jobs that nobody will do, since the host was removed."""
    return tuple(entry for entry in vm.jobs if entry.host == host.id) if host.removed else ()


def ended_with_host(vm: VmState, host: HostState) -> bool:
    """Tell whether a copy of the VM ended for certain because the host was proved off.

    What was placed there afterwards did not; stale copies were all found before.
    """
    if not host.proved_off:
        return False
    run = vm.run
    placed_before = run is not None and run.host == host.id and run.position < host.proved_off
    move = vm.migration
    if move is not None and not move.dropped and not move.departed:
        placed_before |= move.destination == host.id and move.position < host.proved_off
    return placed_before or any(where == host.id for where, _incarnation in vm.stale_copies)
