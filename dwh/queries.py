"""Read-only queries over the warehouse: what may run, for how long, and how much it may answer.

Three walls stand between a query and anything but reading: only a single SELECT is taken, it runs
in a read-only transaction, and the process reaches no other file (external access is off, and the
configuration is locked).
"""

from __future__ import annotations

import decimal
import enum
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import msgspec
import orjson
import pyarrow as pa

SQL_BYTES_MAX = 256 * 1024
ROWS_MAX = 1_000_000
BYTES_MAX = 32 * 1024 * 1024
TIMEOUT_S_MAX = 300.0
BATCH_ROWS = 2_000


class Format(enum.StrEnum):
    """How rows are answered."""

    JSON = "json"  # an array of arrays; times are RFC 3339, numbers that JSON lacks are null
    ARROW = "arrow"  # an Arrow IPC stream


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One question: rows beyond `rows_max` are cut off, and the answer says so."""

    sql: str
    format: Format = Format.JSON
    rows_max: int = 10_000
    timeout_s: float = 30.0


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column of an answer; the type is DuckDB's."""

    name: str
    type: str


class Failure(enum.StrEnum):
    """Why a query was not answered."""

    REFUSED = "refused"  # not a read-only query, or beyond what may be asked
    FAILED = "failed"  # DuckDB could not answer it
    TIMED_OUT = "timed_out"
    BUSY = "busy"  # too many queries wait already


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What comes before the rows; `failure` and `message` instead of them if there are none."""

    columns: tuple[Column, ...] = ()
    rows: int = 0
    truncated: bool = False
    elapsed_ms: float = 0.0
    failure: Failure | None = None
    message: str = ""


class QueryRefusedError(Exception):
    """The query is not one that may be asked here."""


def check(connection: duckdb.DuckDBPyConnection, query: Query) -> None:
    """Raise QueryRefusedError unless the query is a single SELECT within the bounds."""
    if len(query.sql.encode()) > SQL_BYTES_MAX:
        raise QueryRefusedError(f"a query has at most {SQL_BYTES_MAX} B")
    if not 0 < query.rows_max <= ROWS_MAX:
        raise QueryRefusedError(f"rows_max is between 1 and {ROWS_MAX}")
    if not 0 < query.timeout_s <= TIMEOUT_S_MAX:
        raise QueryRefusedError(f"timeout_s is at most {TIMEOUT_S_MAX:g}")
    try:
        statements = connection.extract_statements(query.sql)
    except duckdb.Error as error:
        raise QueryRefusedError(str(error)) from error
    if len(statements) != 1:
        raise QueryRefusedError(f"one statement at a time, not {len(statements)}")
    if statements[0].type != duckdb.StatementType.SELECT:
        kind = str(statements[0].type).rpartition(".")[2]
        raise QueryRefusedError(f"only SELECT is answered here, not {kind}")


class Execution:
    """One query on a cursor of its own: `run` in a thread, `interrupt` from any other."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, query: Query) -> None:
        self._cursor = connection.cursor()
        self._query = query

    def interrupt(self) -> None:
        """Stop the query if it runs; harmless before and afterwards."""
        self._cursor.interrupt()

    def run(self) -> tuple[Answer, bytes]:
        """Return the answer's head and its rows; the cursor is closed afterwards.

        Raises QueryRefusedError or duckdb.Error (InterruptException if it was stopped).
        """
        started = time.monotonic()
        try:
            check(self._cursor, self._query)
            self._cursor.execute("BEGIN TRANSACTION READ ONLY")
            # A relation's rows come as they are computed; those of `execute` are all held first.
            result = self._cursor.sql(self._query.sql)
            columns = tuple(
                Column(name=name, type=str(type_))
                for name, type_ in zip(result.columns, result.types, strict=True)
            )
            reader = result.to_arrow_reader(BATCH_ROWS)
            if self._query.format is Format.ARROW:
                count, truncated, content = _arrow(reader, self._query.rows_max)
            else:
                count, truncated, content = _json(reader, self._query.rows_max)
        finally:
            self._cursor.close()
        elapsed_ms = (time.monotonic() - started) * 1000
        head = Answer(columns=columns, rows=count, truncated=truncated, elapsed_ms=elapsed_ms)
        return head, content


def _bounded(reader: Any, rows_max: int) -> Iterator[tuple[pa.RecordBatch, bool]]:  # noqa: ANN401
    """Yield record batches up to a number of rows, and whether more was there."""
    left = rows_max
    for batch in reader:
        if batch.num_rows > left:
            yield batch.slice(0, left), True
            return
        left -= batch.num_rows
        yield batch, False


def _arrow(reader: Any, rows_max: int) -> tuple[int, bool, bytes]:  # noqa: ANN401
    sink = pa.BufferOutputStream()
    count, truncated = 0, False
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch, more in _bounded(reader, rows_max):
            truncated = more
            if sink.tell() + batch.nbytes > BYTES_MAX:
                truncated = True
                break
            writer.write_batch(batch)
            count += batch.num_rows
    return count, truncated, sink.getvalue().to_pybytes()


def _json(reader: Any, rows_max: int) -> tuple[int, bool, bytes]:  # noqa: ANN401
    parts: list[bytes] = []
    count, size, truncated = 0, 2, False
    for batch, more in _bounded(reader, rows_max):
        truncated = more
        columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            content = orjson.dumps(
                [_finite(value) for value in row],
                default=_render,
                option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS,
            )
            size += len(content) + 1
            if size > BYTES_MAX:
                return count, True, b"[" + b",".join(parts) + b"]"
            parts.append(content)
            count += 1
    return count, truncated, b"[" + b",".join(parts) + b"]"


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _render(value: object) -> object:
    """Render what JSON has no form for; what a double cannot hold comes as text."""
    match value:
        case decimal.Decimal() if value == value.to_integral_value():
            whole = int(value)
            return whole if -(2**63) <= whole < 2**63 else str(whole)
        case decimal.Decimal():
            return float(value)
        case pa.MonthDayNano():
            return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:.9g}S"
        case bytes():
            return value.hex()
        case _:
            return str(value)


def failure(kind: Failure, message: str) -> tuple[Answer, bytes]:
    """Return an answer that says why there is none."""
    return Answer(failure=kind, message=message), b""


def column_names(columns: Sequence[Column]) -> list[str]:
    """Return the names of an answer's columns."""
    return [column.name for column in columns]
