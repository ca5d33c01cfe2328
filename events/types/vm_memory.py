"""Events of VMs' memory, on their streams: balloons that do not do what their host asks."""

from __future__ import annotations

import enum
from typing import ClassVar

from events.types.base import Audit, Event, Severity, event


class BalloonProblem(enum.StrEnum):
    """Why a host that runs short of memory gets none back from a guest that could give some."""

    NONE = "none"
    SILENT = "silent"  # the guest has no driver for its balloon: it says nothing of its memory
    UNCONTROLLED = "uncontrolled"  # the driver is there, and does not do what it is asked


@event("vm.balloon_reported")
class VmBalloonReported(Event, frozen=True, kw_only=True):
    """The guest's balloon has this problem now, or none any more; before it had `previous`."""

    name: str
    host: str
    host_name: str
    incarnation: int
    problem: BalloonProblem
    previous: BalloonProblem = BalloonProblem.NONE

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=176,
            name="VM_BALLOON_DRIVER_ERROR",
            severity=Severity.ERROR,
            message="The balloon of VM {name} on host {host_name} has no driver in the guest: the"
            " host cannot take memory back. Install the driver, or switch the balloon off.",
        ),
        Audit(
            code=177,
            name="VM_BALLOON_DRIVER_UNCONTROLLED",
            severity=Severity.ERROR,
            message="The balloon of VM {name} on host {host_name} does not do what it is asked: the"
            " host cannot take memory back.",
        ),
        Audit(
            code=60_601,
            name="VM_BALLOON_DRIVER_PRESENT",
            message="The balloon of VM {name} has its driver.",
            resolves="VM_BALLOON_DRIVER_ERROR",
        ),
        Audit(
            code=60_602,
            name="VM_BALLOON_DRIVER_CONTROLLED",
            message="The balloon of VM {name} does again what it is asked.",
            resolves="VM_BALLOON_DRIVER_UNCONTROLLED",
        ),
    )

    def audit(self) -> Audit:
        """Return the record of the problem, or of the end of the one before."""
        silent, uncontrolled, present, controlled = self.audits
        match self.problem, self.previous:
            case BalloonProblem.SILENT, _:
                return silent
            case BalloonProblem.UNCONTROLLED, _:
                return uncontrolled
            case _, BalloonProblem.UNCONTROLLED:
                return controlled
            case _:
                return present
