"""events.md: every event type with its fields, and its audit records with their codes."""

from __future__ import annotations

import re

from msgspec import inspect

from docs.generator import words
from events.types import catalogue
from events.types.base import Audit, EventType

PREAMBLE = """
What happened is an event in the log; everything that Chronovisor shows is derived from events. An
event has a position in the log, an id, a stream and its version, a name and a schema number, a
time, an actor, and the command, the operation (correlation) and the event (causation) that led to
it. This page lists the fields that each type adds. Names and schema numbers never change their
meaning: an old event is lifted to today's schema when it is read.

An event that people are told of declares an audit record: it is what the audit log, mails and SNMP
traps show. Codes are oVirt's where oVirt has one for the fact; from 60,000 on they are
Chronovisor's own. `resolves` names the record whose trouble the event ends.
"""


def page() -> list[str]:
    """The lines of the page."""
    lines = [*words.heading(1, "Events"), *words.paragraph(PREAMBLE), *_codes()]
    parts: dict[str, inspect.StructType] = {}
    for module in catalogue.MODULES:
        own = [one for one in catalogue.TYPES.values() if one.cls.__module__ == module.__name__]
        title, _, rest = (module.__doc__ or "").strip().partition("\n")
        lines += [*words.heading(2, title.rstrip(".")), *words.paragraph(rest)]
        for kind in own:
            lines += _event(kind, parts)
    lines += words.heading(2, "Parts of events")
    for name in sorted(parts):
        lines += [*words.heading(3, name), *words.paragraph(parts[name].cls.__doc__)]
        lines += _fields(parts[name].fields)
    return lines


def _codes() -> list[str]:
    rows = [
        (audit.code, audit.name, audit.severity.value, kind)
        for kind in catalogue.TYPES.values()
        for audit in kind.cls.audits
    ]
    return [
        *words.heading(2, "Audit codes"),
        *words.table(
            ("code", "name", "severity", "event"),
            (
                (str(code), words.code(name), severity, f"[{kind.name}](#{_anchor(kind)})")
                for code, name, severity, kind in sorted(rows, key=lambda row: row[:2])
            ),
        ),
    ]


def _title(kind: EventType) -> str:
    return f"{kind.name}, schema {kind.schema}"


def _anchor(kind: EventType) -> str:
    return words.anchor(_title(kind))


def _event(kind: EventType, parts: dict[str, inspect.StructType]) -> list[str]:
    struct = words.struct_of(kind.cls)
    for part in words.structs_within(struct)[1:]:
        parts[part.cls.__name__] = part
    return [
        *words.heading(3, _title(kind)),
        *words.paragraph(kind.cls.__doc__),
        *_fields(struct.fields),
        *words.table(
            ("audit", "name", "severity", "message", "resolves"),
            (_audit(audit) for audit in kind.cls.audits),
        ),
    ]


def _audit(audit: Audit) -> tuple[str, ...]:
    message = re.sub(r"\{(\w+)\}", r"*\1*", audit.message)
    resolves = words.code(audit.resolves or "")
    return str(audit.code), words.code(audit.name), audit.severity.value, message, resolves


def _fields(fields: tuple[inspect.Field, ...]) -> list[str]:
    rows = (
        (words.code(field.encode_name), words.of_type(field.type), words.of_default(field))
        for field in fields
    )
    return words.table(("field", "type", "default"), rows)
