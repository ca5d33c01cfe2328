"""A copy of the whole warehouse while it is in use: every table as of one instant, as Arrow.

A reading transaction of DuckDB sees one state however long it lasts, and holds up no writer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from dwh.warehouse import FILE_NAME
from events.wire.copies import DATA, HEAD

BATCH_ROWS = 20_000
FRAME_BYTES = 1024 * 1024
_TABLES = """
SELECT table_name, sql FROM duckdb_tables()
WHERE schema_name = 'main' AND NOT internal AND NOT temporary ORDER BY table_name
"""
_JSON_COLUMNS = """
SELECT column_name FROM duckdb_columns()
WHERE schema_name = 'main' AND table_name = ? AND data_type = 'JSON' ORDER BY column_index
"""


class Overview(msgspec.Struct, frozen=True, kw_only=True, tag="warehouse"):
    """The first head of a copy: how far the warehouse had come."""

    log_id: str | None
    position: int


class Table(msgspec.Struct, frozen=True, kw_only=True, tag="table"):
    """The head of a table's bytes, an Arrow IPC stream; `sql` makes the table."""

    name: str
    sql: str
    rows: int


Head = Overview | Table


class TablesChangedError(Exception):
    """The bytes of a copy are no tables of a warehouse."""


def copy_frames(connection: duckdb.DuckDBPyConnection) -> Iterator[bytes]:
    """Yield the frames of a copy (see events.wire.copies); the connection is used up by it."""
    connection.execute("BEGIN TRANSACTION READ ONLY")
    try:
        found = connection.execute("SELECT log_id, position FROM ingest_cursor").fetchone()
        log_id, position = found or (None, 0)
        yield HEAD + msgspec.json.encode(Overview(log_id=log_id, position=position))
        for name, statement in connection.execute(_TABLES).fetchall():
            yield from _table_frames(connection, name, statement)
    finally:
        connection.close()


def _table_frames(
    connection: duckdb.DuckDBPyConnection, name: str, statement: str
) -> Iterator[bytes]:
    quoted = quote(name)
    (count,) = connection.execute(f"SELECT count(*) FROM {quoted}").fetchone() or (0,)  # noqa: S608
    yield HEAD + msgspec.json.encode(Table(name=name, sql=statement, rows=count))
    casts = ", ".join(
        f"CAST({quote(column)} AS VARCHAR) AS {quote(column)}"
        for (column,) in connection.execute(_JSON_COLUMNS, [name]).fetchall()
    )
    columns = f"* REPLACE ({casts})" if casts else "*"
    # The names are the catalogue's, quoted; nothing of a caller's is in the statement.
    reader = connection.sql(f"SELECT {columns} FROM {quoted}").to_arrow_reader(BATCH_ROWS)  # noqa: S608
    sink = _Gather()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, reader.schema, options=options) as writer:
        for batch in reader:
            writer.write_batch(batch)
            yield from sink.frames(FRAME_BYTES)
    yield from sink.frames(1)


class _Gather:
    """A file that Arrow writes to, and whose bytes are taken out as frames."""

    closed = False

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._taken = 0

    def write(self, content: Any) -> int:  # noqa: ANN401  any buffer
        view = memoryview(content)
        self._bytes += view
        return view.nbytes

    def tell(self) -> int:
        return self._taken + len(self._bytes)

    def flush(self) -> None:
        return

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        return

    def frames(self, least: int) -> Iterator[bytes]:
        """Take frames out while there are at least so many bytes."""
        while len(self._bytes) >= least:
            piece = bytes(self._bytes[:FRAME_BYTES])
            del self._bytes[: len(piece)]
            self._taken += len(piece)
            yield DATA + piece


def open_alone(folder: Path) -> duckdb.DuckDBPyConnection | None:
    """Open the warehouse of a folder that no process has open, to read it; None if there is none.

    Raises duckdb.Error, also where a process does have it open.
    """
    path = folder / FILE_NAME
    return duckdb.connect(path, read_only=True) if path.exists() else None


def make(folder: Path) -> duckdb.DuckDBPyConnection:
    """Make an empty file in a folder, for `fill`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return duckdb.connect(folder / FILE_NAME)


def fill(connection: duckdb.DuckDBPyConnection, table: Table, source: Any) -> None:  # noqa: ANN401
    """Make a table and read its rows from an Arrow IPC stream; raises TablesChangedError."""
    statements = connection.extract_statements(table.sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.CREATE:
        raise TablesChangedError(f"the statement of table {table.name} makes no table")
    connection.execute(table.sql)
    count = 0
    quoted = quote(table.name)
    for batch in pa.ipc.open_stream(source):
        count += batch.num_rows
        connection.register("incoming", pa.Table.from_batches([batch]))
        connection.execute(f"INSERT INTO {quoted} BY NAME SELECT * FROM incoming")  # noqa: S608
        connection.unregister("incoming")
    if count != table.rows:
        raise TablesChangedError(f"table {table.name} has {count} rows instead of {table.rows}")


def count_rows(source: Any) -> int:  # noqa: ANN401  a file that Arrow reads
    """Read an Arrow IPC stream through and count its rows; raises pyarrow.ArrowInvalid."""
    return sum(batch.num_rows for batch in pa.ipc.open_stream(source))


def quote(name: str) -> str:
    """Return a name as DuckDB quotes it."""
    return '"' + name.replace('"', '""') + '"'
