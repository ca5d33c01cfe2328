"""A group of commands as the one call that appends it, and the call's rows as their outcomes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any

import msgspec

from events.log import arrays
from events.log.claims import Effect, Kind, Need
from events.log.port import Appended, Claimed, Conflict, KeyReused, Outcome
from events.log.preparation import Prepared

EVENT_COLUMNS = 10
NEED_COLUMNS = 6
EFFECT_COLUMNS = 4
EVENT_OIDS = (
    arrays.TEXT,  # stream
    arrays.INT4,  # version
    arrays.TEXT,  # name
    arrays.INT2,  # schema
    arrays.BYTEA,  # payload
    arrays.TEXT,  # actor
    arrays.UUID,  # command
    arrays.TEXT,  # correlation
    arrays.TEXT,  # causation
    arrays.TEXT,  # addressee
)
NEED_OIDS = (
    arrays.TEXT,  # key
    arrays.TEXT,  # kind
    arrays.TEXT,  # holder
    arrays.INT8,  # amount
    arrays.INT8,  # limit
    arrays.TEXT,  # mode
)
EFFECT_OIDS = (arrays.TEXT, arrays.TEXT, arrays.TEXT, arrays.INT8)  # key, holder, mode, amount

Elements = tuple[bytes, ...]


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """A prepared command with its array elements; tuples hold one element for each column."""

    prepared: Prepared
    principal: bytes
    key: bytes
    mac: bytes
    answer: bytes
    time: int  # microseconds, as PostgreSQL counts them
    read_streams: list[bytes]
    read_versions: list[int]
    events: list[Elements]
    needs: Sequence[Elements]
    excepted: Sequence[tuple[int, bytes]]  # number of the need within the command, holder
    effects: Sequence[Elements]


def encode(prepared: Prepared) -> Encoded:
    """Encode what a command sends; the work is done while it waits for its turn."""
    append = prepared.append
    text, frequent, optional = arrays.text, arrays.frequent_text, arrays.optional_text
    actor = frequent(append.actor)
    command = arrays.raw(append.command.bytes)
    correlation = optional(append.correlation)
    causation = optional(append.causation)
    streams = {stream: text(stream) for stream in append.reads}
    events: list[Elements] = [
        (
            streams[row.stream],
            arrays.int4(row.version),
            frequent(row.name),
            arrays.int2(row.schema),
            arrays.raw(row.payload),
            actor,
            command,
            correlation,
            causation,
            optional(row.addressee),
        )
        for row in prepared.rows
    ]
    return Encoded(
        prepared=prepared,
        principal=frequent(append.principal),
        key=text(prepared.key),
        mac=arrays.raw(append.body_mac),
        answer=arrays.raw(append.answer),
        time=arrays.microseconds_of(append.time),
        read_streams=list(streams.values()),
        read_versions=list(append.reads.values()),
        events=events,
        needs=_needs(prepared.plan.needs),
        excepted=_excepted(prepared.plan.needs),
        effects=_effects(prepared.plan.effects),
    )


def _needs(needs: Sequence[Need]) -> Sequence[Elements]:
    if not needs:
        return ()
    text, frequent, int8 = arrays.text, arrays.frequent_text, arrays.int8
    return [
        (
            text(need.key),
            frequent(need.kind),
            text(need.excepted[0]),
            int8(need.amount),
            int8(need.limit),
            frequent(need.mode),
        )
        for need in needs
    ]


def _excepted(needs: Sequence[Need]) -> Sequence[tuple[int, bytes]]:
    if not needs:
        return ()
    return [
        (number, arrays.text(holder))
        for number, need in enumerate(needs)
        if need.kind is not Kind.NEVER
        for holder in need.excepted[1:]
    ]


def _effects(effects: Sequence[Effect]) -> Sequence[Elements]:
    if not effects:
        return ()
    text, frequent, int8 = arrays.text, arrays.frequent_text, arrays.int8
    return [
        (
            text(effect.key),
            text(effect.holder),
            arrays.NULL if effect.holding is None else frequent(effect.holding.mode),
            int8(0 if effect.holding is None else effect.holding.amount),
        )
        for effect in effects
    ]


def rising_times(group: Sequence[Encoded]) -> list[int]:
    """Return the commands' times, none of them before that of an earlier command."""
    times: list[int] = []
    latest = 0
    for encoded in group:
        latest = max(latest, encoded.time) if times else encoded.time
        times.append(latest)
    return times


def parameters(group: Sequence[Encoded], times: Sequence[int]) -> list[arrays.Array]:
    """Return the arguments of `log.append_group`, in its order."""
    counts = [len(encoded.events) for encoded in group]
    offsets: list[int] = []
    total = 0
    for count in counts:
        offsets.append(total)
        total += count
    events = _columns([encoded.events for encoded in group], EVENT_OIDS)
    needs = _columns([encoded.needs for encoded in group], NEED_OIDS)
    effects = _columns([encoded.effects for encoded in group], EFFECT_OIDS)
    exceptions = _exceptions(group)
    reads = [encoded.read_streams for encoded in group]
    return [
        arrays.array(arrays.TEXT, [encoded.principal for encoded in group]),
        arrays.array(arrays.TEXT, [encoded.key for encoded in group]),
        arrays.array(arrays.BYTEA, [encoded.mac for encoded in group]),
        arrays.array(arrays.BYTEA, [encoded.answer for encoded in group]),
        arrays.time_array(times),
        arrays.int4_array(counts),
        arrays.int4_array(offsets),
        _numbers([len(streams) for streams in reads]),
        arrays.array(arrays.TEXT, list(chain.from_iterable(reads))),
        arrays.int4_array(chain.from_iterable([encoded.read_versions for encoded in group])),
        _numbers(counts),
        *events[:5],
        arrays.time_array(chain.from_iterable(map(repeat, times, counts))),
        *events[5:],
        _numbers([len(encoded.needs) for encoded in group]),
        *needs,
        arrays.int4_array([number for number, _ in exceptions]),
        arrays.array(arrays.TEXT, [holder for _, holder in exceptions]),
        _numbers([len(encoded.effects) for encoded in group]),
        *effects,
    ]


def _columns(commands: Sequence[Sequence[Elements]], oids: Sequence[int]) -> list[arrays.Array]:
    """Turn the commands' rows into one array for each column."""
    columns = list(zip(*chain.from_iterable(commands), strict=True))
    if not columns:
        return [arrays.array(oid, ()) for oid in oids]
    return [arrays.array(oid, column) for oid, column in zip(oids, columns, strict=True)]


def _numbers(counts: Sequence[int]) -> arrays.Array:
    """Return the array that says of each row which command it is of."""
    return arrays.int4_array(chain.from_iterable(map(repeat, range(1, len(counts) + 1), counts)))


def _exceptions(group: Sequence[Encoded]) -> list[tuple[int, bytes]]:
    """Number the needs through the group, for those that leave out more than one holder."""
    found: list[tuple[int, bytes]] = []
    before = 0
    for encoded in group:
        if encoded.excepted:
            found.extend((before + number + 1, holder) for number, holder in encoded.excepted)
        before += len(encoded.needs)
    return found


class Deferred(msgspec.Struct, frozen=True):
    """The command overlaps an earlier one of its group, and is to be sent again."""


DEFERRED = Deferred()

Rows = Sequence[tuple[Any, ...]]


def outcomes(
    group: Sequence[Encoded], times: Sequence[int], rows: Rows
) -> list[Outcome | Deferred]:
    """Return each command's outcome from the rows of `log.append_group`."""
    found: list[Outcome | Deferred | None] = [None] * len(group)
    first = 0
    last_time: dt.datetime | None = None
    for row in rows:
        if row[1] == "accepted":
            first, last_time = row[2], row[4]
        else:
            found[row[0] - 1] = _refusal_or_repeat(row)
    floor = arrays.microseconds_of(last_time) if last_time is not None else times[0]
    result: list[Outcome | Deferred] = []
    for encoded, microseconds, outcome in zip(group, times, found, strict=True):
        if outcome is not None:
            result.append(outcome)
            continue
        append, count = encoded.prepared.append, len(encoded.events)
        result.append(
            Appended(
                first=first,
                count=count,
                time=append.time.astimezone(dt.UTC)
                if floor <= microseconds == encoded.time
                else arrays.time_of(max(floor, microseconds)),
                answer=append.answer,
            )
        )
        first += count
    return result


def _refusal_or_repeat(row: tuple[Any, ...]) -> Outcome | Deferred:
    _, outcome, first, count, time, answer, subject, holder, mode, expected, actual = row
    match outcome:
        case "repeated":
            return Appended(
                first=first,
                count=count,
                time=time.astimezone(dt.UTC),
                answer=bytes(answer),
                repeated=True,
            )
        case "key_reused":
            return KeyReused(key=subject)
        case "conflict":
            return Conflict(stream=subject, expected=expected, actual=actual)
        case "claimed":
            return Claimed(key=subject, holder=holder, mode=mode)
        case _:
            return DEFERRED
