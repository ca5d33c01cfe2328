"""Migrating a running VM: choose a host, have its memory copied there, see it run there.

The destination may run the VM from before the source is ordered to send it. Whatever goes wrong
before the hand-over, the VM stays where it is, once its host has said so; a host that says nothing
is waited for, visibly. The destination lets the VM run only when the source has nothing of it.
"""

from __future__ import annotations

from commands.policies.saga import Saga, Scene, Step
from commands.scheduler.need import Choice, Need
from commands.state import lookup
from commands.state.host import HOST
from commands.state.operation import StepState
from commands.state.orders import order_job
from commands.state.vm import VM, Migration, Run, VmState, VmStatus
from events.envelope import NewEvent
from events.types import operation as e
from events.types.job import Job, JobKind, Sending
from events.types.operation import Outcome
from events.types.run_spec import VmConfiguration
from events.types.vm_migration import (
    VmMigrationCancelling,
    VmMigrationFailed,
    VmMigrationStarted,
)

STEPS = (
    Step(
        name="prepare",
        does="choose a host, and have it expect the VM",
        undo="none needed",
        cancellable=True,
    ),
    Step(
        name="copy",
        does="the source copies the VM's memory while it runs",
        undo="stop copying; the destination drops its half, and the VM stays",
        cancellable=True,
        point_of_no_return=True,
    ),
    Step(
        name="hand_over",
        does="the VM goes on at the destination",
        undo="none: it runs there",
        cancellable=False,
    ),
)
CANCELLED = "The migration was cancelled."


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of a migration."""
    vm = scene.world.get(VM, scene.operation.target_id)
    assert vm is not None  # noqa: S101 - an operation is begun on what exists
    run, migration = vm.run, vm.migration
    if run is None or run.incarnation != scene.operation.incarnation:
        return _over(scene, vm)
    if migration is not None and migration.id == scene.operation.id:
        return _copy(scene, vm, run, migration)
    if scene.is_("copy", StepState.RUNNING, StepState.UNDOING):
        return _arrived(scene, "copy")
    if scene.is_("hand_over", StepState.RUNNING):
        return _arrived(scene, "hand_over")
    return _prepare(scene, vm, run)


SAGA = Saga(kind="vm.migrate", steps=STEPS, advance=advance)


def _prepare(scene: Scene, vm: VmState, run: Run) -> tuple[NewEvent, ...]:
    if vm.status is not VmStatus.MIGRATING or run.stopping:
        return scene.ended(Outcome.FAILED, f"The VM is {vm.status.replace('_', ' ')} meanwhile.")
    if scene.operation.cancel_requested:
        return _stays(scene, vm, run, Outcome.CANCELLED, CANCELLED)
    copies = [
        host
        for host in (*vm.may_run_on, *(host for host, _n in vm.stale_copies))
        if host != run.host
    ]
    if copies:
        return scene.await_host(copies[0]) or _await_copy(scene, copies[0])
    choice = scene.choose(_need(scene, vm, run))
    if choice.host is None:
        return _refuse(scene, vm, run, choice)
    destination = scene.world.get(HOST, choice.host.id)
    assert destination is not None  # noqa: S101 - it was chosen from among those that are there
    assert destination.capabilities is not None  # noqa: S101
    started = VmMigrationStarted(
        name=vm.name,
        incarnation=run.incarnation,
        migration=scene.operation.id,
        host=run.host,
        host_name=run.host_name,
        destination=destination.id,
        destination_name=destination.name,
    )
    job = Job(
        id=_job_id(scene),
        kind=JobKind.VM_MIGRATE,
        vm=vm.id,
        incarnation=run.incarnation,
        sending=Sending(
            destination=destination.id, address=destination.capabilities.migration_address
        ),
    )
    return (
        *scene.target(started, addressee=destination.id),
        order_job(job, run.host),
        *scene.own(
            scene.done("prepare", f"to host {destination.name}"),
            scene.started("copy", destination.id),
        ),
    )


def _await_copy(scene: Scene, host: str) -> tuple[NewEvent, ...]:
    if scene.operation.attention is not None:
        return ()
    name = lookup.host(scene.world, host).name
    return scene.attention(
        f"Host {name} has not yet dropped what an earlier migration brought there.",
        f"host {name}",
        "It goes on by itself once the host has.",
    )


def _refuse(scene: Scene, vm: VmState, run: Run, choice: Choice) -> tuple[NewEvent, ...]:
    reason = f"No host can take it. {choice.refusal}"
    refused = e.OperationStepRefused(
        step="prepare", input=scene.input, reason=reason, verdicts=choice.verdicts
    )
    return (*scene.own(refused), *_stays(scene, vm, run, Outcome.FAILED, reason))


def _copy(scene: Scene, vm: VmState, run: Run, migration: Migration) -> tuple[NewEvent, ...]:
    if migration.departed:
        return _hand_over(scene, migration)
    finished = vm.finished(_job_id(scene))
    if migration.failed:
        return _ended(scene, finished.reason if finished is not None else CANCELLED)
    if finished is not None and not finished.done:
        failed = VmMigrationFailed(
            name=vm.name,
            incarnation=run.incarnation,
            host_name=run.host_name,
            destination=migration.destination,
            reason=finished.reason,
        )
        return (
            *scene.target(failed, addressee=migration.destination),
            *_ended(scene, finished.reason),
        )
    job = vm.job(_job_id(scene))
    if scene.operation.cancel_requested and not scene.is_("copy", StepState.UNDOING):
        undo = e.OperationUndoStarted(step="copy", input=scene.input, reason=CANCELLED)
        if job is None:
            return scene.own(undo)
        stop = VmMigrationCancelling(name=vm.name, migration=migration.id, host=run.host)
        return (*scene.target(stop, addressee=run.host), *scene.own(undo))
    for host in (run.host, migration.destination):
        state = scene.world.get(HOST, host)
        if state is not None and state.mute:
            return scene.await_host(host)
    return ()


def _ended(scene: Scene, reason: str) -> tuple[NewEvent, ...]:
    """End the operation of a VM that stays where it is."""
    if scene.operation.cancel_requested:
        undone = e.OperationUndoDone(step="copy", input=scene.input)
        return (*scene.own(undone), *scene.ended(Outcome.CANCELLED, CANCELLED))
    refused = e.OperationStepRefused(step="copy", input=scene.input, reason=reason)
    return (*scene.own(refused), *scene.ended(Outcome.FAILED, reason))


def _hand_over(scene: Scene, migration: Migration) -> tuple[NewEvent, ...]:
    if not scene.is_("hand_over", StepState.RUNNING):
        begun = scene.started("hand_over", migration.destination)
        return scene.own(scene.done("copy"), begun)
    return scene.await_host(migration.destination)


def _arrived(scene: Scene, step: str) -> tuple[NewEvent, ...]:
    if step == "copy":
        copied = scene.own(scene.done("copy"), scene.started("hand_over"))
        return (*copied, *_arrived(scene, "hand_over"))
    return (*scene.own(scene.done("hand_over")), *scene.ended(Outcome.SUCCEEDED))


def _over(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    why = f" ({vm.ending.reason}). {vm.ending.detail}" if vm.ending else "."
    return scene.ended(Outcome.FAILED, f"The VM went down meanwhile{why}".strip())


def _stays(
    scene: Scene, vm: VmState, run: Run, outcome: Outcome, reason: str
) -> tuple[NewEvent, ...]:
    """End what never began: the VM is as it was."""
    failed = VmMigrationFailed(
        name=vm.name, incarnation=run.incarnation, host_name=run.host_name, reason=reason
    )
    return (*scene.target(failed), *scene.ended(outcome, reason))


def _job_id(scene: Scene) -> str:
    return f"{scene.operation.id}/copy"


def _has_files(configuration: VmConfiguration) -> bool:
    """Tell whether the VM has anything open in the storage folder."""
    boot = configuration.boot
    named = (boot.kernel, boot.initrd, configuration.cdrom)
    return bool(configuration.disks) or any(name is not None for name in named)


def _need(scene: Scene, vm: VmState, run: Run) -> Need:
    """Return what the destination must have: all that the run has, as it was started."""
    configuration = run.spec.configuration
    source = scene.world.get(HOST, run.host)
    abilities = source.capabilities if source is not None else None
    return Need(
        cluster=vm.cluster,
        scheduling=lookup.cluster(scene.world, vm.cluster).scheduling,
        memory_bytes=configuration.memory_bytes,
        processors=configuration.topology.count,
        machine_type=run.spec.machine_type,
        cpu_model=run.spec.cpu_model,
        bridges=tuple(nic.bridge for nic in configuration.nics),
        only_host=scene.operation.host,
        only_host_why="Another host was asked for.",
        leaves=run.host,
        moves=True,
        storage_id=abilities.storage_id if abilities and _has_files(configuration) else None,
    )
