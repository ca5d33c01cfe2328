"""Knowing how far the log goes: told within the process, notified by others, and asked besides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import structlog

from events.log.connection import Connection, NoLogError, close, sever
from events.log.statements import statement
from events.log.tasks import end

POLL_INTERVAL_S = 0.25
RECONNECT_INTERVAL_S = 0.5
QUERY_TIMEOUT_S = 5.0

Logger = structlog.stdlib.get_logger(__name__)


class Heads:
    """The highest position known, and whoever waits for it to rise."""

    def __init__(self) -> None:
        self.known = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def awaited(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def advance(self, head: int) -> None:
        """Take in that the log reaches `head`, and wake those who wait."""
        if head <= self.known:
            return
        self.known = head
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)

    async def beyond(self, after: int, timeout_s: float) -> int:
        """Wait until the head known is beyond `after`, at most `timeout_s`; return it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.known <= after and (left_s := deadline - loop.time()) > 0:
            woken = loop.create_future()
            self._waiting.add(woken)
            try:
                async with asyncio.timeout(left_s):
                    await woken
            except TimeoutError:
                break
            finally:
                self._waiting.discard(woken)
        return self.known


class Watcher:
    """Keeps `Heads` up to date from a connection of its own: LISTEN, and a question every 250 ms
    while anybody waits, since a notification may be lost.
    """

    def __init__(
        self,
        heads: Heads,
        opener: Callable[[], Awaitable[Connection]],
        poll_interval_s: float = POLL_INTERVAL_S,
    ) -> None:
        self._heads = heads
        self._open = opener
        self._poll_interval_s = poll_interval_s
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="log heads")

    async def close(self) -> None:
        """End watching."""
        if self._connection is not None:
            sever(self._connection)
        if self._task is not None:
            await end([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except (psycopg.Error, OSError, TimeoutError, NoLogError) as error:
                Logger.warning("log.watch_failed", error=str(error))
            except Exception:  # noqa: BLE001 (whatever it is, readers poll on their own)
                # Also another log's id: the reader says so to whoever reads; here one goes on.
                Logger.exception("log.watch_failed")
            await asyncio.sleep(RECONNECT_INTERVAL_S)

    async def _follow(self) -> None:
        connection = self._connection = await self._open()
        try:
            await connection.execute(statement("listen"))
            await self._ask(connection)
            while True:
                async for notice in connection.notifies(timeout=self._poll_interval_s):
                    if notice.payload.isdigit():
                        self._heads.advance(int(notice.payload))
                if self._heads.awaited:
                    await self._ask(connection)
        finally:
            self._connection = None
            await close(connection)

    async def _ask(self, connection: Connection) -> None:
        limit = asyncio.get_running_loop().call_later(QUERY_TIMEOUT_S, sever, connection)
        try:
            cursor = await connection.execute(statement("head"))
            row = await cursor.fetchone()
        finally:
            limit.cancel()
        self._heads.advance(row[0] if row is not None else 0)
