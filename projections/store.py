"""The inventory's tables: made, read and written, one batch at a time, always with the position."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import resources
from typing import Any

import msgspec
import psycopg

from events.stream.port import START, Cursor
from projections import statements
from projections.connection import Connection
from projections.statements import MANY, Part
from projections.views.inventory import Inventory
from projections.views.shelf import Shelf
from projections.views.table import Row, Table
from projections.views.tables import (
    AUDIT_COLUMNS,
    REMOVED_COLUMNS,
    TABLES,
    VMS,
    audit_row,
    shelves,
)

SERVED = "inventory"
NEXT = "inventory_next"
FORMER = "inventory_former"
NAMES = ("cursor", "removed", *(table.name for table in TABLES))
COPY_ROWS_MIN = 100
"""From so many rows on, COPY into a stage and one upsert are faster than rows as parameters."""

INDEX_TIMEOUT_MS = 1_800_000
STATISTICS_TARGET = 10
"""Looks at 3,000 rows of each table, instead of 30,000, before it is served. The autovacuum, to
which all rows of a new table are changes, is to do the same thoroughly soon.
"""

_FINISHING = (
    f"SELECT set_config('statement_timeout', '{INDEX_TIMEOUT_MS}ms', true),"
    f" set_config('default_statistics_target', '{STATISTICS_TARGET}', true);"
)
_ANALYZE_AUDITS = "ANALYZE inventory.events;"


class FencedError(Exception):
    """Somebody else moved the inventory's position: this writer has lost its place."""


class Changes(msgspec.Struct, frozen=True):
    """What one write does to one table: rows to insert or replace, and ids to delete."""

    part: Part
    rows: list[Row]
    removed: list[str]


def _change(
    table: str,
    columns: dict[str, str],
    rows: list[Row],
    removed: list[str] | None = None,
    *,
    insert_only: bool = False,
) -> Changes:
    part = Part(
        table=table,
        columns=tuple(columns.items()),
        rows=min(len(rows), MANY),
        deletes=bool(removed),
        insert_only=insert_only,
    )
    return Changes(part, rows, removed or [])


def audits_of(inventory: Inventory) -> list[Changes]:
    """Return the audit records of an inventory's batch, rendered, and no document."""
    rows = [audit_row(record) for record in inventory.audits]
    return [_change("events", AUDIT_COLUMNS, rows, insert_only=True)] if rows else []


def changes_of(inventory: Inventory, only: Sequence[Shelf[Any]] | None = None) -> list[Changes]:
    """Return what an inventory's batch changes, rendered: the inventory may go on meanwhile.

    `only`: the shelves that are to be written; all of them without it.
    """
    changes: list[Changes] = []
    removed: list[Row] = []
    for table, shelf in shelves(inventory):
        if only is not None and not any(shelf is one for one in only):
            continue
        if shelf.changed or shelf.removed:
            gone = sorted(shelf.removed.keys() - shelf.unwritten)
            fresh, changed = table.rows(shelf)
            if changed or gone:
                changes.append(_change(table.name, table.columns, changed, gone))
            if fresh:
                changes.append(_change(table.name, table.columns, fresh, insert_only=True))
            removed += [(table.kind, *one) for one in sorted(shelf.removed.items())]
    if removed:
        changes.append(_change("removed", REMOVED_COLUMNS, removed, insert_only=True))
    return changes + audits_of(inventory)


class Store:
    """The inventory in one schema, over one connection that nobody else uses meanwhile.

    A build takes a second one, `audits`, for the audit records: while the documents are rendered
    and written at its end, the database makes the indexes of those.
    """

    def __init__(
        self, connection: Connection, schema: str = SERVED, *, audits: Connection | None = None
    ) -> None:
        self.connection = connection
        self.schema = schema
        self._audits = audits or connection
        self._staged: set[str] = set()
        self._keyed = True
        self._building = False
        self._indexing: asyncio.Task[None] | None = None

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Begin a transaction on the store's connection."""
        return self.connection.transaction()

    async def exists(self) -> bool:
        """Whether the schema is there (it comes and goes as a whole)."""
        found = await self.connection.execute("SELECT to_regnamespace(%s)", (self.schema,))
        row = await found.fetchone()
        return row is not None and row[0] is not None

    @contextlib.asynccontextmanager
    async def building(self, schema_hash: str) -> AsyncIterator[None]:
        """Make empty tables, in place of whatever is there, for the block to fill.

        They are seen once the block ends, with their keys, their indexes and statistics; where it
        fails, nothing was but an empty schema. In the transaction that made a table, rows can be
        written as they are to stay. The audit records have one of their own, which ends first.
        """
        await self.drop()
        await self.connection.execute(f"CREATE SCHEMA {self.schema}".encode())
        async with self.connection.transaction(), self._audits.transaction():
            await self._run("schema.sql")
            await self._run("audit.sql", self._audits)
            await self.connection.execute(
                self._sql("INSERT INTO inventory.cursor (position, schema_hash) VALUES (0, %s)"),
                (schema_hash,),
            )
            self._building, self._keyed = True, False
            try:
                yield
                await self.complete_audits()
                await self._finish()
            finally:
                await self._end_indexing()
        self._building = False

    async def complete_audits(self) -> None:
        """Begin to make the indexes of a build's audit records, of which no more come.

        It returns once the database has been told, and is at work while documents are rendered.
        """
        if self._building and self._indexing is None:
            self._indexing = asyncio.create_task(self._index_audits())
            await asyncio.sleep(0)

    async def _index_audits(self) -> None:
        # All at once, so that the database needs no further word from a busy process.
        await self._run("audit_indexes.sql", self._audits, before=_FINISHING, after=_ANALYZE_AUDITS)

    async def _end_indexing(self) -> None:
        if self._indexing is not None:
            indexing, self._indexing = self._indexing, None
            indexing.cancel()
            await asyncio.gather(indexing, return_exceptions=True)

    async def drop(self) -> None:
        """Remove the schema with all that is in it."""
        await self.connection.execute(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE".encode())

    async def _finish(self) -> None:
        await self.connection.execute(_FINISHING.encode())
        await self._make_keys()
        await self._run("indexes.sql")
        for table in NAMES:
            await self.connection.execute(f"ANALYZE {self.schema}.{table}".encode())
        if self._indexing is not None:
            await self._indexing

    async def _make_keys(self) -> None:
        """Make the keys of the tables, which a build does without as long as it can."""
        if not self._keyed:
            await self._run("keys.sql")
            self._keyed = True

    async def rename(self, schema: str) -> None:
        """Give the schema another name; the store goes with it."""
        await self.connection.execute(f"ALTER SCHEMA {self.schema} RENAME TO {schema}".encode())
        self.schema = schema

    async def place(self) -> tuple[Cursor, str]:
        """Return the cursor and the schema hash of the views that built the tables."""
        found = await self.connection.execute(
            self._sql("SELECT log_id, position, hint, schema_hash FROM inventory.cursor")
        )
        row = await found.fetchone()
        if row is None:
            return START, ""
        log_id: uuid.UUID | None = row[0]
        return Cursor(log_id, row[1], row[2]), row[3]

    async def load(self, table: Table[Any], ids: Iterable[str]) -> list[Any]:
        """Return the documents that exist of those with these ids."""
        return await self._load_where(table, "id", ids)

    async def load_all(self, table: Table[Any]) -> list[Any]:
        """Return all documents of a table: of the kinds that are always kept in memory."""
        found = await self.connection.execute(statements.load(self.schema, table.name), binary=True)
        return [table.decoder.decode(row[0]) for row in await found.fetchall()]

    async def vms_on(self, hosts: Iterable[str]) -> list[Any]:
        """Return the VMs that are placed on these hosts."""
        return await self._load_where(VMS, "host_id", hosts)

    async def vms_in(self, clusters: Iterable[str]) -> list[Any]:
        """Return the VMs of these clusters."""
        return await self._load_where(VMS, "cluster_id", clusters)

    async def _load_where(self, table: Table[Any], column: str, values: Iterable[str]) -> list[Any]:
        wanted = sorted(values)
        if not wanted:
            return []
        await self._make_keys()
        found = await self.connection.execute(
            statements.load(self.schema, table.name, f"WHERE {column} = ANY(%s)"),
            (wanted,),
            binary=True,
        )
        return [table.decoder.decode(row[0]) for row in await found.fetchall()]

    async def write(self, changes: Sequence[Changes], before: Cursor, after: Cursor) -> None:
        """Write a batch and its position in one transaction, and tell the readers.

        Raises FencedError, having written nothing, where the position is not `before`'s any more.
        """
        if any(change.removed or not change.part.insert_only for change in changes):
            await self._make_keys()
        few = sum(len(change.rows) for change in changes) < COPY_ROWS_MIN
        if few and not self._building:
            await self._write_at_once(changes, before, after)
            return
        async with contextlib.nullcontext() if self._building else self.connection.transaction():
            for change in changes:
                await self._copy(change)
            await self._write_at_once((), before, after)

    async def _write_at_once(
        self, changes: Sequence[Changes], before: Cursor, after: Cursor
    ) -> None:
        """Write few rows in one round trip, which is one transaction where none is open."""
        arguments: list[object] = [after.log_id, after.position, after.hint, before.position]
        for change in changes:
            if change.rows:
                arguments += statements.arguments(change.part, change.rows)
            if change.removed:
                arguments.append(change.removed)
        parts = tuple(change.part for change in changes)
        try:
            await self.connection.execute(
                statements.write_at_once(self.schema, parts), arguments, prepare=True
            )
        except psycopg.errors.DivisionByZero as error:
            raise FencedError(f"the inventory is not at position {before.position}") from error

    async def _copy(self, change: Changes) -> None:
        """Write many rows: straight into the table where none can be there, else by a stage."""
        part = change.part
        if part.deletes:
            statement = statements.delete(self.schema, part.table)
            await self.connection.execute(statement, (change.removed,))
        if not part.rows:
            return
        target = f"{self.schema}.{part.table}"
        if not part.insert_only:
            target = f"stage_{part.table}"
            if part.table not in self._staged:
                await self.connection.execute(statements.make_stage(part.table, part.columns))
                self._staged.add(part.table)
        frozen = self._building and part.insert_only
        statement = statements.copy(target, part.columns, frozen=frozen)
        connection = self._audits if frozen and part.table == "events" else self.connection
        async with connection.cursor().copy(statement) as copy:
            copy.set_types([kind for _, kind in part.columns])
            write_row = copy.formatter.write_row
            for row in change.rows:
                if block := write_row(row):  # once some rows are together
                    await copy.write(block)
        if not part.insert_only:
            await self.connection.execute(statements.take_stage(self.schema, part))
            await self.connection.execute(f"TRUNCATE {target}".encode())

    async def _run(
        self, name: str, connection: Connection | None = None, *, before: str = "", after: str = ""
    ) -> None:
        text = (resources.files("projections") / name).read_text(encoding="utf-8")
        # The file names the schema that is served; the one being built has another name.
        statement = statements.select(self.schema, f"{before}{text}{after}")
        await (connection or self.connection).execute(statement)

    def _sql(self, text: str) -> bytes:
        return statements.select(self.schema, text)
