"""The inventory's view of operations: long work, its steps, and why it waits."""

from __future__ import annotations

import enum

import msgspec

from events.envelope import Recorded
from events.types import operation as e
from events.types.base import Event
from events.types.migration import CopyProgress
from projections.views.parts import (
    Change,
    Changes,
    Link,
    ObjectReference,
    OperationInProgress,
    Reference,
    Time,
    View,
)


class OperationStatus(enum.StrEnum):
    """States of an operation; the last three are its outcomes."""

    RUNNING = "running"
    NEEDS_ATTENTION = "needs_attention"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepStatus(enum.StrEnum):
    """States of a step."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    UNDOING = "undoing"
    UNDONE = "undone"


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A step of an operation; `attempt` counts from 1 once it was begun. Of a migration, `copying`
    has the figures.
    """

    name: str
    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    percent: int | None = None
    copying: CopyProgress | None = None
    started_at: Time | None = None
    ended_at: Time | None = None
    detail: str = ""
    reason: str = ""


class Attention(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why an operation stands still, for what it waits, and what a person can do."""

    since: Time
    reason: str
    waits_for: str
    remedy: str


class HostVerdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why a host was not chosen: each reason is a sentence."""

    host: Reference
    reasons: tuple[str, ...]


class Timer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """When the operation goes on by itself (it may be later)."""

    name: str
    due: Time


class OperationDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An operation as the API shows it.

    `percent` is how much of its steps is done; `timers` say when it goes on by itself. Where no
    host would do, `verdicts` say of each host why, but for `verdicts_left_out` of them: a dry run
    (`vm placement`) tells those.
    """

    id: str
    kind: str
    name: str
    target: ObjectReference
    status: OperationStatus = OperationStatus.RUNNING
    percent: int = 0
    reason: str = ""
    attention: Attention | None = None
    steps: tuple[Step, ...]
    verdicts: tuple[HostVerdict, ...] = ()
    verdicts_left_out: int = 0
    timers: tuple[Timer, ...] = ()
    host: Link | None = None
    cancellable: bool
    cancel_requested: bool = False
    actor: str
    started_at: Time
    ended_at: Time | None = None
    version: int
    updated_at: Time
    updated_by: str


def _create(event: e.OperationStarted, recorded: Recorded) -> OperationDocument:
    kind, _, target = event.target.partition("/")
    return OperationDocument(
        id=recorded.object_id,
        kind=event.kind,
        name=event.name,
        target=ObjectReference(kind=kind, id=target),
        steps=tuple(Step(name=name) for name in event.steps),
        host=Link(id=event.host) if event.host else None,
        cancellable=event.cancellable,
        actor=recorded.actor,
        started_at=recorded.time,
        version=recorded.version,
        updated_at=recorded.time,
        updated_by=recorded.actor,
    )


def _step(document: OperationDocument, name: str, **changes: object) -> Changes:
    """Change one step; a step that was not announced is added at the end."""
    steps = document.steps
    if all(step.name != name for step in steps):
        steps = (*steps, Step(name=name))
    steps = tuple(
        msgspec.structs.replace(step, **changes) if step.name == name else step for step in steps
    )
    return {"steps": steps, "percent": _percent(steps)}


def _percent(steps: tuple[Step, ...]) -> int:
    """The share of the steps that is done; a running step counts as far as it has come."""
    if not steps:
        return 0
    done = sum(
        100 if step.status is StepStatus.DONE else (step.percent or 0)
        for step in steps
        if step.status in {StepStatus.DONE, StepStatus.RUNNING}
    )
    return done // len(steps)


def _goes_on(document: OperationDocument) -> Changes:
    status = OperationStatus.RUNNING
    if document.cancel_requested:
        status = OperationStatus.CANCELLING
    return {"attention": None, "status": status}


def _step_started(
    document: OperationDocument, event: e.OperationStepStarted, recorded: Recorded
) -> Changes:
    known = next((step for step in document.steps if step.name == event.step), Step(name=""))
    begun_anew: Changes = {"percent": None, "copying": None, "started_at": recorded.time}
    if known.status is StepStatus.RUNNING and known.attempt == event.attempt:
        begun_anew = {}  # the same attempt goes on
    step = _step(
        document,
        event.step,
        status=StepStatus.RUNNING,
        attempt=event.attempt,
        ended_at=None,
        detail=event.detail,
        reason="",
        **begun_anew,
    )
    return step | _goes_on(document)


def _step_done(
    document: OperationDocument, event: e.OperationStepDone, recorded: Recorded
) -> Changes:
    known = next((step for step in document.steps if step.name == event.step), None)
    step = _step(
        document,
        event.step,
        status=StepStatus.DONE,
        ended_at=recorded.time,
        detail=event.detail or (known.detail if known else ""),
    )
    return step | _goes_on(document)


def _step_refused(
    document: OperationDocument, event: e.OperationStepRefused, recorded: Recorded
) -> Changes:
    step = _step(
        document,
        event.step,
        status=StepStatus.REFUSED,
        ended_at=recorded.time,
        reason=event.reason,
    )
    verdicts = tuple(
        HostVerdict(host=Reference(id=v.host, name=v.host_name), reasons=v.reasons)
        for v in event.verdicts
    )
    found = {"verdicts": verdicts, "verdicts_left_out": event.verdicts_left_out} if verdicts else {}
    return {**step, "reason": event.reason, **found}


def _progressed(
    document: OperationDocument, event: e.OperationProgressed, recorded: Recorded
) -> Changes:
    return _step(document, event.step, percent=event.percent, copying=event.copying)


def _timer_set(
    document: OperationDocument, event: e.OperationTimerSet, recorded: Recorded
) -> Changes:
    return {
        "timers": (
            *_other_timers(document, event.timer),
            Timer(name=event.timer, due=event.due),
        )
    }


def _timer_gone(
    document: OperationDocument,
    event: e.OperationTimerCleared | e.OperationTimerFired,
    recorded: Recorded,
) -> Changes:
    return {"timers": _other_timers(document, event.timer)}


def _other_timers(document: OperationDocument, name: str) -> tuple[Timer, ...]:
    return tuple(timer for timer in document.timers if timer.name != name)


def _cancel_requested(
    document: OperationDocument, event: e.OperationCancelRequested, recorded: Recorded
) -> Changes:
    return {"cancel_requested": True, "status": OperationStatus.CANCELLING}


def _undo_started(
    document: OperationDocument, event: e.OperationUndoStarted, recorded: Recorded
) -> Changes:
    step = _step(document, event.step, status=StepStatus.UNDOING, reason=event.reason)
    return {**step, "reason": event.reason, **_goes_on(document)}


def _undo_done(
    document: OperationDocument, event: e.OperationUndoDone, recorded: Recorded
) -> Changes:
    step = _step(document, event.step, status=StepStatus.UNDONE, ended_at=recorded.time)
    return step | _goes_on(document)


def _needs_attention(
    document: OperationDocument, event: e.OperationNeedsAttention, recorded: Recorded
) -> Changes:
    attention = Attention(
        since=recorded.time, reason=event.reason, waits_for=event.waits_for, remedy=event.remedy
    )
    return {"attention": attention, "status": OperationStatus.NEEDS_ATTENTION}


def _ended(document: OperationDocument, event: e.OperationEnded, recorded: Recorded) -> Changes:
    succeeded = event.outcome is e.Outcome.SUCCEEDED
    return {
        "status": OperationStatus(event.outcome.value),
        "reason": event.reason,
        "percent": 100 if succeeded else document.percent,
        "attention": None,
        "timers": (),
        "cancellable": False,
        "ended_at": recorded.time,
    }


CHANGES: dict[type[Event], Change] = {
    e.OperationStepStarted: _step_started,
    e.OperationStepDone: _step_done,
    e.OperationStepRefused: _step_refused,
    e.OperationProgressed: _progressed,
    e.OperationTimerSet: _timer_set,
    e.OperationTimerCleared: _timer_gone,
    e.OperationTimerFired: _timer_gone,
    e.OperationCancelRequested: _cancel_requested,
    e.OperationUndoStarted: _undo_started,
    e.OperationUndoDone: _undo_done,
    e.OperationNeedsAttention: _needs_attention,
    e.OperationEnded: _ended,
}

VIEW: View[OperationDocument] = View(
    "operation",
    OperationDocument,
    created=e.OperationStarted,
    create=_create,
    changes=CHANGES,
)
evolve = VIEW.evolve


def in_progress(document: OperationDocument) -> OperationInProgress | None:
    """Return how the operation shows at its target; None once it has ended."""
    if document.ended_at is not None:
        return None
    attention = document.attention
    at_work = {StepStatus.RUNNING, StepStatus.UNDOING}
    running = next((step for step in document.steps if step.status in at_work), None)
    return OperationInProgress(
        id=document.id,
        kind=document.kind,
        status=document.status.value,
        # Only where a host tells how far it is: else a VM would change with each step.
        percent=document.percent if running and running.percent is not None else 0,
        detail=running.detail if running else "",
        copying=running.copying if running else None,
        reason=attention.reason if attention else "",
        waits_for=attention.waits_for if attention else "",
        remedy=attention.remedy if attention else "",
    )
