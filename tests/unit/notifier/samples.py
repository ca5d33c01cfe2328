"""Notifications that the notifier's tests tell."""

from __future__ import annotations

import datetime as dt
import uuid

from events.types.base import Severity
from notifier.notification import Kind, Notification

LOG = uuid.UUID("00000000-0000-4000-8000-000000000001")


def notification(
    position: int = 7,
    *,
    message: str = "VM web01 is down with error on host node1 (crashed).",
    kind: Kind = Kind.ALERT,
    severity: Severity = Severity.ERROR,
) -> Notification:
    return Notification(
        log_id=LOG,
        position=position,
        time=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        code=119,
        name="VM_DOWN_ERROR",
        severity=severity,
        kind=kind,
        message=message,
        actor="host/h1",
        stream="vm/v1",
        vm_name="web01",
        vm_id="v1",
        host_name="node1",
        host_id="h1",
    )
