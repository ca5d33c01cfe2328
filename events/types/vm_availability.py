"""Events of what is to become of a VM that nobody asked to stop: on its own stream `vm/<id>`.

These settings count at once, also for the run that goes on.
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import ClassVar

from events.types.base import Audit, Event, Severity, event
from events.types.vm import DownReason

FELL = frozenset({DownReason.CRASHED, DownReason.HOST_SHUTDOWN, DownReason.HOST_LOST})
"""Ends of a run that high availability acts on, where nobody had asked for the end."""


class RestartCause(enum.StrEnum):
    """Why policies start a VM by themselves."""

    HIGH_AVAILABILITY = "high_availability"
    START_WITH_HOST = "start_with_host"


@event("vm.high_availability_changed")
class VmHighAvailabilityChanged(Event, frozen=True, kw_only=True):
    """Whether the VM is started again when it fails; the highest priority (1 to 100) goes first.

    `tied_to` names the host that alone had its files when this was set: it is restarted only there.
    """

    name: str
    enabled: bool
    priority: int
    tied_to: str = ""

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_090,
            name="VM_HIGH_AVAILABILITY_ON",
            message="VM {name} is highly available by {actor}'s word, with priority {priority}.",
        ),
        Audit(
            code=60_091,
            name="VM_HIGH_AVAILABILITY_OFF",
            message="VM {name} is not highly available any more, by {actor}'s word.",
        ),
        Audit(
            code=60_095,
            name="VM_HIGH_AVAILABILITY_TIED",
            severity=Severity.WARNING,
            message="VM {name} is highly available by {actor}'s word, but its files lie on host"
            " {tied_to} alone: if that host is lost, it cannot be restarted.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of what was set, or the warning that goes with it."""
        if not self.enabled:
            return self.audits[1]
        return self.audits[2 if self.tied_to else 0]


@event("vm.start_with_host_changed")
class VmStartWithHostChanged(Event, frozen=True, kw_only=True):
    """Whether the VM is started when its host is back after a boot, and how long after that."""

    name: str
    enabled: bool
    priority: int
    delay_s: float

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_092,
            name="VM_START_WITH_HOST_ON",
            message="VM {name} starts with its host by {actor}'s word, {delay_s:g} s after it.",
        ),
        Audit(
            code=60_093,
            name="VM_START_WITH_HOST_OFF",
            message="VM {name} does not start with its host any more, by {actor}'s word.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of the one or the other."""
        return self.audits[0 if self.enabled else 1]


@event("vm.restart_decided")
class VmRestartDecided(Event, frozen=True, kw_only=True):
    """A policy starts the VM, for the `attempt`-th time in a row, not before `not_before`.

    `reason` says how its last run ended (None: it never ran), `host` where it was, or which host it
    starts with. `slowed`: from this attempt on, attempts are far between.
    """

    name: str
    cause: RestartCause
    attempt: int = 1
    not_before: dt.datetime
    reason: DownReason | None = None
    host_name: str = ""
    slowed: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=9602,
            name="HA_VM_FAILED",
            severity=Severity.ERROR,
            message="Highly available VM {name} failed ({reason}). It is restarted by itself"
            " (attempt {attempt}).",
        ),
        Audit(
            code=9605,
            name="EXCEEDED_MAXIMUM_NUM_OF_RESTART_HA_VM_ATTEMPTS",
            severity=Severity.ERROR,
            message="Highly available VM {name} failed again ({reason}) after {attempt} attempts in"
            " a row; the next ones are far between.",
        ),
        Audit(
            code=60_094,
            name="VM_STARTS_WITH_HOST",
            message="VM {name} is started with its host {host_name}.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of the cause."""
        if self.cause is RestartCause.START_WITH_HOST:
            return self.audits[2]
        return self.audits[1 if self.slowed else 0]
