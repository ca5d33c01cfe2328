"""The log's part of a backup: its tables as of one instant, and whether they hold together.

All tables are read in one REPEATABLE READ transaction: every such snapshot of the log is a prefix
of it (contract A), so nothing has to stand still meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg import sql

from chronovisor import backup_copy as copying
from chronovisor.backup_file import Sink
from chronovisor.backup_format import BackupError, BrokenBackupError, LogFacts
from events.claims import Mode
from events.codec import CODEC, Codec, UnknownEventError
from events.log.arrays import microseconds_of
from events.log.claims import ClaimTable, Holding, plan

TABLES: dict[str, tuple[str, ...]] = {
    "log": ("position",),
    "claims": ("key", "holder"),
    "answers": ("principal", "key"),
}
"""The tables of the schema `log` that are taken, each with the order of its rows.

Snapshots are not: they follow from the events.
"""
CONNECT_TIMEOUT_S = 10
Progress = Callable[[int], None]
"""Told how many rows are done."""
PROGRESS_ROWS = 10_000

_COLUMNS = """
select column_name from information_schema.columns
where table_schema = 'log' and table_name = %s order by ordinal_position
"""
_MIGRATIONS = "select migration_id from log._yoyo_migration order by migration_id"
_SESSION: LiteralString = """
select set_config('statement_timeout', '0', false),
    set_config('idle_in_transaction_session_timeout', '0', false),
    set_config('TimeZone', 'UTC', false)
"""


def part_name(table: str) -> str:
    """Return the name of a table's part."""
    return f"log/{table}.copy"


def connect(dsn: str) -> psycopg.Connection[Any]:
    """Open a connection for long statements; raises BackupError."""
    try:
        connection = psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="chronovisor backup",
        )
    except psycopg.Error as error:
        raise BackupError(f"the database cannot be reached: {error}") from error
    connection.execute(_SESSION)
    return connection


class LogSnapshot:
    """The log as of one instant, for as long as the transaction on its connection lasts."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def begin(self) -> LogFacts:
        """Begin the snapshot; raises BackupError where the database has no log."""
        execute = self._connection.execute
        execute("begin isolation level repeatable read read only")
        try:
            identity = execute("select log_id from log.log_identity").fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            identity = None
        if identity is None:
            raise BackupError("the database has no log")
        last = execute("select position, time from log.log order by position desc limit 1")
        position, time = last.fetchone() or (0, None)
        columns = {
            table: tuple(row[0] for row in execute(_COLUMNS, (table,)).fetchall())
            for table in TABLES
        }
        return LogFacts(
            log_id=identity[0],
            position=position,
            last_time=time,
            claims=self._count("claims"),
            answers=self._count("answers"),
            columns=columns,
            migrations=tuple(row[0] for row in execute(_MIGRATIONS).fetchall()),
        )

    def copy(
        self, table: str, columns: tuple[str, ...], sink: Sink, up_to: int | None = None
    ) -> None:
        """Write a table's rows; of the log, those up to a position if one is given."""
        condition: sql.Composable = sql.SQL("")
        if up_to is not None:
            condition = sql.SQL(" where position <= {}").format(sql.Literal(up_to))
        statement = sql.SQL(
            "copy (select {columns} from log.{table}{condition} order by {order})"
            " to stdout (format binary)"
        ).format(
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            table=sql.Identifier(table),
            condition=condition,
            order=sql.SQL(", ").join(map(sql.Identifier, TABLES[table])),
        )
        with self._connection.cursor().copy(statement) as rows:
            for chunk in rows:
                sink.write(chunk)

    def _count(self, table: str) -> int:
        query = sql.SQL("select count(*) from log.{}").format(sql.Identifier(table))
        row = self._connection.execute(query).fetchone()
        return int(row[0]) if row else 0


class LogCheck:
    """Whether the tables of a log hold together: `events`, then `claims`, then `answers`.

    Memory grows with the number of streams and of claims, not with that of events.
    """

    def __init__(self, facts: LogFacts, codec: Codec = CODEC) -> None:
        self._facts = facts
        self._codec = codec
        self._claims = ClaimTable()
        self._versions: dict[str, int] = {}

    def events(self, chunks: Iterable[bytes], progress: Progress) -> None:
        """Check positions, versions, times and payloads; fold the claims."""
        columns = self._facts.columns["log"]
        at = copying.places(columns, "position", "stream", "version", "name", "schema", "payload")
        (when,) = copying.places(columns, "time")
        position, last = 0, 0
        for row in copying.rows(chunks, len(columns)):
            fields = tuple(row[place] for place in at)
            position += 1
            if copying.int8(fields[0]) != position:
                raise BrokenBackupError(
                    f"the log has position {copying.int8(fields[0])} where {position} must come"
                )
            time = copying.int8(row[when])
            if time < last:
                raise BrokenBackupError(f"the log's time falls at position {position}")
            last = time
            self._event(position, fields)
            if position % PROGRESS_ROWS == 0:
                progress(position)
        progress(position)
        self._check_end(position, last)

    def _event(self, position: int, fields: tuple[bytes | None, ...]) -> None:
        stream, version = copying.text(fields[1]), copying.int4(fields[2])
        if version != self._versions.get(stream, 0) + 1:
            raise BrokenBackupError(
                f"stream {stream} has version {version} at position {position},"
                f" behind version {self._versions.get(stream, 0)}"
            )
        self._versions[stream] = version
        try:
            event = self._codec.decode_payload(
                copying.text(fields[3]), copying.int2(fields[4]), fields[5] or b""
            )
        except UnknownEventError as error:
            raise BackupError(f"position {position} was written by a newer release: {error}") from (
                error
            )
        except msgspec.MsgspecError as error:
            raise BrokenBackupError(f"the event at position {position}: {error}") from error
        claims = event.claims(stream)
        if claims:
            self._claims.apply(plan(claims).effects)

    def _check_end(self, position: int, last: int) -> None:
        if position != self._facts.position:
            raise BrokenBackupError(
                f"the log has {position} events, the manifest says {self._facts.position}"
            )
        time = self._facts.last_time
        if time is not None and microseconds_of(time) != last:
            raise BrokenBackupError("the log's last time is not the manifest's")

    def claims(self, chunks: Iterable[bytes]) -> None:
        """Compare the table of claims with what the events say."""
        columns = self._facts.columns["claims"]
        key, holder, mode, amount = copying.places(columns, "key", "holder", "mode", "amount")
        expected = self._claims.rows()
        count = 0
        for row in copying.rows(chunks, len(columns)):
            count += 1
            name = (copying.text(row[key]), copying.text(row[holder]))
            held = Holding(Mode(copying.text(row[mode])), copying.int8(row[amount]))
            if expected.pop(name, None) != held:
                raise BrokenBackupError(
                    f"the claim of {name[1]} on {name[0]} does not follow from the events"
                )
        if expected:
            missed = next(iter(expected))
            raise BrokenBackupError(
                f"{len(expected)} claims are missing that follow from the events,"
                f" such as that of {missed[1]} on {missed[0]}"
            )
        self._check_count("claims", count, self._facts.claims)

    def answers(self, chunks: Iterable[bytes]) -> None:
        """Check that answers speak of events that are there."""
        columns = self._facts.columns["answers"]
        first, number = copying.places(columns, "first", "count")
        count = 0
        for row in copying.rows(chunks, len(columns)):
            count += 1
            last = copying.int8(row[first]) + copying.int4(row[number]) - 1
            if not 0 <= last <= self._facts.position:
                raise BrokenBackupError(f"an answer speaks of position {last}, beyond the log")
        self._check_count("answers", count, self._facts.answers)

    @staticmethod
    def _check_count(table: str, found: int, expected: int) -> None:
        if found != expected:
            raise BrokenBackupError(
                f"the table {table} has {found} rows, the manifest says {expected}"
            )


def other_columns(backup: Mapping[str, tuple[str, ...]], target: Mapping[str, Any]) -> list[str]:
    """Return the columns that a backup has and this release's tables have not."""
    return [
        f"{table}.{column}"
        for table, columns in backup.items()
        for column in columns
        if column not in target.get(table, ())
    ]
