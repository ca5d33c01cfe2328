"""What is told: an audit record with the names of what it is about."""

from __future__ import annotations

import datetime as dt
import enum
import uuid

import msgspec

from events.audit import audit_record
from events.envelope import Recorded
from events.types.base import Severity


class Kind(enum.StrEnum):
    """Whether something began to be wrong (or just happened), or is right again."""

    ALERT = "alert"
    RESOLVE = "resolve"


class Notification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record to tell, as it is queued; names and ids are empty where there are none."""

    log_id: uuid.UUID
    position: int
    time: dt.datetime
    code: int
    name: str
    severity: Severity
    kind: Kind
    message: str
    resolves: str = ""
    actor: str = ""
    stream: str = ""
    correlation: str = ""
    vm_name: str = ""
    vm_id: str = ""
    host_name: str = ""
    host_id: str = ""
    cluster_name: str = ""
    cluster_id: str = ""
    data_center_name: str = ""
    data_center_id: str = ""

    @property
    def id(self) -> str:
        """The notification's id, the same for ever and for every recipient."""
        return f"{self.log_id}/{self.position}"


def notification_of(recorded: Recorded, log_id: uuid.UUID) -> Notification | None:
    """Return what to tell of an event, or None where it has no audit record."""
    record = audit_record(recorded)
    if record is None:
        return None
    return Notification(
        log_id=log_id,
        position=record.position,
        time=record.time,
        code=record.code,
        name=record.name,
        severity=record.severity,
        kind=Kind.ALERT if record.resolves is None else Kind.RESOLVE,
        message=record.message,
        resolves=record.resolves or "",
        actor=record.actor,
        stream=record.stream,
        correlation=record.correlation or "",
        **_objects(recorded),
    )


def _objects(recorded: Recorded) -> dict[str, str]:
    """Return the names and ids of the objects that an event is about."""
    event = recorded.event
    about: str = getattr(event, "target", recorded.stream)
    kind, _, object_id = about.partition("/")
    found: dict[str, str] = {}
    host, host_name = getattr(event, "host", None), getattr(event, "host_name", None)
    if isinstance(host, str) and isinstance(host_name, str):
        found |= {"host_id": host, "host_name": host_name}
    if kind in {"vm", "host", "cluster", "data_center"}:
        found |= {f"{kind}_id": object_id, f"{kind}_name": str(getattr(event, "name", ""))}
    return found
