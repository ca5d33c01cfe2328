"""Connections to the log's PostgreSQL: set up, checked to be durable, cut off when they hang."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from events.log.statements import statement

Connection = AsyncConnection[TupleRow]

CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 10_000
SERVER_VERSION_MIN = 150_000


class NotDurableError(Exception):
    """The server would not keep what it has acknowledged, or is too old: the log refuses it."""


class NoLogError(Exception):
    """The database has no log: its migrations have not been run."""


async def connect(
    dsn: str, application: str, *, lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> Connection:
    """Open a connection in autocommit mode with the log's session settings.

    Raises psycopg.OperationalError, or TimeoutError where the server does not answer in time.
    """
    async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
        connection = await AsyncConnection.connect(
            dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name=application,
            prepare_threshold=0,
        )
        try:
            await set_up(connection, lock_timeout_ms)
        except BaseException:
            await connection.close()
            raise
        return connection


async def set_up(connection: Connection, lock_timeout_ms: int = LOCK_TIMEOUT_MS) -> None:
    """Give a new connection the session settings of the log."""
    await connection.execute(
        statement("session"),
        {
            "lock_timeout_ms": str(lock_timeout_ms),
            "statement_timeout_ms": str(STATEMENT_TIMEOUT_MS),
        },
    )


async def require_durability(connection: Connection) -> None:
    """Raise NotDurableError unless a commit on this connection survives a power failure."""
    cursor = await connection.execute(statement("durability"))
    ((version, fsync, synchronous_commit),) = await cursor.fetchall()
    if version < SERVER_VERSION_MIN:
        raise NotDurableError(
            f"the log needs PostgreSQL {SERVER_VERSION_MIN // 10_000} or newer,"
            f" but this server is {version // 10_000}"
        )
    for name, value in (("fsync", fsync), ("synchronous_commit", synchronous_commit)):
        if value == "off":
            raise NotDurableError(
                f"PostgreSQL runs with {name} = off, so that a power failure loses acknowledged"
                f" commands; set {name} = on"
            )


async def log_id(connection: Connection) -> uuid.UUID:
    """Return which log the database holds; raises NoLogError."""
    try:
        cursor = await connection.execute(statement("log_id"))
        row = await cursor.fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise NoLogError("the database has no log; run its migrations first") from error
    if row is None:
        raise NoLogError("the log has no identity: its table log.log_identity is empty")
    found: uuid.UUID = row[0]
    return found


def sever(connection: Connection) -> None:
    """Cut a connection whose server does not answer: whoever waits on it gets OperationalError.

    A server that is paused or lost would be waited for without end; cancelling the wait does not
    help, since psycopg then asks that same server to cancel the statement.
    """
    with contextlib.suppress(OSError, psycopg.OperationalError):
        plug = socket.socket(fileno=connection.fileno())
        try:
            plug.shutdown(socket.SHUT_RDWR)
        finally:
            plug.detach()  # the file descriptor is libpq's, and libpq closes it


async def close(connection: Connection) -> None:
    """Close a connection, whatever state it is in."""
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.close()
