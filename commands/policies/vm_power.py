"""Ending, resetting, saving and continuing a VM's run: wait for what the host makes of the order.

The order itself is part of the command's append; these sagas wait for its outcome, and put the VM
back into its state where there is none.
"""

from __future__ import annotations

from commands.policies.saga import Saga, Scene, Step
from commands.state.orders import withdraw_job
from commands.state.vm import VM, FinishedJob, Run, VmState, VmStatus
from events.envelope import NewEvent
from events.types.base import Event
from events.types.operation import Outcome
from events.types.vm import VmContinued
from events.types.vm_power import VmRebooted, VmRebootFailed, VmShutdownFailed, VmSuspendFailed

SHUTDOWN_STEPS = (
    Step(
        name="shutdown",
        does="the host presses the power button until the guest is down",
        undo="stop pressing; the guest may go down all the same",
        cancellable=True,
    ),
)
STOP_STEPS = (Step(name="stop", does="the host ends QEMU", undo="none", cancellable=False),)
REBOOT_STEPS = (Step(name="reboot", does="the host resets it", undo="none", cancellable=False),)
SUSPEND_STEPS = (
    Step(name="suspend", does="the host saves the memory", undo="none", cancellable=False),
)
CONTINUE_STEPS = (
    Step(name="continue", does="the host lets the CPUs run", undo="none", cancellable=False),
)


def advance_shutdown(scene: Scene) -> tuple[NewEvent, ...]:
    """Wait until the run is over; a guest that does not go down leaves the VM up."""
    vm, run = _vm_and_run(scene)
    if run is None:
        return _succeeded(scene, "shutdown")
    finished = vm.finished(_job_id(scene, "shutdown"))
    if finished is not None and not finished.done and not run.stopping:
        return _shutdown_failed(scene, vm, Outcome.FAILED, finished.reason)
    if scene.operation.cancel_requested:
        job = vm.job(_job_id(scene, "shutdown"))
        withdrawn = (withdraw_job(job),) if job is not None else ()
        cancelled = "The shutdown was cancelled."
        return (*withdrawn, *_shutdown_failed(scene, vm, Outcome.CANCELLED, cancelled))
    return scene.await_host(run.host)


def advance_stop(scene: Scene) -> tuple[NewEvent, ...]:
    """Wait until the run, or the start that was called off, is over."""
    vm, run = _vm_and_run(scene)
    if run is not None:
        return scene.await_host(run.host)
    if vm.status is VmStatus.WAITING_FOR_LAUNCH and vm.run is None:
        return ()
    return _succeeded(scene, "stop")


def advance_reboot(scene: Scene) -> tuple[NewEvent, ...]:
    """Wait until the guest was reset."""
    vm, run = _vm_and_run(scene)
    if run is None:
        return _went_down(scene, vm)
    finished = vm.finished(_job_id(scene, "reboot"))
    if finished is None:
        return scene.await_host(run.host)
    rebooting = _is_own(scene, vm, VmStatus.REBOOT_IN_PROGRESS)
    if finished.done:
        event = VmRebooted(name=vm.name, incarnation=run.incarnation, resets=run.resets)
        return (*_if(scene, rebooting, event), *_succeeded(scene, "reboot"))
    failed = VmRebootFailed(name=vm.name, incarnation=run.incarnation, reason=finished.reason)
    return (*_if(scene, rebooting, failed), *_failed(scene, "reboot", finished))


def advance_suspend(scene: Scene) -> tuple[NewEvent, ...]:
    """Wait until the memory is saved and the run over."""
    vm, run = _vm_and_run(scene)
    if run is None:
        saved = vm.memory is not None and vm.memory.incarnation == scene.operation.incarnation
        return _succeeded(scene, "suspend") if saved else _went_down(scene, vm)
    finished = vm.finished(_job_id(scene, "suspend"))
    if finished is None or finished.done:
        return scene.await_host(run.host)
    failed = VmSuspendFailed(name=vm.name, incarnation=run.incarnation, reason=finished.reason)
    saving = _is_own(scene, vm, VmStatus.SAVING_STATE)
    return (*_if(scene, saving, failed), *_failed(scene, "suspend", finished))


def advance_continue(scene: Scene) -> tuple[NewEvent, ...]:
    """Wait until the CPUs run again."""
    vm, run = _vm_and_run(scene)
    if run is None:
        return _went_down(scene, vm)
    finished = vm.finished(_job_id(scene, "continue"))
    if finished is None:
        return scene.await_host(run.host)
    if not finished.done:
        return _failed(scene, "continue", finished)
    continued = VmContinued(name=vm.name, incarnation=run.incarnation)
    paused = vm.status is VmStatus.PAUSED
    return (*_if(scene, paused, continued), *_succeeded(scene, "continue"))


SAGAS = (
    Saga(kind="vm.shutdown", steps=SHUTDOWN_STEPS, advance=advance_shutdown),
    Saga(kind="vm.stop", steps=STOP_STEPS, advance=advance_stop),
    Saga(kind="vm.reboot", steps=REBOOT_STEPS, advance=advance_reboot),
    Saga(kind="vm.suspend", steps=SUSPEND_STEPS, advance=advance_suspend),
    Saga(kind="vm.continue", steps=CONTINUE_STEPS, advance=advance_continue),
)


def _vm_and_run(scene: Scene) -> tuple[VmState, Run | None]:
    """Return the VM, and the run that the operation is about if it still goes on.

    A VM that was removed since is looked at too: its runs are over.
    """
    vm = scene.world.get(VM, scene.operation.target_id)
    assert vm is not None  # noqa: S101 - an operation is begun on what exists
    run = vm.run
    if run is not None and run.incarnation != scene.operation.incarnation:
        run = None
    return vm, run


def _is_own(scene: Scene, vm: VmState, status: VmStatus) -> bool:
    """Tell whether the VM is in a status that this operation put it into, and no other since."""
    return vm.status is status and vm.operation == scene.operation.id


def _job_id(scene: Scene, step: str) -> str:
    return f"{scene.operation.id}/{step}"


def _if(scene: Scene, wanted: bool, event: Event) -> tuple[NewEvent, ...]:  # noqa: FBT001
    return scene.target(event) if wanted else ()


def _succeeded(scene: Scene, step: str) -> tuple[NewEvent, ...]:
    return (*scene.own(scene.done(step)), *scene.ended(Outcome.SUCCEEDED))


def _failed(scene: Scene, step: str, finished: FinishedJob) -> tuple[NewEvent, ...]:
    refused = scene.refused(step, finished.reason)
    return (*scene.own(refused), *scene.ended(Outcome.FAILED, finished.reason))


def _went_down(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    why = f" ({vm.ending.reason})" if vm.ending else ""
    return scene.ended(Outcome.FAILED, f"The VM went down meanwhile{why}.")


def _shutdown_failed(
    scene: Scene, vm: VmState, outcome: Outcome, reason: str
) -> tuple[NewEvent, ...]:
    incarnation = scene.operation.incarnation
    failed = VmShutdownFailed(name=vm.name, incarnation=incarnation, reason=reason)
    powering_down = _is_own(scene, vm, VmStatus.POWERING_DOWN)
    return (*_if(scene, powering_down, failed), *scene.ended(outcome, reason))
