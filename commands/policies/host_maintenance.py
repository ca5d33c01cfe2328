"""Preparing a host for maintenance: wait until its last VM is gone."""

from __future__ import annotations

from commands.policies.saga import Saga, Scene, Step
from commands.state import lookup
from commands.state.host import Duty
from events.envelope import NewEvent
from events.types.host import HostActivated, HostMaintenanceEntered
from events.types.operation import Outcome

STEPS = (
    Step(
        name="drain",
        does="wait until no VM is on the host; new ones are kept away by its gate",
        undo="open the host again",
        cancellable=True,
    ),
)
NAMES_MAX = 10


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of a maintenance."""
    host = lookup.host(scene.world, scene.operation.target_id)
    if host.duty is Duty.ACTIVE:
        return scene.ended(Outcome.CANCELLED, "The host was activated.")
    if scene.operation.cancel_requested:
        opened = scene.target(HostActivated(name=host.name))
        return (*opened, *scene.ended(Outcome.CANCELLED, "The maintenance was cancelled."))
    if host.unconfirmed:
        return scene.await_confirmation(host)
    if scene.vms_on_target:
        names = ", ".join(sorted(scene.vms_on_target)[:NAMES_MAX])
        return scene.attention(
            f"Host {host.name} still runs {len(scene.vms_on_target)}: {names}.",
            "its VMs to go down",
            "Shut them down or power them off; or cancel the maintenance.",
        )
    entered = scene.target(HostMaintenanceEntered(name=host.name))
    return (*entered, *scene.own(scene.done("drain")), *scene.ended(Outcome.SUCCEEDED))


SAGA = Saga(kind="host.maintenance", steps=STEPS, advance=advance)
