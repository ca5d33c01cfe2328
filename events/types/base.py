"""What every event type is made of: the base class, its registration, its audit record, its claims.

An event type is a frozen Struct registered under a plain name and a schema number. The name and the
number are data that outlive the code: they are stored beside every event, never a module path.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import ClassVar, TypeVar

import msgspec

from events.claims import Claim


class Severity(enum.StrEnum):
    """Severities of audit records, weakest first, as in oVirt's audit log."""

    NORMAL = "normal"
    WARNING = "warning"
    ERROR = "error"
    ALERT = "alert"


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The audit record of an event: what admins, mails and traps show of it.

    `code` is oVirt's integer event code where one exists (clients and the MIB depend on it); codes
    from 60,000 on are Chronovisor's own. `message` is a `str.format` template over the event's own
    fields, plus `actor`. `resolves` names the audit record whose trouble this one ends.
    """

    code: int
    name: str
    severity: Severity = Severity.NORMAL
    message: str
    resolves: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all event types. Fields state results, not only what changed."""

    audits: ClassVar[tuple[Audit, ...]] = ()

    def audit(self) -> Audit | None:
        """Return the audit record of this event, or None where it is of no interest to people."""
        return self.audits[0] if self.audits else None

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Return what appending this event to `stream` takes, checks and gives back.

        Claims follow from events alone, so the table of claims can always be rebuilt.
        """
        del stream
        return ()


class EventType(msgspec.Struct, frozen=True, kw_only=True):
    """One registered event type."""

    name: str
    schema: int
    cls: type[Event]


_by_name: dict[str, EventType] = {}
_by_class: dict[type[Event], EventType] = {}
EventClass = TypeVar("EventClass", bound=type[Event])


def event(name: str, *, schema: int = 1) -> Callable[[EventClass], EventClass]:
    """Register the decorated Struct under `name`; `schema` is the number that new events carry."""

    def register(cls: EventClass) -> EventClass:
        if name in _by_name:
            message = f"event name {name!r} is registered twice"
            raise ValueError(message)
        registered = EventType(name=name, schema=schema, cls=cls)
        _by_name[name] = registered
        _by_class[cls] = registered
        return cls

    return register


def registered_types() -> dict[str, EventType]:
    """Return all event types registered so far, by name (import events.types.catalogue first)."""
    return dict(_by_name)


def type_of(cls: type[Event]) -> EventType:
    """Return the registration of an event class; KeyError if it was never registered."""
    return _by_class[cls]
