"""A few connections for many readers: opened on demand, dropped once broken, bounded in number.

psycopg's own pool mends itself in the background and lets callers wait meanwhile, up to its time
limit even when the server is long back; here whoever needs a connection opens it and sees the
error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from psycopg.pq import TransactionStatus

from events.log.connection import Connection, close


class Pool:
    """Connections made by `opener`; at most `connections_max` at a time."""

    def __init__(self, opener: Callable[[], Awaitable[Connection]], connections_max: int) -> None:
        self._open = opener
        self._places = asyncio.Semaphore(connections_max)
        self._idle: list[Connection] = []
        self._closed = False

    @contextlib.asynccontextmanager
    async def connection(self, timeout_s: float) -> AsyncIterator[Connection]:
        """Lend a connection for the length of an `async with` block.

        Raises TimeoutError where none is free in time, and what opening one raises.
        """
        async with asyncio.timeout(timeout_s):
            await self._places.acquire()
        connection: Connection | None = None
        try:
            while self._idle and (connection is None or connection.closed):
                connection = self._idle.pop()
            if connection is None or connection.closed:
                connection = await self._open()
            yield connection
        finally:
            self._places.release()
            if connection is not None:
                status = connection.pgconn.transaction_status
                if status == TransactionStatus.IDLE and not self._closed:
                    self._idle.append(connection)
                else:
                    await close(connection)

    async def close(self) -> None:
        """Close all connections; those that are lent are closed when they come back."""
        self._closed = True
        while self._idle:
            await close(self._idle.pop())
