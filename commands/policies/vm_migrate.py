"""Migrating a running VM: choose a host, have its memory copied there, see it run there.

A host sends so many VMs at a time, and takes in so many; the others wait, by priority. The
destination may run the VM from before the source is ordered to send it. Whatever goes wrong before
the hand-over, the VM stays where it is, once its host has said so; a host that says nothing is
waited for, visibly. Where a destination did not take the VM in, others are tried. The destination
lets the VM run only when the source has nothing of it.
"""

from __future__ import annotations

import msgspec

from commands.policies import migration_trouble
from commands.policies.saga import Saga, Scene, Step
from commands.policies.traffic import copies_elsewhere
from commands.scheduler.need import Choice, Need, need_to_move
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import HOST
from commands.state.migrations import HALVES
from commands.state.operation import StepState
from commands.state.orders import order_job
from commands.state.vm import VM, FinishedJob, Migration, Run, VmState, VmStatus
from events.envelope import NewEvent
from events.types import operation as e
from events.types.job import Job, JobKind, Sending
from events.types.migration import tuning_of
from events.types.operation import Outcome
from events.types.vm_migration import (
    VmMigrationCancelling,
    VmMigrationFailed,
    VmMigrationRetried,
    VmMigrationStarted,
)

STEPS = (
    Step(
        name="prepare",
        does="wait for a turn, choose a host, and have it expect the VM",
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
ATTEMPTS_MAX = 3
"""So many hosts are tried."""
PLACES_TOLD = (10, 20, 50, 100, 200, 500)
"""A place beyond 10 is told as more than one of these: thousands may wait."""


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of a migration."""
    vm = scene.world.get(VM, scene.operation.target_id)
    assert vm is not None  # noqa: S101 - an operation is begun on what exists
    run, migration = vm.run, vm.migration
    if run is None or run.incarnation != scene.operation.incarnation:
        return _over(scene, vm)
    again = scene.is_("prepare", StepState.RUNNING)
    if migration is not None and migration.id == scene.operation.id and not again:
        return _copy(scene, vm, run, migration)
    if scene.is_("copy", StepState.RUNNING, StepState.UNDOING):
        return _arrived(scene, "copy")
    if scene.is_("hand_over", StepState.RUNNING):
        return _arrived(scene, "hand_over")
    return _prepare(scene, vm, run)


SAGA = Saga(kind="vm.migrate", steps=STEPS, advance=advance)


# ---------------------------------------------------------------------- preparing


def _prepare(scene: Scene, vm: VmState, run: Run) -> tuple[NewEvent, ...]:
    if vm.status is not VmStatus.MIGRATING or run.stopping:
        return scene.ended(Outcome.FAILED, f"The VM is {vm.status.replace('_', ' ')} meanwhile.")
    if scene.operation.cancel_requested:
        return _stays(scene, vm, run, Outcome.CANCELLED, CANCELLED)
    source = scene.world.get(HOST, run.host)
    if source is not None and source.mute:
        return scene.await_host(run.host)  # it can send nothing, and is in nobody's way
    copies = copies_elsewhere(vm)
    if copies:  # others go before it meanwhile
        return migration_trouble.await_drop(scene, copies[0])
    cluster = lookup.cluster(scene.world, vm.cluster)
    ahead, sends = scene.traffic.ahead(scene.operation.id), scene.traffic.outgoing[run.host]
    if ahead + sends >= cluster.migration.outgoing_max:
        return _await_turn(scene, f"Host {run.host_name} sends {sends} VMs already", ahead)
    need = _need(scene, vm, run, cluster)
    choice = scene.choose(need)
    if choice.host is not None:
        return _order(scene, vm, run, cluster, choice)
    if scene.choose(msgspec.structs.replace(need, incoming_max=0)).host is not None:
        limit = cluster.migration.incoming_max
        return _await_turn(scene, f"Each host that could take it takes in {limit} already", ahead)
    return _refuse(scene, vm, run, choice)


def _await_turn(scene: Scene, why: str, ahead: int) -> tuple[NewEvent, ...]:
    """Wait until hosts are done with others, and say why, and at which place."""
    place = f"{ahead + 1}"
    if ahead >= PLACES_TOLD[0]:
        place = f"more than {max(told for told in PLACES_TOLD if told <= ahead)}"
    detail = f"It waits for its turn, at place {place}. {why}."
    if scene.operation.detail == detail and scene.operation.attention is None:
        return ()
    waiting = e.OperationStepStarted(
        step="prepare",
        input=scene.input,
        attempt=max(1, scene.operation.attempts.get("prepare", 0)),
        detail=detail,
    )
    return scene.own(waiting)


def _order(
    scene: Scene, vm: VmState, run: Run, cluster: ClusterState, choice: Choice
) -> tuple[NewEvent, ...]:
    """Have the destination expect the VM, and the source send it."""
    assert choice.host is not None  # noqa: S101 - the caller has looked
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
        dedicated=choice.dedicated,
    )
    attempt = scene.operation.attempts.get("copy", 0) + 1
    job = Job(
        id=_job_id(scene, attempt),
        kind=JobKind.VM_MIGRATE,
        vm=vm.id,
        incarnation=run.incarnation,
        sending=Sending(
            destination=destination.id,
            address=destination.capabilities.migration_address,
            tuning=tuning_of(vm.migrates, cluster.migration),
            dedicated=choice.dedicated,
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


def _refuse(scene: Scene, vm: VmState, run: Run, choice: Choice) -> tuple[NewEvent, ...]:
    reason = f"No host can take it. {choice.refusal}{choice.told_elsewhere}"
    if scene.operation.refusal and scene.operation.tried:
        reason = f"{scene.operation.refusal} No other host can take it.{choice.told_elsewhere}"
    refused = scene.refused("prepare", reason, choice)
    return (*scene.own(refused), *_stays(scene, vm, run, Outcome.FAILED, reason))


# ---------------------------------------------------------------------- copying


def _copy(scene: Scene, vm: VmState, run: Run, migration: Migration) -> tuple[NewEvent, ...]:
    if migration.departed:
        if migration.held in HALVES:
            return migration_trouble.left_in_halves(scene, vm, run, migration)
        return _hand_over(scene, migration)
    if migration.lost:
        return migration_trouble.in_halves(scene, vm, run, migration)
    finished = vm.finished(_job_id(scene))
    if finished is not None and not finished.done and not _is_told(vm, migration):
        if migration.held in HALVES:
            return migration_trouble.given_up(scene, vm, run, migration)
        return _failed(scene, vm, run, migration, finished)
    if migration.failed and vm.status is not VmStatus.MIGRATING:
        return _ended(scene, finished.reason if finished is not None else CANCELLED)
    job = vm.job(_job_id(scene))
    if migration.held is not None and job is not None:
        return migration_trouble.held(scene, vm, run, migration, job)
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
    if scene.operation.attention is not None and scene.is_("copy", StepState.RUNNING):
        return _goes_on(scene)
    return ()


def _goes_on(scene: Scene) -> tuple[NewEvent, ...]:
    """Take back that somebody has to see to it: what was waited for has come about."""
    goes_on = e.OperationStepStarted(
        step="copy",
        input=scene.input,
        attempt=max(1, scene.operation.attempts.get("copy", 0)),
        detail="It goes on.",
    )
    return scene.own(goes_on)


def _is_told(vm: VmState, migration: Migration) -> bool:
    """Tell whether the VM is known to stay: then only the operation's end is missing."""
    return migration.failed and vm.status is not VmStatus.MIGRATING


def _failed(
    scene: Scene, vm: VmState, run: Run, migration: Migration, finished: FinishedJob
) -> tuple[NewEvent, ...]:
    """The VM stays on its host, which has said so: try another destination, or give up."""
    if finished.elsewhere and _may_try_again(scene) and not migration.failed:
        retried = VmMigrationRetried(
            name=vm.name,
            incarnation=run.incarnation,
            host_name=run.host_name,
            destination=migration.destination,
            destination_name=migration.destination_name,
            reason=finished.reason,
        )
        refused = scene.refused("copy", finished.reason)
        again = scene.started(
            "prepare",
            detail=f"Host {migration.destination_name} did not take it in: {finished.reason}",
        )
        return (
            *scene.target(retried, addressee=migration.destination),
            *scene.own(again, refused),
        )
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


def _may_try_again(scene: Scene) -> bool:
    operation = scene.operation
    chosen = operation.host is None and not operation.cancel_requested
    return chosen and operation.attempts.get("copy", 0) < ATTEMPTS_MAX


def _ended(scene: Scene, reason: str) -> tuple[NewEvent, ...]:
    """End the operation of a VM that stays where it is."""
    if scene.operation.cancel_requested:
        undone = e.OperationUndoDone(step="copy", input=scene.input)
        return (*scene.own(undone), *scene.ended(Outcome.CANCELLED, CANCELLED))
    refused = scene.refused("copy", reason)
    return (*scene.own(refused), *scene.ended(Outcome.FAILED, _stays_where(scene, reason)))


def _stays_where(scene: Scene, reason: str) -> str:
    """Return the reason of a failure, saying where the VM runs."""
    vm = scene.world.get(VM, scene.operation.target_id)
    where = vm.run.host_name if vm is not None and vm.run is not None else ""
    return f"{reason.rstrip('.')}. The VM runs on host {where}, as before." if where else reason


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
    """End what never began, or what no other host took over: the VM is as it was."""
    failed = VmMigrationFailed(
        name=vm.name, incarnation=run.incarnation, host_name=run.host_name, reason=reason
    )
    return (*scene.target(failed), *scene.ended(outcome, reason))


def _job_id(scene: Scene, attempt: int | None = None) -> str:
    """Return the id of an attempt's job; of the attempt that goes on, if none is named."""
    number = attempt or scene.operation.attempts.get("copy", 0)
    return f"{scene.operation.id}/copy" + (f"/{number}" if number > 1 else "")


def _need(scene: Scene, vm: VmState, run: Run, cluster: ClusterState) -> Need:
    """Return what the destination must have: all that the run has, as it was started."""
    return msgspec.structs.replace(
        need_to_move(vm, cluster, scene.world.get(HOST, run.host)),
        only_host=scene.operation.host,
        only_host_why="Another host was asked for.",
        incoming_max=cluster.migration.incoming_max,
        tried=scene.operation.tried,
    )
