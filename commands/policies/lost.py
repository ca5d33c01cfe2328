"""What ends with a host: runs and copies once it is proved off, its jobs once it is removed.

And with a restore: the jobs about a run that were ordered before.
"""

from __future__ import annotations

import msgspec

from commands.kernel.command import Decision
from commands.kernel.fold import World
from commands.policies.host_endings import ended_with_host, given_up
from commands.state import migrations
from commands.state.host import HOST
from commands.state.orders import is_outdated, withdraw_job, withdraw_run_jobs
from commands.state.vm import VM, OpenJob, VmState
from events.envelope import NewEvent
from events.types.job import JobKind
from events.types.vm import DownReason, VmDown
from events.types.vm_copies import VmStaleCopyGone
from events.types.vm_jobs import VmJobFailed


def end_lost(world: World, vm_id: str, host_id: str) -> Decision:
    """End what may have run on a host that was proved off, unless the host came back since.

    Where it was removed, nobody will do, or tell of, the jobs that it had: they have failed.
    """
    vm, host = world.get(VM, vm_id), world.get(HOST, host_id)
    if vm is None or host is None:
        return Decision(id=vm_id)
    stream = VM.stream(vm_id)
    undone = given_up(vm, host)
    events = [NewEvent(stream, _not_done(entry)) for entry in undone]
    if not ended_with_host(vm, host):
        return Decision(id=vm_id, events=tuple(events))
    events += [
        NewEvent(stream, VmStaleCopyGone(name=vm.name, host=where, incarnation=incarnation))
        for where, incarnation in vm.stale_copies
        if where == host_id
    ]
    left = msgspec.structs.replace(vm, jobs=tuple(job for job in vm.jobs if job not in undone))
    moved = migrations.lost_with_host(left, host_id)
    if moved:
        return Decision(id=vm_id, events=(*events, *moved), correlation=vm.operation)
    run = vm.run
    if run is None or run.host != host_id or run.position >= host.proved_off:
        return Decision(id=vm_id, events=tuple(events))
    down = VmDown(
        name=vm.name,
        host=host_id,
        host_name=host.name,
        incarnation=run.incarnation,
        reason=DownReason.HOST_LOST,
        detail="The host was proved to be off.",
        restored=run.restores,
    )
    return Decision(id=vm_id, events=(*events, *withdraw_run_jobs(left), NewEvent(stream, down)))


def withdraw_outdated(world: World, vm_id: str) -> Decision:
    """Take back the jobs about a run that were ordered before the log was restored.

    What became of them is lost; whoever still wants one orders it again.
    """
    vm = world.get(VM, vm_id)
    if vm is None:
        return Decision(id=vm_id)
    hosts = {entry.host: world.get(HOST, entry.host) for entry in vm.jobs}
    restored = {name: host.restored for name, host in hosts.items() if host is not None}
    outdated = (
        entry
        for entry in vm.jobs
        if is_outdated(entry, restored.get(entry.host, 0)) and not _is_in_doubt(world, vm, entry)
    )
    return Decision(id=vm_id, events=tuple(withdraw_job(entry) for entry in outdated))


def _is_in_doubt(world: World, vm: VmState, entry: OpenJob) -> bool:
    """Tell whether a migration may have come to its end in what the log has lost, or must do so.

    Taken back, its destination would be told to destroy what it has: not before both hosts have
    reported, and never while the VM runs there, or is held, in halves maybe. Of these its saga
    knows what to do.
    """
    if entry.job.kind is not JobKind.VM_MIGRATE or vm.migration is None:
        return False
    hosts = (world.get(HOST, name) for name in (entry.host, vm.migration.destination))
    unheard = any(host is not None and host.unconfirmed for host in hosts)
    held = vm.migration.held is not None
    return unheard or held or (vm.migration.arrived and not vm.migration.departed)


def _not_done(entry: OpenJob) -> VmJobFailed:
    reason = "The host was removed."
    return VmJobFailed(job=entry.job.id, kind=entry.job.kind, host=entry.host, reason=reason)
