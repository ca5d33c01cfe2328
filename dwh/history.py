"""The warehouse's own events, read again: what a table that came later is filled from."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any

import duckdb

from dwh.configuration import Versioned
from events.envelope import Stored
from events.types.base import type_of

BATCH_EVENTS_MAX = 2_000
_COLUMNS = (
    "position, stream, version, name, schema, payload::VARCHAR, time, actor, command,"
    " correlation, causation, addressee"
)


def stored_again(
    connection: duckdb.DuckDBPyConnection, kind: Versioned
) -> Iterator[tuple[Stored, ...]]:
    """Yield the stored events that a kind's configurations follow from, in order.

    The connection sees what was committed before it began to read.
    """
    names = [type_of(each).name for each in kind.events]
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM events WHERE list_contains(?, name) ORDER BY position",  # noqa: S608
        [names],
    )
    while rows := found.fetchmany(BATCH_EVENTS_MAX):
        yield tuple(_stored(row) for row in rows)


def _stored(row: tuple[Any, ...]) -> Stored:
    position, stream, version, name, schema, payload, time, actor, command, *rest = row
    correlation, causation, addressee = rest
    return Stored(
        position=position,
        stream=stream,
        version=version,
        name=name,
        schema=schema,
        payload=payload.encode(),
        time=time.replace(tzinfo=dt.UTC),
        actor=actor,
        command=uuid.UUID(command),
        correlation=correlation,
        causation=causation,
        addressee=addressee,
    )
