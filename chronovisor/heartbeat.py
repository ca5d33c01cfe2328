"""Heartbeats: each process says now and then how it is, so that health can be asked in one place.

They lie in an unlogged table: no state, only what is shown. Where the database is away, nothing is
said, and that shows too.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import Awaitable, Callable

import msgspec
import psycopg
import structlog

from chronovisor.contexts import now

INTERVAL_S = 1.0
STALE_S = 6.0
"""A part that has said nothing for this long counts as silent."""
WELL = frozenset({"up", "standby"})
AT_WORK = WELL | {"building"}
"""A projector that builds the inventory anew is not to be stopped, however long the log is."""

_CREATE = """
select pg_advisory_xact_lock(hashtext('chronovisor heartbeats'));
create schema if not exists health;
create unlogged table if not exists health.parts (
    part text primary key,
    pid integer not null,
    state text not null,
    position bigint,
    detail text not null,
    time timestamptz not null
) with (fillfactor = 50);
"""
# A standby leaves the word to whom it stands by for, until that one is silent.
_BEAT = """
insert into health.parts as p values (%s, %s, %s, %s, %s, %s)
on conflict (part) do update set
    pid = excluded.pid, state = excluded.state, position = excluded.position,
    detail = excluded.detail, time = excluded.time
where excluded.state <> 'standby' or p.pid = excluded.pid or p.state = 'standby'
    or p.time < excluded.time - make_interval(secs => %s)
"""
_READ = "select part, pid, state, position, detail, time from health.parts order by part"

log = structlog.get_logger(__name__)


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """How a part is: its state in a word, how far it is in the log, what is wrong."""

    state: str = "up"
    position: int | None = None
    detail: str = ""


class PartHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What was last heard of a part."""

    part: str
    state: str
    position: int | None
    detail: str
    heard: dt.datetime


class Heartbeat:
    """Says how a part is, again and again."""

    def __init__(self, dsn: str, part: str, pulse: Callable[[], Pulse | Awaitable[Pulse]]) -> None:
        self._dsn = dsn
        self._part = part
        self._pulse = pulse

    async def run(self) -> None:
        """Beat for ever; a database that is away is tried again."""
        while True:
            try:
                await self._beat()
            except (psycopg.Error, OSError) as error:
                log.debug("no heartbeat", part=self._part, reason=str(error))
            await asyncio.sleep(INTERVAL_S)

    async def _beat(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, connect_timeout=5
        )
        async with connection:
            await connection.execute(_CREATE)
            while True:
                said = self._pulse()
                pulse = said if isinstance(said, Pulse) else await said
                row = (
                    *(self._part, os.getpid(), pulse.state, pulse.position),
                    *(pulse.detail[:500], now(), STALE_S),
                )
                async with asyncio.timeout(5):
                    await connection.execute(_BEAT, row)
                await asyncio.sleep(INTERVAL_S)


async def read_health(connection: psycopg.AsyncConnection) -> list[PartHealth]:
    """Return what was last heard of every part; one that said nothing lately is silent."""
    try:
        rows = await (await connection.execute(_READ)).fetchall()
    except psycopg.errors.UndefinedTable:
        return []
    stale = now() - dt.timedelta(seconds=STALE_S)
    return [
        PartHealth(
            part=part,
            state=state if time > stale else "silent",
            position=position,
            detail=detail,
            heard=time,
        )
        for part, _pid, state, position, detail, time in rows
    ]
