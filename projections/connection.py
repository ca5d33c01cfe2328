"""Connections to the inventory's database: a limit on every wait, and a name to find them by."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 120_000
"""Long enough for the largest batch; a build's indexes have a limit of their own."""

TEMPORARY_MB = 64
"""A stage of a build's batch fits in, so that it never goes to a file."""

PREPARED_MAX = 300
"""Statements differ by the tables and the few rows that a command changes: some dozens in all."""

CHANNEL = "chronovisor_inventory"
"""Where the projector notifies readers of the position that it has reached."""

Connection = AsyncConnection[TupleRow]

# A vanished server is noticed within half a minute even where nothing is being sent.
KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


async def connect(dsn: str, application: str) -> Connection:
    """Open a connection in autocommit mode for writing the inventory.

    Commits need not wait for the disk: a commit that a power failure takes back takes back the
    position with the documents, and the log, which did wait, has the events again.
    """
    async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
        connection = await AsyncConnection.connect(
            dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name=application,
            prepare_threshold=2,
            **KEEPALIVE,
        )
        connection.prepared_max = PREPARED_MAX
        try:
            await connection.execute(
                "SELECT set_config('synchronous_commit', 'off', false),"
                " set_config('timezone', 'UTC', false),"
                " set_config('jit', 'off', false),"
                " set_config('temp_buffers', %s, false),"
                # A build is one transaction, which waits for the log like everybody else.
                " set_config('idle_in_transaction_session_timeout', '0', false),"
                " set_config('lock_timeout', %s, false),"
                " set_config('statement_timeout', %s, false)",
                (f"{TEMPORARY_MB}MB", f"{LOCK_TIMEOUT_MS}ms", f"{STATEMENT_TIMEOUT_MS}ms"),
            )
        except BaseException:
            await connection.close()
            raise
        return connection
