"""A place that one process has at a time, by a lock in the database, and loses when it is stuck.

The lock alone would outlive its holder's usefulness: a frozen process keeps its connection, and the
database keeps the lock. So whoever has the place says so again and again over the lock's own
connection, and a standby that sees it say nothing for a while ends that connection.

That the lock may change hands although its old holder goes on later is no danger: what the holder
writes must be fenced by what it writes to (contract B), never by this lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, LiteralString

import psycopg
import structlog

LIFE_S, LIFE_MIN_S = 8.0, 2.0
"""How long a holder may say nothing before a standby takes its place: longer than a process that is
well is ever too busy to speak, or two would take the place from each other without end."""
SAYINGS = 5
"""How often a holder speaks in that time."""
ANSWER_TIMEOUT_S = 10.0

_TRY = "select pg_try_advisory_lock(hashtext(%s))"
_HOLDER = """
select l.pid, a.state_change::text from pg_locks l join pg_stat_activity a using (pid)
where l.locktype = 'advisory' and l.granted and l.objsubid = 1
    and l.database = (select oid from pg_database where datname = current_database())
    and (l.classid::bigint << 32 | l.objid::bigint) = hashtext(%s)::bigint
"""
_END = "select pg_terminate_backend(%s)"
log = structlog.get_logger(__name__)
Seen = tuple[int, str]
"""The holder's backend, and when it last said something, by the database's clock."""


async def lead(
    dsn: str, name: str, work: Callable[[], Coroutine[Any, Any, None]], *, time_scale: float
) -> None:
    """Wait for the place, then work for as long as it is ours; raises what ends either."""
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5)
    async with connection:
        place = Leadership(connection, name, time_scale=time_scale)
        await place.take()
        tasks = [asyncio.ensure_future(work()), asyncio.ensure_future(place.keep())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Leadership:
    """One process's part in it: `take` waits for the place, `keep` holds it."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection,
        name: str,
        *,
        time_scale: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._name = name
        self._life_s = max(LIFE_MIN_S, LIFE_S * time_scale)
        self._interval_s = self._life_s / SAYINGS
        self._monotonic = monotonic

    async def take(self) -> None:
        """Wait until the place is ours; raises psycopg.Error where the connection is lost."""
        seen: Seen | None = None
        since = self._monotonic()
        while not await self._try():
            holder = await self._holder()
            if holder is None or holder != seen:
                seen, since = holder, self._monotonic()
            elif self._monotonic() - since > self._life_s:
                log.warning("the place is taken from a silent process", name=self._name)
                await self._ask(_END, (holder[0],))
                seen = None
            await asyncio.sleep(self._interval_s)

    async def keep(self) -> None:
        """Say again and again that we are here; ends by an error once the connection is gone."""
        while True:
            await asyncio.sleep(self._interval_s)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._connection.execute("select 1")

    async def _try(self) -> bool:
        row = await self._ask(_TRY, (self._name,))
        return bool(row and row[0])

    async def _holder(self) -> Seen | None:
        row = await self._ask(_HOLDER, (self._name,))
        return None if row is None else (row[0], row[1])

    async def _ask(self, statement: LiteralString, arguments: tuple[object, ...]) -> Any:  # noqa: ANN401
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            cursor = await self._connection.execute(statement, arguments)
            return await cursor.fetchone()
