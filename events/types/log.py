"""Events of the log itself: stream `log/<log id>`."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from events.types.base import Audit, Event, Severity, event


@event("log.restored")
class LogRestored(Event, frozen=True, kw_only=True):
    """This log goes on from a backup of another: what that one got after `position` is lost here.

    Right behind it, every host is noted as unconfirmed: what runs there is known once it reports.
    `taken` is when the backup was made. From here on incarnations count from `incarnations_from`,
    so that a number which the lost part of the log gave out is never given out again.
    """

    previous_log: str
    position: int
    taken: dt.datetime
    hosts: int
    incarnations_from: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_070,
            name="LOG_RESTORED",
            severity=Severity.WARNING,
            message="Chronovisor was restored from a backup of {taken:%Y-%m-%d %H:%M:%S} UTC; what"
            " happened later is not known here. {hosts} hosts have to report what they run.",
        ),
    )
