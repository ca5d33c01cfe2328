"""The audit record of an event, rendered: the same text in the inventory, mails and traps."""

from __future__ import annotations

import datetime as dt

import msgspec

from events.envelope import Recorded
from events.types.base import Severity


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the audit log."""

    position: int
    time: dt.datetime
    code: int
    name: str
    severity: Severity
    message: str
    actor: str
    stream: str
    correlation: str | None
    resolves: str | None


def audit_record(recorded: Recorded) -> AuditRecord | None:
    """Return the rendered audit record of an event, or None if its type has none."""
    audit = recorded.event.audit()
    if audit is None:
        return None
    fields = {name: getattr(recorded.event, name) for name in recorded.event.__struct_fields__}
    return AuditRecord(
        position=recorded.position,
        time=recorded.time,
        code=audit.code,
        name=audit.name,
        severity=audit.severity,
        message=audit.message.format(**fields, actor=recorded.actor),
        actor=recorded.actor,
        stream=recorded.stream,
        correlation=recorded.correlation,
        resolves=audit.resolves,
    )
