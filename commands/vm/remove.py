"""Remove a VM."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.operation import begin
from commands.state.orders import order_job
from commands.state.vm import VmState, VmStatus
from events.types.job import Job, JobKind
from events.types.vm import VmRemoved, VmRemoveRequested


class DeleteProtected(WrongState):
    """The VM is protected from being removed."""


@command(
    "vm.remove",
    method="DELETE",
    path="/v1/vms/{id}",
    permission="DELETE_VM",
    verb="vm remove",
    long=True,
    refusals=(NotFound, WrongState, DeleteProtected),
)
class RemoveVm(Command, frozen=True, kw_only=True):
    """Remove a VM.

    Its disks are removed with it. The name is free at once; the rest once the host has removed the
    files.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Remove it at once where no host holds any of its files; else order their removal."""
        state = lookup.vm(world, self.id)
        if state.delete_protected:
            raise DeleteProtected(
                f"VM {state.name} has delete protection.",
                remedy="Take it off first: vm update --no-delete-protected.",
            )
        allowed = {VmStatus.DOWN, VmStatus.IMAGE_ILLEGAL}
        lookup.require_vm_status(world, state, allowed, "removed")
        stream, operation = f"vm/{self.id}", str(context.command)
        requested = VmRemoveRequested(name=state.name, data_center=state.data_center)
        jobs = removal_jobs(state, operation)
        if not jobs:
            return Decision.of(self.id, *on(stream, requested, removed(state)))
        return Decision.of(
            self.id,
            *on(stream, requested),
            *(order_job(job, host) for host, job in jobs.items()),
            begin(context, "vm.remove", stream, state.name, "remove_volumes"),
            operation=operation,
        )


def removed(state: VmState) -> VmRemoved:
    """Return the event that ends the VM and frees what it held."""
    hosts = {memory.host for memory in state.discarded_memory}
    if state.disks_host is not None:
        hosts.add(state.disks_host)
    return VmRemoved(
        name=state.name,
        cluster=state.cluster,
        macs=tuple(nic.mac for nic in state.configuration.nics),
        hosts=tuple(sorted(hosts)),
    )


def removal_jobs(state: VmState, operation: str, generation: int = 1) -> dict[str, Job]:
    """Return, by host, the jobs that remove the VM's files."""
    volumes: dict[str, list[str]] = {}
    if state.disks_host is not None:
        volumes[state.disks_host] = [disk.volume for disk in state.configuration.disks]
    for memory in state.discarded_memory:
        volumes.setdefault(memory.host, []).append(memory.file)
    return {
        host: Job(
            id=f"{operation}/remove/{host}/{generation}",
            kind=JobKind.VOLUMES_REMOVE,
            vm=state.id,
            generation=generation,
            volumes=tuple(files),
        )
        for host, files in sorted(volumes.items())
    }
