"""Asking a host what it can do: wait until its agent has said hello again."""

from __future__ import annotations

from commands.policies.saga import Saga, Scene, Step
from commands.state import lookup
from commands.state.operation import StepState
from events.envelope import NewEvent
from events.types import operation as e
from events.types.operation import Outcome

STEPS = (
    Step(
        name="report",
        does="the agent says hello again, and what its host can do",
        undo="none needed",
        cancellable=False,
    ),
)
_LATE = "late"


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move."""
    host = lookup.host(scene.world, scene.operation.target_id)
    if not host.refresh:
        cleared = (
            e.OperationTimerCleared(timer=timer, input=scene.input)
            for timer in scene.operation.timers
        )
        own = scene.own(*cleared, scene.done("report"))
        return (*own, *scene.ended(Outcome.SUCCEEDED))
    if _LATE in scene.operation.fired:
        return scene.ended(Outcome.FAILED, f"The agent of host {host.name} has not answered.")
    if not scene.is_("report", StepState.RUNNING):
        timer = scene.timer(_LATE, scene.timeouts.launch_s)
        return scene.own(scene.started("report", host.id), timer)
    return scene.await_host(host.id)


SAGA = Saga(kind="host.refresh", steps=STEPS, advance=advance)
