"""The log in PostgreSQL (contract A): readers' side, and the append."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import psycopg
import structlog

from events.codec import CODEC, Codec
from events.log.connection import close, connect
from events.log.heads import POLL_INTERVAL_S
from events.log.port import Append, Outcome, UnavailableError
from events.log.preparation import prepare
from events.log.reader import POOL_CONNECTIONS_MAX, PostgresLogReader, run_migrations_in_thread
from events.log.statements import statement
from events.log.tasks import end
from events.log.writer import DEFAULT_LIMITS, Limits, Writer

ANSWERS_KEPT_DAYS = 7
PRUNE_INTERVAL_S = 60.0
PRUNE_ANSWERS_MAX = 5_000
NOTIFY_RETRY_S = 0.5
NOTIFY_INTERVAL_S = 0.002
NOTIFY_INTERVAL_MAX_S = 0.008
"""Words of commits that follow each other faster are gathered into one; of commits that come one
after the other without a pause, more and more of them: each word costs what a command does.
"""

Logger = structlog.stdlib.get_logger(__name__)


class PostgresLog(PostgresLogReader):
    """A `Log` in PostgreSQL; made by `open`. Many processes may have one on the same database."""

    _codec: Codec = CODEC
    _limits: Limits = DEFAULT_LIMITS
    _writer: Writer | None = None
    _tasks: tuple[asyncio.Task[None], ...] = ()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        dsn: str,
        *,
        migrate: bool = True,
        pool_connections_max: int = POOL_CONNECTIONS_MAX,
        poll_interval_s: float = POLL_INTERVAL_S,
        codec: Codec = CODEC,
        limits: Limits = DEFAULT_LIMITS,
    ) -> AsyncIterator[PostgresLog]:
        """Open a log for the length of an `async with` block; `migrate` makes or renews its tables.

        Raises NotDurableError where the server would not keep what it acknowledges, NoLogError
        where the tables are missing, and UnavailableError.
        """
        if migrate:
            await run_migrations_in_thread(dsn)
        log = cls(dsn, pool_connections_max=pool_connections_max, poll_interval_s=poll_interval_s)
        log._codec, log._limits = codec, limits
        try:
            await log._start()
            yield log
        finally:
            await log._stop()

    async def append(self, append: Append) -> Outcome:
        """Append one command; commands that wait together are committed together.

        Raises OverloadedError or UnavailableError; then nothing is stored, or (Unavailable only)
        a repeat under the same key finds out. Raises ValueError for what can never be stored.
        """
        if self._writer is None:
            raise UnavailableError("the log is not open")
        return await self._writer.append(prepare(append, self._codec))

    async def prune_answers(
        self, kept_days: int = ANSWERS_KEPT_DAYS, limit: int = PRUNE_ANSWERS_MAX
    ) -> None:
        """Forget at most `limit` answers that are older than `kept_days`."""
        await self._query("prune_answers", {"days": kept_days, "limit": limit})

    async def _start(self) -> None:
        await super()._start()
        self._written = asyncio.Event()
        writer = Writer(self._dsn, self.log_id, self._committed, limits=self._limits)
        try:
            await writer.start()
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise UnavailableError(f"the database cannot be reached: {error}") from error
        self._writer = writer
        loop = asyncio.get_running_loop()
        self._tasks = (
            loop.create_task(self._notify(), name="log notify"),
            loop.create_task(self._prune(), name="log prune"),
        )

    async def _stop(self) -> None:
        if self._writer is not None:
            await self._writer.close()
        await end(self._tasks)
        await super()._stop()

    def _committed(self, head: int) -> None:
        self._heads.advance(head)
        self._written.set()

    async def _notify(self) -> None:
        """Tell readers in other processes, after the answers and apart from their transactions:
        a NOTIFY inside would make all commits of the whole server wait for each other.
        """
        while True:
            try:
                connection = await connect(self._dsn, "chronovisor log notifier")
                try:
                    await connection.execute(statement("unflushed"))
                    interval_s = NOTIFY_INTERVAL_S
                    while True:
                        await self._written.wait()
                        self._written.clear()
                        arguments = {"head": str(self._heads.known)}
                        await connection.execute(statement("notify"), arguments)
                        await asyncio.sleep(interval_s)
                        interval_s = (
                            min(2 * interval_s, NOTIFY_INTERVAL_MAX_S)
                            if self._written.is_set()
                            else NOTIFY_INTERVAL_S
                        )
                finally:
                    await close(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                Logger.warning("log.notify_failed", error=str(error))
            await asyncio.sleep(NOTIFY_RETRY_S)  # readers ask every 250 ms besides

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_INTERVAL_S)
            try:
                await self.prune_answers()
            except Exception as error:  # noqa: BLE001 (the next round tries again)
                Logger.warning("log.prune_failed", error=str(error))
