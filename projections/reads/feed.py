"""The position that the inventory has reached, followed without asking for it again and again.

The projector notifies after each batch. A notification can be lost (a broken connection), so
whoever waits also has the position looked up every quarter of a second.
"""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
import structlog

from events.backoff import Backoff
from projections.connection import CHANNEL, Connection, connect

POLL_INTERVAL_S = 0.25
IDLE_INTERVAL_S = 2.0

logger = structlog.get_logger(__name__)


class Feed:
    """Follows the inventory's position over a connection of its own; `run` until cancelled."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._position = 0
        self._moved = asyncio.Condition()
        self._waiting = 0
        self.known = asyncio.Event()

    @property
    def position(self) -> int:
        """The last position heard of: the inventory is at least there."""
        return self._position

    async def wait(self, position: int, timeout_s: float) -> bool:
        """Wait until the inventory has reached a position; False where the time is over first."""
        if self._position >= position:
            return True
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(lambda: self._position >= position)
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True

    async def run(self) -> None:
        """Follow until cancelled; a lost connection is made again."""
        backoff = Backoff(max_s=2.0)
        while True:
            try:
                async with await connect(self._dsn, "chronovisor reads feed") as connection:
                    await connection.execute(f"LISTEN {CHANNEL}".encode())
                    while True:
                        await self._look(connection)
                        backoff.reset()
                        await self._listen(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                logger.warning("the feed of positions is interrupted", error=str(error))
            await backoff.wait()

    async def _listen(self, connection: Connection) -> None:
        """Take notifications; return where none came for a while, to look by ourselves."""
        interval_s = POLL_INTERVAL_S if self._waiting else IDLE_INTERVAL_S
        async for notification in connection.notifies(timeout=interval_s):
            with contextlib.suppress(ValueError):
                await self._move(int(notification.payload))

    async def _look(self, connection: Connection) -> None:
        try:
            found = await connection.execute("SELECT position FROM inventory.cursor")
            row = await found.fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            row = None
        await self._move(row[0] if row else 0)
        if row:
            self.known.set()

    async def _move(self, position: int) -> None:
        if position != self._position:
            self._position = position
            async with self._moved:
                self._moved.notify_all()
