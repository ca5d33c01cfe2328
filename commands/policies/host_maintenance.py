"""Preparing a host for maintenance: wait until its last VM is gone, and say what blocks.

That its VMs leave is brought about by `evacuations`; this saga tells how far that is, and ends it.
"""

from __future__ import annotations

from commands.policies import evacuation
from commands.policies.evacuation import Fate, outlook
from commands.policies.saga import Saga, Scene, Step
from commands.policies.watch import operation_of
from commands.state import lookup
from commands.state.host import Duty, HostState
from commands.state.operation import OPERATION, StepState
from events.envelope import NewEvent
from events.types import operation as e
from events.types.host import HostActivated, HostMaintenanceEntered
from events.types.host_maintenance import HostEvacuationBegun, VmsThatStay
from events.types.operation import Outcome

STEPS = (
    Step(
        name="drain",
        does="wait until no VM is on the host; new ones are kept away by its gate",
        undo="open the host again, and cancel what its VMs do to leave it",
        cancellable=True,
    ),
)
TOLD_MAX = 10
_DEADLINE = "deadline"


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of a maintenance."""
    host = lookup.host(scene.world, scene.operation.target_id)
    asked = host.maintenance
    if host.duty is Duty.ACTIVE or asked.operation not in {"", scene.operation.id}:
        return (*_stay(scene, host), *scene.ended(Outcome.CANCELLED, "The host was activated."))
    if scene.operation.cancel_requested:
        return _call_off(scene, host, Outcome.CANCELLED, "The maintenance was cancelled.")
    if host.unconfirmed:
        return scene.await_confirmation(host)
    if not scene.vms_on_target:
        entered = scene.target(HostMaintenanceEntered(name=host.name))
        cleared = [
            e.OperationTimerCleared(timer=timer, input=scene.input)
            for timer in scene.operation.timers
        ]
        own = scene.own(*cleared, scene.done("drain"))
        return (*entered, *own, *scene.ended(Outcome.SUCCEEDED))
    if not scene.is_("drain", StepState.RUNNING):
        return _open_evacuation(scene, host)
    if _DEADLINE in scene.operation.fired and asked.vms_that_stay is not VmsThatStay.POWER_OFF:
        names = ", ".join(vm.name for vm in scene.vms_on_target[:TOLD_MAX])
        late = f"At the deadline, {len(scene.vms_on_target)} VMs were there still: {names}."
        return _call_off(scene, host, Outcome.FAILED, late)
    news = scene.await_host(host.id) if host.mute else _told(scene, host)
    return (*_progressed(scene, host), *news)


SAGA = Saga(kind="host.maintenance", steps=STEPS, advance=advance)


def _open_evacuation(scene: Scene, host: HostState) -> tuple[NewEvent, ...]:
    count = len(scene.vms_on_target)
    begun = scene.target(HostEvacuationBegun(name=host.name, vms=count))
    deadline = host.maintenance.deadline
    timers = (
        (e.OperationTimerSet(timer=_DEADLINE, due=deadline, input=scene.input),)
        if deadline is not None
        else ()
    )
    return (*begun, *scene.own(scene.started("drain"), *timers))


def _call_off(scene: Scene, host: HostState, outcome: Outcome, reason: str) -> tuple[NewEvent, ...]:
    opened = scene.target(HostActivated(name=host.name))
    return (*opened, *_stay(scene, host), *scene.ended(outcome, reason))


def _stay(scene: Scene, host: HostState) -> tuple[NewEvent, ...]:
    """Cancel the migrations and shutdowns that the maintenance began."""
    leaving = evacuation.of_maintenance(host, lookup.cluster(scene.world, host.cluster))
    cancelled = []
    for vm in scene.vms_on_target:
        begun = operation_of(leaving.attempt(vm), f"vm/{vm.id}")
        operation = scene.world.get(OPERATION, str(begun))
        if operation is not None and operation.open and not operation.cancel_requested:
            stream = OPERATION.stream(operation.id)
            cancelled.append(NewEvent(stream, e.OperationCancelRequested()))
    return tuple(cancelled)


def _progressed(scene: Scene, host: HostState) -> tuple[NewEvent, ...]:
    """Tell how many of the VMs that were to leave have left."""
    total, left = host.maintenance.vms_total or 0, len(scene.vms_on_target)
    percent = 100 * (total - left) // total if total else 0
    if percent <= scene.operation.progress.get("drain", 0):
        return ()
    return scene.own(e.OperationProgressed(step="drain", percent=percent))


def _told(scene: Scene, host: HostState) -> tuple[NewEvent, ...]:
    """Tell what blocks; or that nothing does any more."""
    leaving = evacuation.of_maintenance(host, lookup.cluster(scene.world, host.cluster))
    rules = scene.timeouts.evacuation
    blocking = [
        found
        for vm in scene.vms_on_target
        if (found := outlook(leaving, vm, rules, scene.choose)).fate is Fate.BLOCKS
    ]
    if not blocking:
        return scene.own(scene.started("drain")) if scene.operation.attention else ()
    told = " ".join(f"{each.vm.name}: {each.reason}" for each in blocking[:TOLD_MAX])
    others = len(blocking) - TOLD_MAX
    more = f" {others} more cannot leave it either." if others > 0 else ""
    return scene.attention(
        f"{len(blocking)} of the {len(scene.vms_on_target)} VMs on host {host.name} cannot leave"
        f" it. {told}{more}",
        "its VMs to go",
        "Migrate them, shut them down or power them off; or cancel the maintenance.",
    )
