"""Events of operations: stream `operation/<command id>`.

An operation is a saga's state and what users see of a long piece of work. `input` is the position
of the event that the policy answered with this one (0 where a command did).
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import ClassVar

import msgspec

from events.types.base import Audit, Event, Severity, event
from events.types.migration import CopyProgress


class Outcome(enum.StrEnum):
    """How an operation ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Why one host was not chosen: each reason is a sentence."""

    host: str
    host_name: str
    reasons: tuple[str, ...]


@event("operation.started")
class OperationStarted(Event, frozen=True, kw_only=True):
    """Long work on `target` (a stream) began; `steps` are the names of what it will do.

    `incarnation` is the run of the VM that it is about, 0 where it is about none.
    """

    kind: str
    target: str
    name: str
    steps: tuple[str, ...]
    cancellable: bool = False
    host: str | None = None
    incarnation: int = 0


@event("operation.step_started")
class OperationStepStarted(Event, frozen=True, kw_only=True):
    """A step was set going, on `host` if it is about one, for the run `incarnation` if it is."""

    step: str
    input: int
    attempt: int = 1
    host: str | None = None
    incarnation: int = 0
    detail: str = ""


@event("operation.step_done")
class OperationStepDone(Event, frozen=True, kw_only=True):
    """A step reached what it was to reach."""

    step: str
    input: int
    detail: str = ""


@event("operation.step_refused")
class OperationStepRefused(Event, frozen=True, kw_only=True):
    """A step could not be done, and why; for a placement, why no host would do.

    `verdicts_left_out` is the number of hosts that would not do either, whose verdicts were too
    many to keep; a dry run (`vm placement`) tells each host's.
    """

    step: str
    input: int
    reason: str
    verdicts: tuple[Verdict, ...] = ()
    verdicts_left_out: int = 0


@event("operation.progressed")
class OperationProgressed(Event, frozen=True, kw_only=True):
    """How far the running step has come, in percent of the whole step; `copying` is a migration's
    figures.
    """

    step: str
    percent: int
    copying: CopyProgress | None = None


@event("operation.timer_set")
class OperationTimerSet(Event, frozen=True, kw_only=True):
    """The operation wants to be woken at `due` (late is allowed)."""

    timer: str
    due: dt.datetime
    input: int


@event("operation.timer_cleared")
class OperationTimerCleared(Event, frozen=True, kw_only=True):
    """A timer is no longer wanted."""

    timer: str
    input: int


@event("operation.timer_fired")
class OperationTimerFired(Event, frozen=True, kw_only=True):
    """A timer's time has come."""

    timer: str


@event("operation.cancel_requested")
class OperationCancelRequested(Event, frozen=True, kw_only=True):
    """Somebody wants the operation undone."""


@event("operation.undo_started")
class OperationUndoStarted(Event, frozen=True, kw_only=True):
    """What a step did is being undone."""

    step: str
    input: int
    reason: str


@event("operation.undo_done")
class OperationUndoDone(Event, frozen=True, kw_only=True):
    """What a step did is undone."""

    step: str
    input: int


@event("operation.needs_attention")
class OperationNeedsAttention(Event, frozen=True, kw_only=True):
    """The operation waits for something that only a person may be able to bring about."""

    name: str
    reason: str
    waits_for: str
    remedy: str
    input: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_001,
            name="OPERATION_NEEDS_ATTENTION",
            severity=Severity.WARNING,
            message="Work on {name} waits for {waits_for}: {reason} {remedy}",
        ),
    )


_FAILURES = {
    "vm.create": Audit(
        code=60,
        name="USER_ADD_VM_FINISHED_FAILURE",
        severity=Severity.ERROR,
        message="VM {name} could not be completed: {reason}",
    ),
    "vm.start": Audit(
        code=54,
        name="USER_FAILED_RUN_VM",
        severity=Severity.ERROR,
        message="VM {name} could not be started: {reason}",
    ),
    "vm.restart": Audit(
        code=9603,
        name="HA_VM_RESTART_FAILED",
        severity=Severity.ERROR,
        message="Highly available VM {name} could not be restarted, and is tried again: {reason}",
    ),
    "vm.start_with_host": Audit(
        code=54,
        name="USER_FAILED_RUN_VM",
        severity=Severity.ERROR,
        message="VM {name} could not be started with its host: {reason}",
    ),
    "vm.shutdown": Audit(
        code=147,
        name="VM_POWER_DOWN_FAILED",
        severity=Severity.WARNING,
        message="VM {name} did not shut down: {reason}",
    ),
    "vm.migrate": Audit(
        code=65,
        name="VM_MIGRATION_FAILED",
        severity=Severity.ERROR,
        message="VM {name} was not migrated: {reason}",
    ),
    "vm.suspend": Audit(
        code=521,
        name="USER_SUSPEND_VM_FINISH_FAILURE",
        severity=Severity.ERROR,
        message="VM {name} could not be suspended: {reason}",
    ),
    "host.refresh": Audit(
        code=607,
        name="HOST_REFRESH_CAPABILITIES_FAILED",
        severity=Severity.ERROR,
        message="Host {name} could not be asked what it can do: {reason}",
    ),
    "host.install": Audit(
        code=505,
        name="VDS_INSTALL_FAILED",
        severity=Severity.ERROR,
        message="Host {name} could not be installed: {reason}",
    ),
    "host.uninstall": Audit(
        code=60_145,
        name="HOST_UNINSTALL_FAILED",
        severity=Severity.ERROR,
        message="The agent could not be removed from the machine of host {name}: {reason}",
    ),
}
_OTHER_FAILURE = Audit(
    code=60_002,
    name="OPERATION_FAILED",
    severity=Severity.ERROR,
    message="{kind} of {name} failed: {reason}",
)


@event("operation.ended")
class OperationEnded(Event, frozen=True, kw_only=True):
    """The operation is over; all its claims are given back."""

    kind: str
    target: str
    name: str
    outcome: Outcome
    reason: str = ""
    input: int = 0

    audits: ClassVar[tuple[Audit, ...]] = (*_FAILURES.values(), _OTHER_FAILURE)

    def audit(self) -> Audit | None:
        """Return the record of a failure; a success is told by the target's own events."""
        if self.outcome is not Outcome.FAILED:
            return None
        return _FAILURES.get(self.kind, _OTHER_FAILURE)
