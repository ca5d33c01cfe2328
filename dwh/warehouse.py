"""The warehouse's one file: DuckDB, owned by this process, written in whole batches.

Each batch is one transaction that also moves the cursor, so a kill at any instant leaves either all
of it or nothing. All methods but `cursor` of a connection block and belong to one writing thread.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import structlog

from dwh import rows
from dwh.configuration import VERSIONED, Row, Versioned, changes
from dwh.deduplication import Key, Mark, Watermarks
from dwh.history import stored_again
from events.audit import audit_record
from events.codec import CODEC, Codec, UnknownEventError
from events.envelope import Recorded, Stored
from events.stream.port import START, Batch, Cursor
from events.wire.telemetry import TelemetryBatch

FILE_NAME = "warehouse.duckdb"
MEMORY_BYTES_MAX = 1024**3
WATERMARK_LIFE = dt.timedelta(days=7)
"""Longer than any telemetry is kept on its way (a day in Kafka)."""
EVENT_TABLES = ("events", "audit", *(kind.table for kind in VERSIONED))
"""What comes from the log, and is seeded anew when the log is another one."""
logger = structlog.get_logger(__name__)


class WarehouseUnavailableError(Exception):
    """The warehouse's file cannot be opened."""


class Warehouse:
    """The tables of schema.sql in `folder/warehouse.duckdb`, and what writes them."""

    def __init__(
        self,
        folder: Path,
        *,
        codec: Codec = CODEC,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        threads: int = 2,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / FILE_NAME
        self._codec = codec
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_bytes_max // 1024**2}MiB",
            "threads": threads,
            "temp_directory": str(folder / "spill"),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
        try:
            self._connection = duckdb.connect(self._path, config=settings)
        except duckdb.Error as error:
            message = f"the warehouse {self._path} cannot be opened: {error}"
            raise WarehouseUnavailableError(message) from error
        self._connection.execute(resources.files("dwh").joinpath("schema.sql").read_text())
        # From here on nothing in this process reaches another file, and nobody may change that.
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")
        oldest = rows.plain_utc(dt.datetime.now(dt.UTC) - WATERMARK_LIFE)
        self._rows("DELETE FROM telemetry_watermarks WHERE time < ?", [oldest])
        # A busy connection refuses every other call, even for a cursor: queries make theirs of one
        # that does nothing else.
        self._for_queries = self._connection.cursor()
        self._watermarks = Watermarks(self._rows("FROM telemetry_watermarks"))
        self._bring_configurations_up_to_date()
        self.events_taken = 0
        self.samples_taken = 0

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """An idle connection, of which a query makes a `cursor()`."""
        return self._for_queries

    @property
    def watermarks(self) -> Watermarks:
        """What telemetry was taken in, for its counters."""
        return self._watermarks

    def close(self) -> None:
        """Close the file, with everything in it."""
        self._for_queries.close()
        self._connection.close()

    def _rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            try:
                self._connection.execute("ROLLBACK")
            except duckdb.Error:
                # A failed commit has already ended the transaction.
                logger.debug("nothing to roll back")
            raise

    @contextmanager
    def _registered(self, name: str, content: pa.Table) -> Iterator[None]:
        """Let statements read an Arrow table under a name."""
        self._connection.register(name, content)
        try:
            yield
        finally:
            self._connection.unregister(name)

    def _insert(self, name: str, content: pa.Table) -> None:
        if content.num_rows == 0:
            return
        with self._registered("incoming", content):
            # The name is one of ours, never a caller's.
            self._connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM incoming")  # noqa: S608

    # ------------------------------------------------------------------------------ events

    def read_cursor(self) -> Cursor:
        """Return the place in the log up to which everything is here."""
        found = self._rows("SELECT log_id, position, hint FROM ingest_cursor")
        if not found:
            return START
        log_id, position, hint = found[0]
        return Cursor(None if log_id is None else uuid.UUID(log_id), position, hint)

    def take_events(self, batch: Batch) -> None:
        """Take in a batch with its cursor.

        Raises UnknownEventError for an event that this release cannot read; those before it are
        taken in, and the cursor stands right before it.
        """
        decoded: list[Recorded] = []
        unknown: UnknownEventError | None = None
        for stored in batch.events:
            try:
                decoded.append(self._codec.decode(stored))
            except UnknownEventError as error:
                unknown = error
                break
        if decoded:
            cursor = batch.cursor
            if unknown is not None:
                cursor = Cursor(cursor.log_id, decoded[-1].position)
            self._store_events(batch.events[: len(decoded)], decoded, cursor)
        if unknown is not None:
            raise unknown

    def _store_events(
        self, events: Sequence[Stored], decoded: Sequence[Recorded], cursor: Cursor
    ) -> None:
        records = [record for each in decoded if (record := audit_record(each)) is not None]
        with self._transaction():
            before = self.read_cursor()
            if before.position + 1 != events[0].position:
                message = f"events from {events[0].position} on, but {before.position} is stored"
                raise ValueError(message)
            self._insert("events", rows.events_table(events))
            self._insert("audit", rows.audit_table(records))
            for kind in VERSIONED:
                self._store_configuration(kind, decoded)
            self._store_cursor(cursor, before)
        self.events_taken += len(events)

    def _store_cursor(self, cursor: Cursor, before: Cursor) -> None:
        if before.log_id is None and cursor.log_id is not None:
            self._note_seed(cursor.log_id, None)
        self._connection.execute("DELETE FROM ingest_cursor")
        log_id = None if cursor.log_id is None else str(cursor.log_id)
        self._connection.execute(
            "INSERT INTO ingest_cursor VALUES (?, ?, ?)", [log_id, cursor.position, cursor.hint]
        )

    def _note_seed(self, log_id: uuid.UUID, before: Cursor | None) -> None:
        now = rows.plain_utc(dt.datetime.now(dt.UTC))
        old = None if before is None else str(before.log_id)
        position = None if before is None else before.position
        self._connection.execute(
            "INSERT INTO seeds VALUES (?, ?, ?, ?)", [now, str(log_id), old, position]
        )

    def _store_configuration(self, kind: Versioned, decoded: Sequence[Recorded]) -> None:
        ids = sorted({each.object_id for each in decoded if isinstance(each.event, kind.events)})
        if not ids:
            return
        result = changes(kind, decoded, self._open_rows(kind, ids))
        if result.closed:
            ends = [(object_id, rows.plain_utc(end)) for object_id, end in result.closed.items()]
            with self._registered("closing", rows.table(rows.CLOSED, ends)):
                self._connection.execute(
                    f"UPDATE {kind.table} AS mine SET valid_to = closing.valid_to "  # noqa: S608
                    f"FROM closing WHERE mine.{kind.kind} = closing.id AND mine.valid_to IS NULL"
                )
        if result.rows:
            self._insert(kind.table, self._configuration_table(kind, result.rows))

    def _bring_configurations_up_to_date(self) -> None:
        """Work configurations out anew that came later than the events, or follow otherwise now."""
        known = dict(self._rows("SELECT kind, revision FROM configuration_revisions"))
        for kind in VERSIONED:
            if known.get(kind.kind) == kind.revision:
                continue
            with self._transaction():
                self._connection.execute(f"DELETE FROM {kind.table}")  # noqa: S608 - one of ours
                for batch in stored_again(self._connection.cursor(), kind):
                    self._store_configuration(kind, [self._codec.decode(one) for one in batch])
                self._connection.execute(
                    "DELETE FROM configuration_revisions WHERE kind = ?", [kind.kind]
                )
                self._connection.execute(
                    "INSERT INTO configuration_revisions VALUES (?, ?)", [kind.kind, kind.revision]
                )

    def _open_rows(self, kind: Versioned, ids: Sequence[str]) -> Mapping[str, Row]:
        statement = (
            f"SELECT * EXCLUDE (position, valid_from, valid_to) FROM {kind.table} "  # noqa: S608
            f"WHERE valid_to IS NULL AND list_contains(?, {kind.kind})"
        )
        found = self._connection.execute(statement, [list(ids)])
        names = [column[0] for column in found.description or ()]
        answer: dict[str, Row] = {}
        for values in found.fetchall():
            row = dict(zip(names, values, strict=True))
            object_id = row.pop(kind.kind)
            answer[object_id] = {name: value for name, value in row.items() if value is not None}
        return answer

    def _configuration_table(self, kind: Versioned, new: Sequence[Row]) -> pa.Table:
        """Return rows as a table of exactly the table's columns and types."""
        schema = self._connection.table(kind.table).limit(0).to_arrow_table().schema
        return rows.table(
            schema,
            ([_plain(row.get(name)) for name in schema.names] for row in new),
        )

    def reseed(self, log_id: uuid.UUID) -> None:
        """Begin anew with another log, keeping what was taken from the one before.

        Its tables get a suffix (`events_before_<first part of the new log's id>`); samples stay.
        """
        before = self.read_cursor()
        suffix = f"before_{log_id.hex[:8]}"
        with self._transaction():
            self._connection.execute("DROP VIEW IF EXISTS vm_runs")
            for name in EVENT_TABLES:
                self._connection.execute(f"ALTER TABLE {name} RENAME TO {name}_{suffix}")
            self._connection.execute(resources.files("dwh").joinpath("schema.sql").read_text())
            self._note_seed(log_id, before)
            self._connection.execute("DELETE FROM ingest_cursor")
            self._connection.execute("INSERT INTO ingest_cursor VALUES (?, 0, NULL)", [str(log_id)])
        logger.warning(
            "the log is another one: the warehouse is seeded anew",
            log_id=str(log_id),
            previous_log_id=str(before.log_id),
            previous_position=before.position,
            kept_as=suffix,
        )

    # --------------------------------------------------------------------------- telemetry

    def telemetry_offsets(self) -> dict[int, int]:
        """Return the next offset of each partition of the telemetry topic."""
        return dict(self._rows("SELECT partition, next_offset FROM telemetry_offsets"))

    def take_telemetry(self, batch: TelemetryBatch) -> None:
        """Take in telemetry that was not taken before, with its places."""
        fresh, marks = self._watermarks.admit(batch.telemetry)
        hosts, vms = rows.host_samples_table(fresh), rows.vm_samples_table(fresh)
        with self._transaction():
            self._insert("host_samples", hosts)
            self._insert("vm_samples", vms)
            self._store_marks(marks)
            for partition, offset in batch.offsets.items():
                self._connection.execute(
                    "DELETE FROM telemetry_offsets WHERE partition = ?", [partition]
                )
                self._connection.execute(
                    "INSERT INTO telemetry_offsets VALUES (?, ?)", [partition, offset]
                )
        self._watermarks.keep(marks)
        self.samples_taken += hosts.num_rows + vms.num_rows

    def _store_marks(self, marks: Mapping[Key, Mark]) -> None:
        if not marks:
            return
        content = rows.table(
            rows.WATERMARKS,
            ((*key, mark.sequence, mark.dropped, mark.time) for key, mark in marks.items()),
        )
        with self._registered("marks", content):
            self._connection.execute(
                "DELETE FROM telemetry_watermarks AS mine USING marks "
                "WHERE mine.host = marks.host AND mine.boot = marks.boot"
            )
            self._connection.execute("INSERT INTO telemetry_watermarks SELECT * FROM marks")


def _plain(value: object) -> object:
    return rows.plain_utc(value) if isinstance(value, dt.datetime) else value
