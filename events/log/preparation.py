"""An append made ready: checked, its events encoded and numbered, its claims planned."""

from __future__ import annotations

import msgspec

from events.claims import Claim
from events.codec import Codec
from events.log import claims
from events.log.port import GROUP_BYTES_MAX, GROUP_EVENTS_MAX, Append


class Row(msgspec.Struct, frozen=True, gc=False):
    """What is an event's own in the log; the rest of its row is the command's."""

    stream: str
    version: int
    name: str
    schema: int
    payload: bytes
    addressee: str | None


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """An append with its rows and its plan of claims.

    `key` is its answer's, `size_bytes` is what it sends, nearly.
    """

    append: Append
    key: str
    rows: tuple[Row, ...]
    plan: claims.Plan
    size_bytes: int


class AppendTooLargeError(ValueError):
    """One command has more events or bytes than a whole group may have."""


ROW_OVERHEAD_BYTES = 160
"""What an event's columns other than its payload take on the way, nearly."""


def prepare(append: Append, codec: Codec) -> Prepared:
    """Check, encode and plan an append.

    Raises ValueError for what no decision may ask: a stream that is written but has no version in
    `reads`, a time without a zone, a NUL character in a name, or more than a group may hold.
    """
    if append.time.tzinfo is None:
        raise ValueError("the time of an append must have a time zone")
    if len(append.events) > GROUP_EVENTS_MAX:
        raise AppendTooLargeError(
            f"{len(append.events)} events in one append exceed {GROUP_EVENTS_MAX}"
        )
    versions = append.reads.copy()
    rows: list[Row] = []
    size_bytes = len(append.answer)
    for new in append.events:
        name, schema, payload = codec.encode(new.event)
        version = versions.get(new.stream)
        if version is None:
            raise ValueError(f"{new.stream} is written, but its version is not among the reads")
        versions[new.stream] = version = version + 1
        rows.append(Row(new.stream, version, name, schema, payload, new.addressee))
        size_bytes += len(payload) + ROW_OVERHEAD_BYTES
    if size_bytes > GROUP_BYTES_MAX:
        raise AppendTooLargeError(f"{size_bytes} B in one append exceed {GROUP_BYTES_MAX} B")
    asked: list[Claim] = []
    for new in append.events:
        asked += new.event.claims(new.stream)
    plan = claims.plan(asked) if asked else claims.NOTHING
    prepared = Prepared(append, append.answer_key, tuple(rows), plan, size_bytes)
    _refuse_nul(prepared)
    return prepared


def _refuse_nul(prepared: Prepared) -> None:
    """Raise ValueError if a text has a NUL character, which PostgreSQL's text cannot hold."""
    append = prepared.append
    texts = [
        append.principal,
        append.actor,
        prepared.key,
        append.correlation or "",
        append.causation or "",
        *append.reads,
        *[row.addressee for row in prepared.rows if row.addressee is not None],
    ]
    if prepared.plan is not claims.NOTHING:
        for effect in prepared.plan.effects:
            texts += (effect.key, effect.holder)
        texts += [need.key for need in prepared.plan.needs]
    if "\0" in "".join(texts):
        raise ValueError("a NUL character cannot be stored in a name, key or stream")
