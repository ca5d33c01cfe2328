"""The state of an operation: a saga's memory, and what users see of long work."""

from __future__ import annotations

import datetime as dt
import enum

import msgspec

from commands.kernel.command import Context
from commands.kernel.fold import Fold
from events.envelope import NewEvent, Recorded
from events.types import operation as e
from events.types.base import Event
from events.types.migration import CopyProgress


class StepState(enum.StrEnum):
    """How far a step is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    UNDOING = "undoing"
    UNDONE = "undone"


class OperationState(msgspec.Struct, frozen=True, kw_only=True):
    """An operation, as policies and decisions see it.

    `handled` are the positions of the events that it has been moved by; `started_at` is the time
    of its start, `attempts` the number of times that each step was begun, `tried` the hosts on
    which one was. `detail` is what was said of the step begun last.
    """

    id: str
    kind: str
    target: str
    name: str
    actor: str
    started_at: dt.datetime
    steps: dict[str, StepState]
    cancellable: bool
    host: str | None = None
    incarnation: int = 0
    tried: tuple[str, ...] = ()
    attempts: dict[str, int] = {}
    timers: dict[str, dt.datetime] = {}
    fired: frozenset[str] = frozenset()
    progress: dict[str, int] = {}
    copying: CopyProgress | None = None
    detail: str = ""
    cancel_requested: bool = False
    attention: str | None = None
    refusal: str | None = None
    outcome: e.Outcome | None = None
    reason: str = ""
    handled: int = 0
    version: int = 0

    @property
    def open(self) -> bool:
        """Whether the operation has not ended."""
        return self.outcome is None

    @property
    def target_id(self) -> str:
        """The id part of the target's stream."""
        return self.target.partition("/")[2]


def begin(
    context: Context,
    kind: str,
    target: str,
    name: str,
    *steps: str,
    cancellable: bool = False,
    host: str | None = None,
    incarnation: int = 0,
) -> NewEvent:
    """Return the event that starts the command's operation, `operation/<command id>`."""
    return NewEvent(
        f"operation/{context.command}",
        e.OperationStarted(
            kind=kind,
            target=target,
            name=name,
            steps=steps,
            cancellable=cancellable,
            host=host,
            incarnation=incarnation,
        ),
    )


def evolve(state: OperationState | None, recorded: Recorded) -> OperationState | None:
    """Fold one event of an operation's stream."""
    event = recorded.event
    if isinstance(event, e.OperationStarted):
        return OperationState(
            id=recorded.object_id,
            kind=event.kind,
            target=event.target,
            name=event.name,
            actor=recorded.actor,
            started_at=recorded.time,
            steps=dict.fromkeys(event.steps, StepState.PENDING),
            cancellable=event.cancellable,
            host=event.host,
            incarnation=event.incarnation,
            version=recorded.version,
        )
    if state is None:
        return None
    changed = _evolve_steps(state, event) or _evolve_rest(state, event) or state
    handled = max(state.handled, getattr(event, "input", 0))
    return msgspec.structs.replace(changed, handled=handled, version=recorded.version)


def _evolve_steps(state: OperationState, event: Event) -> OperationState | None:
    change = msgspec.structs.replace
    match event:
        case e.OperationStepStarted():
            attempts = state.attempts | {event.step: event.attempt}
            steps = state.steps | {event.step: StepState.RUNNING}
            return change(
                state,
                steps=steps,
                attempts=attempts,
                tried=(*state.tried, event.host) if event.host else state.tried,
                incarnation=event.incarnation or state.incarnation,
                attention=None,
                refusal=None,
                detail=event.detail,
            )
        case e.OperationStepDone():
            return change(state, steps=state.steps | {event.step: StepState.DONE}, attention=None)
        case e.OperationStepRefused():
            return change(
                state,
                steps=state.steps | {event.step: StepState.REFUSED},
                refusal=event.reason,
            )
        case e.OperationProgressed():
            return change(
                state,
                progress=state.progress | {event.step: event.percent},
                copying=event.copying or state.copying,
            )
        case e.OperationUndoStarted():
            return change(
                state, steps=state.steps | {event.step: StepState.UNDOING}, refusal=event.reason
            )
        case e.OperationUndoDone():
            return change(state, steps=state.steps | {event.step: StepState.UNDONE})
        case _:
            return None


def _evolve_rest(state: OperationState, event: Event) -> OperationState | None:
    change = msgspec.structs.replace
    match event:
        case e.OperationTimerSet():
            return change(
                state,
                timers=state.timers | {event.timer: event.due},
                fired=state.fired - {event.timer},
            )
        case e.OperationTimerCleared():
            return change(
                state,
                timers=_without(state.timers, event.timer),
                fired=state.fired - {event.timer},
            )
        case e.OperationTimerFired():
            return change(
                state,
                timers=_without(state.timers, event.timer),
                fired=state.fired | {event.timer},
            )
        case e.OperationCancelRequested():
            return change(state, cancel_requested=True)
        case e.OperationNeedsAttention():
            return change(state, attention=event.reason)
        case e.OperationEnded():
            return change(
                state, outcome=event.outcome, reason=event.reason, timers={}, attention=None
            )
        case _:
            return None


def _without(timers: dict[str, dt.datetime], name: str) -> dict[str, dt.datetime]:
    return {timer: due for timer, due in timers.items() if timer != name}


OPERATION = Fold("operation", OperationState, evolve)
