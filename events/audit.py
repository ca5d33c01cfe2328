"""The audit record of an event, rendered: the same text in the inventory, mails and traps."""

from __future__ import annotations

import datetime as dt
import functools
import operator
import string
from collections.abc import Callable

import msgspec

from events.envelope import Recorded
from events.types.base import Event, Severity


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


Sentence = Callable[[Event, str], str]
"""`(event, actor)` to the message of an audit record."""


@functools.lru_cache(maxsize=4_000)
def _sentence(message: str) -> Sentence:
    """Return what fills in a message (there is one for each record).

    A message that only names fields, as nearly all do, is taken apart here and never again.
    """
    parts = list(string.Formatter().parse(message))
    names = [name for _, name, _, _ in parts if name]
    if any(given or conversion for _, _, given, conversion in parts) or not all(
        name.isidentifier() for name in names
    ):
        roots = {name.partition(".")[0].partition("[")[0] for name in names} - {"actor"}
        return functools.partial(_formatted, message, tuple(roots))
    text = "".join(
        before.replace("%", "%%") + ("%s" if name else "") for before, name, _, _ in parts
    )
    fields = tuple(name for name in names if name != "actor")
    if not fields:
        return lambda _event, actor: text % ((actor,) * len(names))
    if len(names) == 1:
        one = operator.attrgetter(fields[0])
        return lambda event, _actor: text % (one(event),)
    if len(fields) == len(names):
        several = operator.attrgetter(*fields)
        return lambda event, _actor: text % several(event)
    # The actor is looked up like a field, among those before and behind it.
    return lambda event, actor: (
        text % tuple([actor if name == "actor" else getattr(event, name) for name in names])
    )


def _formatted(message: str, fields: tuple[str, ...], event: Event, actor: str) -> str:
    return message.format(**{name: getattr(event, name) for name in fields}, actor=actor)


def audit_record(recorded: Recorded) -> AuditRecord | None:
    """Return the rendered audit record of an event, or None if its type has none."""
    event = recorded.event
    audit = event.audit()
    if audit is None:
        return None
    return AuditRecord(
        position=recorded.position,
        time=recorded.time,
        code=audit.code,
        name=audit.name,
        severity=audit.severity,
        message=_sentence(audit.message)(event, recorded.actor),
        actor=recorded.actor,
        stream=recorded.stream,
        correlation=recorded.correlation,
        resolves=audit.resolves,
    )
