"""The audit record of an event, rendered: the same text in the inventory, mails and traps."""

from __future__ import annotations

import datetime as dt
import functools
import string

import msgspec

from events.envelope import Recorded
from events.types.base import Severity


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


@functools.lru_cache(maxsize=4_000)
def _named(message: str) -> tuple[str, ...]:
    """Return the fields of an event that a message names (there is one message for each record)."""
    found = (name for _, name, _, _ in string.Formatter().parse(message) if name)
    names = {name.partition(".")[0].partition("[")[0] for name in found}
    return tuple(sorted(names - {"actor"}))


def audit_record(recorded: Recorded) -> AuditRecord | None:
    """Return the rendered audit record of an event, or None if its type has none."""
    event = recorded.event
    audit = event.audit()
    if audit is None:
        return None
    fields = {name: getattr(event, name) for name in _named(audit.message)}
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
