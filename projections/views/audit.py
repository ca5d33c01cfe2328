"""The inventory's view of the audit log: one record for each event that is of interest to people.

The record itself is rendered by `events.audit`, so that inventory, mails and traps say the same.
"""

from __future__ import annotations

import msgspec

from events.audit import AuditRecord
from events.types.base import Severity
from projections.views.parts import ObjectReference, Time


class AuditDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of the audit log as the API shows it; its id is the event's position in the log."""

    id: str
    position: int
    time: Time
    code: int
    name: str
    severity: Severity
    message: str
    actor: str
    object: ObjectReference
    correlation: str | None
    resolves: str | None


def document_of(record: AuditRecord) -> AuditDocument:
    """Return a record as the API shows it."""
    kind, _, object_id = record.stream.partition("/")
    return AuditDocument(
        id=str(record.position),
        position=record.position,
        time=record.time,
        code=record.code,
        name=record.name,
        severity=record.severity,
        message=record.message,
        actor=record.actor,
        object=ObjectReference(kind=kind, id=object_id),
        correlation=record.correlation,
        resolves=record.resolves,
    )
