"""Backups made by hand: small logs in COPY's format, and files around them."""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from chronovisor.backup_file import BackupWriter
from chronovisor.backup_format import FORMAT, LogFacts, Manifest, Part, Scope
from chronovisor.backup_log import part_name
from chronovisor.backup_seal import Sealer
from events.codec import CODEC
from events.log.arrays import microseconds_of
from events.types.base import Event
from events.types.cluster import ClusterCreated
from events.types.data_center import DataCenterCreated

LOG_ID = uuid.UUID(int=7)
BEGAN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
COLUMNS = {
    "log": ("position", "time", "version", "schema", "stream", "name", "payload"),
    "claims": ("key", "holder", "mode", "amount"),
    "answers": ("first", "count"),
}
Row = tuple[bytes | None, ...]


def copied(rows: Iterable[Sequence[bytes | None]]) -> bytes:
    """Return rows as PostgreSQL's COPY writes them."""
    content = bytearray(b"PGCOPY\n\xff\r\n\0" + bytes(8))
    for row in rows:
        content += struct.pack("!h", len(row))
        for field in row:
            length = -1 if field is None else len(field)
            content += struct.pack("!i", length) + (field or b"")
    return bytes(content + struct.pack("!h", -1))


def event_row(
    position: int, stream: str, version: int, event: Event, *, second: int | None = None
) -> Row:
    """Return an event's row; its time is so many seconds after the beginning."""
    name, schema, payload = CODEC.encode(event)
    time = BEGAN + dt.timedelta(seconds=position if second is None else second)
    return (
        struct.pack("!q", position),
        struct.pack("!q", microseconds_of(time)),
        struct.pack("!i", version),
        struct.pack("!h", schema),
        stream.encode(),
        name.encode(),
        payload,
    )


def claim_row(key: str, holder: str, mode: str) -> Row:
    """Return a claim's row."""
    return (key.encode(), holder.encode(), mode.encode(), struct.pack("!q", 0))


def answer_row(first: int, count: int) -> Row:
    """Return an answer's row."""
    return (struct.pack("!q", first), struct.pack("!i", count))


DATA_CENTER = DataCenterCreated(name="North", compatibility_version="4.8")
CLUSTER = ClusterCreated(
    name="Default",
    data_center="d1",
    architecture="x86_64",
    cpu_model="Nehalem",
    machine_type="pc-q35-7.2",
    compatibility_version="4.8",
)
EVENTS = (
    event_row(1, "data_center/d1", 1, DATA_CENTER),
    event_row(2, "cluster/c1", 1, CLUSTER),
)


def claims_of(*events: tuple[str, Event]) -> list[Row]:
    """Return the rows of what events claim, none of which is a release."""
    return [
        claim_row(claim.key, claim.holder, claim.mode)
        for stream, event in events
        for claim in event.claims(stream)
    ]


CLAIMS = claims_of(("data_center/d1", DATA_CENTER), ("cluster/c1", CLUSTER))


def facts(position: int = 2, *, claims: int = len(CLAIMS), answers: int = 1) -> LogFacts:
    """Return what a manifest says of a log."""
    return LogFacts(
        log_id=LOG_ID,
        position=position,
        last_time=BEGAN + dt.timedelta(seconds=position),
        claims=claims,
        answers=answers,
        columns=COLUMNS,
        migrations=("0001.tables",),
    )


def manifest(parts: Sequence[Part], sealer: Sealer | None, log: LogFacts | None) -> Manifest:
    """Return a manifest."""
    return Manifest(
        format=FORMAT,
        product_version="0",
        created_at=BEGAN,
        host="here",
        scopes=(Scope.LOG,),
        parts=tuple(parts),
        log=log,
        sealing=sealer.sealing if sealer is not None else None,
    )


def write_backup(
    path: Path,
    *,
    events: Iterable[Row] = EVENTS,
    claims: Iterable[Row] = CLAIMS,
    answers: Iterable[Row] = (answer_row(1, 2),),
    log: LogFacts | None = None,
    sealer: Sealer | None = None,
) -> Path:
    """Write a backup of a log."""
    with BackupWriter(path) as writer:
        for table, rows in (("log", events), ("claims", claims), ("answers", answers)):
            with writer.part(part_name(table), Scope.LOG) as sink:
                sink.write(copied(rows))
        writer.finish(manifest(writer.parts, sealer, log or facts()), sealer)
    return path
