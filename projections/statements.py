"""The statements that write the inventory, put together from its columns once and then kept.

Nothing in them comes from outside: schema, tables and columns are the code's own names. They are
`bytes`, as psycopg takes ready statements.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from projections.connection import CHANNEL

Columns = tuple[tuple[str, str], ...]
"""Names and SQL types."""


class Part(msgspec.Struct, frozen=True):
    """What a statement does to one table: insert (or replace) rows, delete ids, or both.

    `rows` is how many rows are inserted where they are few, and `MANY` beyond.
    """

    table: str
    columns: Columns
    rows: int
    deletes: bool
    insert_only: bool


FEW_ROWS_MAX = 3
"""Up to so many rows are given value by value, which is faster than arrays of one element each."""

MANY = FEW_ROWS_MAX + 1


def arguments(part: Part, rows: list[tuple[Any, ...]]) -> list[Any]:
    """Return the arguments that `write_at_once` takes for a part's rows."""
    if part.rows == MANY:
        return [list(column) for column in zip(*rows, strict=True)]
    return [value for row in rows for value in row]


def _names(columns: Columns) -> str:
    return ", ".join(name for name, _ in columns)


def _insert(schema: str, part: Part, source: str) -> str:
    words = ["INSERT INTO", f"{schema}.{part.table}", f"({_names(part.columns)})", source]
    if not part.insert_only:
        replaced = [f"{name} = EXCLUDED.{name}" for name, _ in part.columns if name != "id"]
        words += ["ON CONFLICT (id) DO UPDATE SET", ", ".join(replaced)]
    return " ".join(words)


def _values(part: Part) -> str:
    if part.rows == MANY:
        arrays = ", ".join(f"%b::{kind}[]" for _, kind in part.columns)
        return " ".join(["SELECT * FROM", f"unnest({arrays})"])
    row = ", ".join(f"%b::{kind}" for _, kind in part.columns)
    return "VALUES " + ", ".join([f"({row})"] * part.rows)


def _delete(schema: str, table: str) -> str:
    return " ".join(["DELETE FROM", f"{schema}.{table}", "WHERE id = ANY(%s)"])


@functools.lru_cache(maxsize=1_000)
def write_at_once(schema: str, parts: tuple[Part, ...]) -> bytes:
    """Return one statement that writes the rows of a few commands, and the position.

    Arguments: log id, position and hint after, position before; then for each part those that
    `arguments` gives if it inserts, and the ids if it deletes. The last part divides by the number
    of cursor rows that were moved, which is none where the writer is fenced off: the error takes
    the whole statement back.
    """
    moved = ["UPDATE", f"{schema}.cursor", "SET log_id = %s, position = %s, hint = %s"]
    moved.append("WHERE position = %s RETURNING position")
    steps = [f"moved AS ({' '.join(moved)})"]
    for number, part in enumerate(parts):
        if part.rows:
            source = _values(part)
            steps.append(f"w{number} AS ({_insert(schema, part, source)})")
        if part.deletes:
            steps.append(f"d{number} AS ({_delete(schema, part.table)})")
    told = [f"pg_notify('{CHANNEL}', max(position)::text)", "FROM moved"]
    return " ".join(["WITH", ", ".join(steps), "SELECT 1 / count(*),", *told]).encode()


@functools.lru_cache(maxsize=100)
def delete(schema: str, table: str) -> bytes:
    """Return the statement that deletes rows by their ids."""
    return _delete(schema, table).encode()


@functools.lru_cache(maxsize=100)
def copy(target: str, columns: Columns, *, frozen: bool = False) -> bytes:
    """Return the statement that copies rows into a table or stage.

    Frozen rows need no vacuum; the table must have been made in the same transaction.
    """
    options = "FORMAT BINARY, FREEZE" if frozen else "FORMAT BINARY"
    return f"COPY {target} ({_names(columns)}) FROM STDIN ({options})".encode()


@functools.lru_cache(maxsize=100)
def make_stage(table: str, columns: Columns) -> bytes:
    """Return the statement that makes the stage of a table, for this connection alone."""
    typed = ", ".join(f"{name} {kind}" for name, kind in columns)
    return f"CREATE TEMPORARY TABLE IF NOT EXISTS stage_{table} ({typed})".encode()


@functools.lru_cache(maxsize=100)
def take_stage(schema: str, part: Part) -> bytes:
    """Return the statement that inserts or replaces the rows that lie in the stage."""
    source = " ".join(["SELECT", _names(part.columns), "FROM", f"stage_{part.table}"])
    return _insert(schema, part, source).encode()


@functools.lru_cache(maxsize=100)
def select(schema: str, text: str) -> bytes:
    """Return a statement whose tables lie in the schema, written in it as `inventory.`."""
    return text.replace("inventory.", f"{schema}.").encode()


@functools.lru_cache(maxsize=100)
def load(schema: str, table: str, condition: str = "") -> bytes:
    """Return the statement that reads documents."""
    return " ".join(["SELECT document FROM", f"{schema}.{table}", condition]).encode()
