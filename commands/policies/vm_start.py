"""Starting a VM: choose a host, have it launch the VM, wait for the guest."""

from __future__ import annotations

import msgspec

from commands.policies.saga import Saga, Scene, Step
from commands.scheduler.need import Choice, Need, given_out_percent, need_of
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import HOST, HostState
from commands.state.operation import StepState
from commands.state.serial_input import serial_of
from commands.state.vm import VM, Run, VmState, VmStatus
from events.envelope import NewEvent
from events.types import operation as e
from events.types.operation import Outcome
from events.types.run_spec import RunSpec
from events.types.vm import DownReason, VmPlaced, VmStartAbandoned, VmStartWithdrawn

STEPS = (
    Step(name="place", does="choose a host", undo="none needed", cancellable=True),
    Step(
        name="launch",
        does="the host starts QEMU",
        undo="withdraw the order, and wait until the host says absent",
        cancellable=True,
        point_of_no_return=True,
    ),
    Step(name="boot", does="wait for the guest", undo="none: it runs", cancellable=False),
)
ATTEMPTS_MAX = 3


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of a start."""
    vm = scene.world.get(VM, scene.operation.target_id)
    assert vm is not None  # noqa: S101 - an operation is begun on what exists
    if scene.is_("boot", StepState.RUNNING):
        return _boot(scene, vm)
    if scene.is_("launch", StepState.UNDOING):
        return _undo_launch(scene, vm)
    if scene.is_("launch", StepState.RUNNING):
        return _launch(scene, vm)
    return _place(scene, vm)


SAGA = Saga(kind="vm.start", steps=STEPS, advance=advance)


def _waits(scene: Scene, vm: VmState) -> bool:
    """Tell whether the VM still waits for this very start: a stop or another start may own it."""
    return vm.status is VmStatus.WAITING_FOR_LAUNCH and vm.operation == scene.operation.id


def _own_run(scene: Scene, vm: VmState) -> Run | None:
    """Return the run that this start placed, if it still goes on."""
    run = vm.run
    own = run is not None and run.incarnation == scene.operation.incarnation
    return run if own else None


def _place(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    before = over(scene, vm)
    if before is None:
        before = copies_first(scene, vm)
    if before is not None:
        return before
    cluster = lookup.cluster(scene.world, vm.cluster)
    choice = choose(scene, need_of(vm, cluster, scene.operation.tried))
    if choice.host is None:
        return refuse(scene, choice)
    return placed(scene, vm, cluster, choice)


def over(scene: Scene, vm: VmState) -> tuple[NewEvent, ...] | None:
    """Return the end of a start that is not wanted any more; None where it goes on."""
    if not _waits(scene, vm):
        return scene.ended(Outcome.FAILED, f"The VM is {vm.status.replace('_', ' ')} meanwhile.")
    if scene.operation.cancel_requested:
        return _give_up(scene, Outcome.CANCELLED, "The start was cancelled.")
    return None


def copies_first(scene: Scene, vm: VmState) -> tuple[NewEvent, ...] | None:
    """Wait while a copy may be running somewhere; None where none is."""
    copies = (*vm.may_run_on, *(host for host, _incarnation in vm.stale_copies))
    if copies:
        return _await_copy(scene, copies[0])
    unconfirmed = _may_know_of_it(scene, vm)
    if unconfirmed is not None:
        return scene.await_confirmation(unconfirmed)
    return None


def _may_know_of_it(scene: Scene, vm: VmState) -> HostState | None:
    """Return a host that may run the VM though a restored log does not know of it."""
    for host in scene.unconfirmed:
        if host.cluster == vm.cluster and _may_reach_disks(scene, vm, host):
            return host
    return None


def _may_reach_disks(scene: Scene, vm: VmState, host: HostState) -> bool:
    """Tell whether a host can run the VM: its disks may lie where several hosts see them."""
    if vm.disks_host is None or vm.disks_host == host.id:
        return True
    holder = scene.world.get(HOST, vm.disks_host)
    if holder is None or holder.capabilities is None or host.capabilities is None:
        return True
    shared = holder.capabilities.storage_id
    return bool(shared) and host.capabilities.storage_id == shared


def _await_copy(scene: Scene, host: str) -> tuple[NewEvent, ...]:
    """Wait until the host where a copy may be running says that there is none."""
    mute = scene.await_host(host)
    if mute or scene.operation.attention is not None:
        return mute
    name = lookup.host(scene.world, host).name
    return scene.attention(
        f"A copy of the VM may still run on host {name}.",
        f"host {name}",
        "It goes on by itself once the host has ended that copy.",
    )


def choose(scene: Scene, need: Need) -> Choice:
    """Choose a host, and read it: the append fails where it was changed meanwhile."""
    choice = scene.choose(need)
    if choice.host is not None:
        scene.world.get(HOST, choice.host.id)
    return choice


def placed(
    scene: Scene, vm: VmState, cluster: ClusterState, choice: Choice
) -> tuple[NewEvent, ...]:
    """Place the VM on the host chosen: its next run begins."""
    host = choice.host
    assert host is not None  # noqa: S101 - the caller has looked
    incarnation = max(vm.incarnation + 1, scene.incarnations_from)
    spec = _spec(scene, vm, cluster, choice, incarnation)
    placed = VmPlaced(
        name=vm.name, host=host.id, host_name=host.name, incarnation=incarnation, spec=spec
    )
    return (
        *scene.target(placed, addressee=host.id),
        *scene.own(
            scene.done("place", f"on host {host.name}"),
            scene.started("launch", host.id, incarnation),
            scene.timer("launch", scene.timeouts.launch_s),
        ),
    )


def _spec(
    scene: Scene, vm: VmState, cluster: ClusterState, choice: Choice, incarnation: int
) -> RunSpec:
    """Return what runs. Saved memory goes on with the hardware that it was saved with, whatever
    the VM and its cluster were set to since: that waits for a start from nothing.
    """
    assert choice.host is not None  # noqa: S101 - the caller has looked
    host = choice.host.id
    if vm.memory is not None and vm.memory.spec is not None:
        return msgspec.structs.replace(
            vm.memory.spec,
            name=vm.name,
            incarnation=incarnation,
            first_host=host,
            restore_from=vm.memory.file,
            dedicated=choice.dedicated,
        )
    return RunSpec(
        vm=vm.id,
        name=vm.name,
        incarnation=incarnation,
        first_host=host,
        configuration=vm.configuration,
        architecture=cluster.architecture,
        machine_type=cluster.machine_type,
        cpu_model=cluster.cpu_model,
        restore_from=vm.memory.file if vm.memory else None,
        serial=serial_of(vm, cluster, scene.world.get(HOST, host)),
        dedicated=choice.dedicated,
        memory_percent=given_out_percent(cluster),
    )


def refuse(scene: Scene, choice: Choice) -> tuple[NewEvent, ...]:
    """Give the start up, since no host can take the VM."""
    earlier = scene.operation.refusal
    reason = f"No host can run it. {choice.refusal}{choice.told_elsewhere}"
    if earlier:
        reason = f"{earlier} No other host can run it.{choice.told_elsewhere}"
    refused = scene.refused("place", reason, choice)
    return (*scene.own(refused), *_give_up(scene, Outcome.FAILED, reason))


def _launch(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    run = _own_run(scene, vm)
    if run is None:
        return _launch_failed(scene, vm)
    if run.started:
        cleared = e.OperationTimerCleared(timer="launch", input=scene.input)
        return scene.own(scene.done("launch"), cleared, scene.started("boot"))
    host = scene.world.get(HOST, run.host)
    if host is not None and host.unconfirmed:
        return scene.await_confirmation(host)
    if scene.operation.cancel_requested:
        return _withdraw(scene, vm, run, "The start was cancelled.")
    if "launch" in scene.operation.fired:
        return _withdraw(scene, vm, run, f"Host {run.host_name} did not take the VM in time.")
    return ()


def _launch_failed(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    ending = vm.ending
    detail = ending.detail if ending and ending.detail else "The host gave no reason."
    if not _waits(scene, vm):
        why = ending.reason if ending else "down"
        return scene.ended(Outcome.FAILED, f"The VM went down while it started ({why}). {detail}")
    if scene.operation.cancel_requested:
        return _give_up(scene, Outcome.CANCELLED, "The start was cancelled.")
    refused = scene.refused("launch", detail)
    if ending and ending.reason is DownReason.START_FAILED and _may_try_again(scene):
        return scene.own(refused)
    return (*scene.own(refused), *_give_up(scene, Outcome.FAILED, detail))


def _withdraw(scene: Scene, vm: VmState, run: Run, reason: str) -> tuple[NewEvent, ...]:
    withdrawn = VmStartWithdrawn(
        name=vm.name,
        host=run.host,
        host_name=run.host_name,
        incarnation=run.incarnation,
        reason=reason,
        cancelled=scene.operation.cancel_requested,
    )
    undo = e.OperationUndoStarted(step="launch", input=scene.input, reason=reason)
    patience = scene.timer("launch", scene.timeouts.launch_s)
    return (*scene.target(withdrawn, addressee=run.host), *scene.own(undo, patience))


def _undo_launch(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    run = _own_run(scene, vm)
    if run is not None:
        return _await_absence(scene, run)
    undone = scene.own(e.OperationUndoDone(step="launch", input=scene.input))
    outcome, reason = Outcome.FAILED, scene.operation.refusal or "The host did not take it in time."
    if scene.operation.cancel_requested:
        outcome, reason = Outcome.CANCELLED, "The start was cancelled."
    if not _waits(scene, vm):
        return (*undone, *scene.ended(outcome, reason))
    if outcome is Outcome.CANCELLED:
        return (*undone, *_give_up(scene, outcome, reason))
    if _may_try_again(scene):
        return undone
    return (*undone, *_give_up(scene, outcome, reason))


def _await_absence(scene: Scene, run: Run) -> tuple[NewEvent, ...]:
    """Wait for the host's word that it does not run the VM, and say so if it takes long."""
    mute = scene.await_host(run.host)
    if mute or scene.operation.attention or "launch" not in scene.operation.fired:
        return mute
    return scene.attention(
        f"Host {run.host_name} answers, but does not say that it has given the VM up.",
        f"host {run.host_name}",
        "It goes on by itself once the host says so; see to the hypervisor on that host.",
    )


def _boot(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    run = _own_run(scene, vm)
    if run is None:
        why = vm.ending.reason if vm.ending else "down"
        detail = vm.ending.detail if vm.ending else ""
        return scene.ended(Outcome.FAILED, f"The VM went down while it booted ({why}). {detail}")
    if vm.status in {VmStatus.POWERING_UP, VmStatus.RESTORING_STATE}:
        return scene.await_host(run.host)
    return (*scene.own(scene.done("boot")), *scene.ended(Outcome.SUCCEEDED))


def _give_up(scene: Scene, outcome: Outcome, reason: str) -> tuple[NewEvent, ...]:
    cancelled = outcome is Outcome.CANCELLED
    abandoned = VmStartAbandoned(name=scene.operation.name, reason=reason, cancelled=cancelled)
    return (*scene.target(abandoned), *scene.ended(outcome, reason))


def _may_try_again(scene: Scene) -> bool:
    return scene.operation.attempts.get("launch", 0) < ATTEMPTS_MAX
