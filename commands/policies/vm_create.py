"""Making a new VM's disks: choose where they lie, have the host make them."""

from __future__ import annotations

from commands.policies.saga import Saga, Scene, Step
from commands.scheduler.need import Need
from commands.state import lookup
from commands.state.operation import StepState
from commands.state.orders import order_job, withdraw_job
from commands.state.vm import VmState, VmStatus
from events.envelope import NewEvent
from events.types.job import Job, JobKind
from events.types.operation import Outcome
from events.types.vm_jobs import VmDisksAssigned, VmDisksFailed, VmDisksReady

STEPS = (
    Step(name="assign", does="choose the disks' host", undo="none needed", cancellable=True),
    Step(
        name="create_disks",
        does="the host makes the disks",
        undo="withdraw the job; removing the VM removes what was made",
        cancellable=True,
    ),
)


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of a VM's creation."""
    vm = lookup.vm(scene.world, scene.operation.target_id)
    if vm.status is not VmStatus.IMAGE_LOCKED:
        return scene.ended(Outcome.FAILED, f"The VM is {vm.status.replace('_', ' ')} meanwhile.")
    if scene.is_("create_disks", StepState.RUNNING):
        return _create(scene, vm)
    return _assign(scene, vm)


SAGA = Saga(kind="vm.create", steps=STEPS, advance=advance)


def _job_id(scene: Scene) -> str:
    return f"{scene.operation.id}/create_disks"


def _assign(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    if scene.operation.cancel_requested:
        return _fail(scene, vm, Outcome.CANCELLED, "The creation was cancelled.")
    hosts = frozenset(member.id for member in vm.host_choice.hosts)
    need = Need(
        cluster=vm.cluster,
        scheduling=lookup.cluster(scene.world, vm.cluster).scheduling,
        starts=False,
        bridges=tuple(nic.bridge for nic in vm.configuration.nics),
        storage_bytes=sum(disk.size_bytes for disk in vm.configuration.disks),
        pinned=hosts if vm.host_choice.pinned else None,
        preferred=hosts,
        # Where disks lie the VM is to run: the host has its CPUs and NUMA nodes.
        topology=vm.configuration.topology,
        tuning=vm.configuration.tuning,
        only_host=scene.operation.host,
        only_host_why="Another host was named for the VM's disks.",
    )
    choice = scene.choose(need)
    if choice.host is None:
        reason = f"No host can hold its disks. {choice.refusal}"
        refused = scene.refused("assign", reason, choice)
        return (*scene.own(refused), *_fail(scene, vm, Outcome.FAILED, reason))
    host = choice.host
    job = Job(
        id=_job_id(scene),
        kind=JobKind.DISK_CREATE,
        vm=vm.id,
        disks=vm.configuration.disks,
    )
    return (
        *scene.target(VmDisksAssigned(host=host.id, host_name=host.name)),
        order_job(job, host.id),
        *scene.own(
            scene.done("assign", f"on host {host.name}"), scene.started("create_disks", host.id)
        ),
    )


def _create(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    finished = vm.finished(_job_id(scene))
    if finished is not None and finished.done:
        ready = scene.target(VmDisksReady(name=vm.name))
        return (*ready, *scene.own(scene.done("create_disks")), *scene.ended(Outcome.SUCCEEDED))
    if finished is not None:
        refused = scene.refused("create_disks", finished.reason)
        return (*scene.own(refused), *_fail(scene, vm, Outcome.FAILED, finished.reason))
    job = vm.job(_job_id(scene))
    if job is None:
        return _fail(scene, vm, Outcome.FAILED, "The order to make the disks is gone.")
    if scene.operation.cancel_requested:
        cancelled = _fail(scene, vm, Outcome.CANCELLED, "The creation was cancelled.")
        return (withdraw_job(job), *cancelled)
    return scene.await_files(job.host)


def _fail(scene: Scene, vm: VmState, outcome: Outcome, reason: str) -> tuple[NewEvent, ...]:
    failed = scene.target(VmDisksFailed(name=vm.name, reason=reason))
    return (*failed, *scene.ended(outcome, reason))
