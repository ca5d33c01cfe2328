"""Bringing a log back: into an empty database, in one transaction, as another log.

The copied rows are read back and compared with the backup before anything is committed. Behind
them come `log.restored`, and for each host a note that what it runs is not known any more.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from uuid_utils.compat import uuid7

from chronovisor import backup_vault
from chronovisor.backup_file import BackupReader
from chronovisor.backup_format import BackupError, BrokenBackupError, LogFacts, Part
from chronovisor.backup_log import TABLES, LogSnapshot, connect, other_columns, part_name
from events.codec import CODEC
from events.envelope import NewEvent
from events.log import claims
from events.log.migrate import migrate
from events.log.port import Append
from events.log.preparation import prepare
from events.types.host import HostAdded, HostRemoved, HostStateUnconfirmed
from events.types.log import LogRestored

ACTOR = "restore"
HOSTS_AT_ONCE = 500
EPOCH = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
"""Incarnations after a restore count from the seconds since then: no VM starts once a second, so
none of them was given out before, by whatever log this one's backup has lost.
"""
LOG_LOCK = 7301
_HOSTS = """
select l.stream, l.name, l.schema, l.payload,
    (select max(version) from log.log h where h.stream = l.stream)
from log.log l where l.name in ('host.added', 'host.removed') order by l.position
"""
_EARLIER = "select name, schema, payload from log.log where name = 'log.restored'"
_INSERT_EVENT = """
insert into log.log (position, time, command, version, schema, stream, name, actor, payload)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_INSERT_ANSWER = """
insert into log.answers (principal, key, body_mac, answer, first, count, time)
values (%s, %s, %s, %s, %s, %s, %s)
"""

Connection = psycopg.Connection[Any]
Progress = Callable[[str, int], None]


class RestoredLog(msgspec.Struct, frozen=True, kw_only=True):
    """A log that was brought back: its new id, the backup's last position, hosts to be heard."""

    log_id: uuid.UUID
    position: int
    hosts: int


def restore_log(
    dsn: str,
    reader: BackupReader,
    facts: LogFacts,
    progress: Progress,
    *,
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> RestoredLog:
    """Bring the backup's log into a database that has none; raises BackupError."""
    try:
        migrate(dsn)
        backup_vault.prepare(dsn)
        with connect(dsn) as connection:
            _require_room(connection, facts)
            with connection.transaction():
                connection.execute("select pg_advisory_xact_lock(%s)", (LOG_LOCK,))
                _require_empty(connection)
                for table in TABLES:
                    _copy_in(connection, reader, table, facts.columns[table], progress)
                _compare(connection, reader, facts)
                backup_vault.put(connection, reader)
                restored = _note(connection, reader, facts, now())
            connection.execute("analyze log.log, log.claims, log.answers")
    except psycopg.Error as error:
        raise BackupError(f"the log cannot be restored: {error}") from error
    return restored


def _require_room(connection: Connection, facts: LogFacts) -> None:
    """Refuse a backup of a newer release."""
    rows = connection.execute(
        "select table_name, column_name from information_schema.columns where table_schema = 'log'"
    ).fetchall()
    known: dict[str, set[str]] = {}
    for table, column in rows:
        known.setdefault(table, set()).add(column)
    odd = other_columns(facts.columns, known)
    if odd:
        raise BackupError(
            f"the backup was made by a newer release: this one knows no {', '.join(odd)}"
        )


def _require_empty(connection: Connection) -> None:
    row = connection.execute("select log_id from log.log_identity").fetchone()
    head = connection.execute("select max(position) from log.log").fetchone()
    if row is not None and head is not None and head[0] is not None:
        raise BackupError(
            f"the database already holds log {row[0]} with {head[0]} events; a restore never"
            " replaces one: use an empty database"
        )


def _part(reader: BackupReader, table: str) -> Part:
    part = reader.manifest.part(part_name(table))
    if part is None:
        raise BrokenBackupError(f"the table {table} of the log is missing")
    return part


def _copy_in(
    connection: Connection,
    reader: BackupReader,
    table: str,
    columns: Sequence[str],
    progress: Progress,
) -> None:
    statement = sql.SQL("copy log.{} ({}) from stdin (format binary)").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    done = 0
    with connection.cursor().copy(statement) as rows:
        for chunk in reader.chunks(_part(reader, table)):
            rows.write(chunk)
            done += len(chunk)
            progress(part_name(table), done)


class _Digest:
    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, content: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        self.digest.update(content)


def _compare(connection: Connection, reader: BackupReader, facts: LogFacts) -> None:
    """Read the tables back: what stands in the database is what stands in the backup."""
    snapshot = LogSnapshot(connection)
    for table in TABLES:
        found = _Digest()
        snapshot.copy(table, facts.columns[table], found)
        if found.digest.hexdigest() != _part(reader, table).sha256:
            raise BackupError(f"the table {table} reads back differently than it was written")


def _note(
    connection: Connection, reader: BackupReader, facts: LogFacts, now: dt.datetime
) -> RestoredLog:
    """Give the log its new id, and write down what a restore means."""
    row = connection.execute("select log.renew_identity()").fetchone()
    if row is None:
        raise BackupError("the database's log has no identity")
    log_id: uuid.UUID = row[0]
    hosts = _hosts(connection)
    incarnations_from = _incarnations_from(connection, now)
    restored = LogRestored(
        previous_log=str(facts.log_id),
        position=facts.position,
        taken=reader.manifest.created_at,
        hosts=len(hosts),
        incarnations_from=incarnations_from,
    )
    events = [(NewEvent(f"log/{log_id}", restored), 0)]
    for stream, (name, version) in hosts.items():
        unconfirmed = HostStateUnconfirmed(name=name, incarnations_from=incarnations_from)
        events.append((NewEvent(stream, unconfirmed), version))
    time = max(now, facts.last_time or now)
    position = facts.position
    for at in range(0, len(events), HOSTS_AT_ONCE):
        position = _append(connection, events[at : at + HOSTS_AT_ONCE], position, time)
    return RestoredLog(log_id=log_id, position=facts.position, hosts=len(hosts))


def _hosts(connection: Connection) -> dict[str, tuple[str, int]]:
    """Return the name and version of each host's stream, of all that were not removed.

    Those that never joined are among them: they may have done so after the backup.
    """
    hosts: dict[str, tuple[str, int]] = {}
    for stream, name, schema, payload, version in connection.execute(_HOSTS).fetchall():
        event = CODEC.decode_payload(name, schema, bytes(payload))
        if isinstance(event, HostAdded):
            hosts[stream] = (event.name, version)
        elif isinstance(event, HostRemoved):
            hosts.pop(stream, None)
    return hosts


def _incarnations_from(connection: Connection, now: dt.datetime) -> int:
    earlier = [
        event.incarnations_from
        for name, schema, payload in connection.execute(_EARLIER).fetchall()
        if isinstance(event := CODEC.decode_payload(name, schema, bytes(payload)), LogRestored)
    ]
    return max([int((now - EPOCH).total_seconds()), *(number + 1 for number in earlier)])


def _append(
    connection: Connection,
    group: Sequence[tuple[NewEvent, int]],
    position: int,
    time: dt.datetime,
) -> int:
    """Append a group of events as one command, as the log itself would; return its last position.

    The log's own function cannot: it would have to be another transaction than the copying.
    """
    append = Append(
        command=uuid7(),
        principal=ACTOR,
        actor=ACTOR,
        reads={new.stream: version for new, version in group},
        events=tuple(new for new, _version in group),
        time=time,
    )
    prepared = prepare(append, CODEC)
    if prepared.plan is not claims.NOTHING:
        raise BackupError("an event of the restore claims something")
    with connection.cursor() as cursor:
        cursor.executemany(
            _INSERT_EVENT,
            [
                (
                    *(place, time, append.command, row.version, row.schema),
                    *(row.stream, row.name, ACTOR, row.payload),
                )
                for place, row in enumerate(prepared.rows, position + 1)
            ],
        )
        count = len(prepared.rows)
        cursor.execute(_INSERT_ANSWER, (ACTOR, prepared.key, b"", b"{}", position + 1, count, time))
    return position + count
