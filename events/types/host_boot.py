"""Events of a host's boot that was ordered: stream `host/<id>`."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from events.types.base import Audit, Event, Severity, event


@event("host.boot_overdue")
class HostBootOverdue(Event, frozen=True, kw_only=True):
    """The host's machine was turned on so long ago, and its agent has not said hello since."""

    name: str
    turned_on_at: dt.datetime
    timeout_s: float

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_013,
            name="HOST_BOOT_OVERDUE",
            severity=Severity.WARNING,
            message="Host {name} was turned on at {turned_on_at:%Y-%m-%d %H:%M:%S} UTC, and has not"
            " said hello for {timeout_s:g} s: look at its console.",
        ),
    )
