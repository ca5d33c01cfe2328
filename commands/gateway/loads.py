"""Hosts' CPU loads, measured: what agents sample, by the minute, shared by all engines. No state.

Engines average what hosts send them over each minute, and store it; whoever places VMs reads it.
Nothing waits for it and nothing is lost with it: a host of which nothing is known has the load that
its VMs are reckoned to take (`commands.scheduler.load`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import psycopg
import psycopg_pool
import structlog

from commands.scheduler.load import PERMILLE, READINGS_KEPT, Readings
from events.wire.agent import HostSample

if TYPE_CHECKING:
    from commands.scheduler.fleet import Fleet

_CREATE = """
create schema if not exists gateway;
create unlogged table if not exists gateway.loads (
    host text primary key,
    minute bigint not null,
    permille smallint[] not null
) with (fillfactor = 50)
"""
_STORE = """
insert into gateway.loads as l (host, minute, permille)
select host, %(minute)s, array[permille]
from unnest(%(hosts)s::text[], %(permille)s::smallint[]) as new (host, permille)
on conflict (host) do update set minute = excluded.minute, permille = case
    when l.minute > excluded.minute then excluded.permille
    when l.minute = excluded.minute then excluded.permille || l.permille[2:]
    when excluded.minute - l.minute < %(kept)s then (
        excluded.permille
        || array_fill(null::smallint, array[(excluded.minute - l.minute - 1)::int])
        || l.permille
    )[:%(kept)s]
    else excluded.permille
end
where l.minute <= excluded.minute or l.minute > excluded.minute + %(ahead)s
"""
_FORGET = "delete from gateway.loads where minute < %s"
_READ = "select host, minute, array_to_string(permille, ' ', '-') from gateway.loads"
_LOCK = "select pg_advisory_xact_lock(hashtext('chronovisor gateway loads'))"
_AHEAD_MAX = 1
"""A minute that is stored and further ahead than this came of a clock that was wrong."""
_LATE_MAX = 2
"""What is older is not stored: another engine may have newer ones, and would seem to be ahead."""
_STORED_AT_ONCE = 2_000
_HOSTS_AT_ONCE = 500
"""So many hosts' loads are taken in before others get their turn."""
_FORGOTTEN_MINUTES = 1_440
_LOOKS_A_MINUTE = 4
_DATABASE_S_MAX = 10.0
MINUTE_S = 60.0

log = structlog.get_logger(__name__)


class Loads(Protocol):
    """Where engines share what they measured."""

    async def prepare(self) -> None:
        """Make what is needed; several may do so at once."""
        ...

    async def store(self, minute: int, permille: Mapping[str, int]) -> None:
        """Store hosts' loads in a minute, in thousandths. One of an older minute is passed over.

        Except where the newer one is of a minute that is yet to come: that clock was wrong.
        """
        ...

    async def read(self) -> dict[str, Readings]:
        """Return what any engine stored of each host."""
        ...


class MemoryLoads:
    """Loads of one engine alone."""

    def __init__(self) -> None:
        self._found: dict[str, Readings] = {}

    async def prepare(self) -> None:
        """See `Loads.prepare`."""

    async def store(self, minute: int, permille: Mapping[str, int]) -> None:
        """See `Loads.store`."""
        for host, one in permille.items():
            known = self._found.get(host)
            between = minute - known.minute if known is not None else READINGS_KEPT
            if -_AHEAD_MAX <= between < 0:
                continue
            older: tuple[int | None, ...] = ()
            if known is not None and between == 0:
                older = known.permille[1:]
            elif known is not None and 0 < between < READINGS_KEPT:
                older = (*[None] * (between - 1), *known.permille)
            kept = (one, *older)[:READINGS_KEPT]
            self._found[host] = Readings(minute=minute, permille=kept)

    async def read(self) -> dict[str, Readings]:
        """See `Loads.read`."""
        return dict(self._found)


class PostgresLoads:
    """Loads in an unlogged table, a row for each host, shared by all engines on one database."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection]) -> None:
        self._pool = pool
        self._read: dict[str, tuple[str, Readings]] = {}

    async def prepare(self) -> None:
        """See `Loads.prepare`."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_LOCK)
            await connection.execute(_CREATE)

    async def store(self, minute: int, permille: Mapping[str, int]) -> None:
        """See `Loads.store`."""
        hosts = sorted(permille)  # in one order, so that engines wait for each other and no more
        async with self._pool.connection() as connection:
            for first in range(0, len(hosts), _STORED_AT_ONCE):
                some = hosts[first : first + _STORED_AT_ONCE]
                row = {
                    "minute": minute,
                    "hosts": some,
                    "permille": [permille[host] for host in some],
                    "kept": READINGS_KEPT,
                    "ahead": _AHEAD_MAX,
                }
                await connection.execute(_STORE, row)
            await connection.execute(_FORGET, (minute - _FORGOTTEN_MINUTES,))

    async def read(self) -> dict[str, Readings]:
        """See `Loads.read`. Rows that did not change are not looked into again."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(_READ)).fetchall()
        found: dict[str, tuple[str, Readings]] = {}
        for host, minute, told in rows:
            known = self._read.get(host)
            if known is None or known[0] != told or known[1].minute != minute:
                permille = tuple(None if one == "-" else int(one) for one in told.split())
                known = told, Readings(minute=minute, permille=permille)
            found[host] = known
        self._read = found
        return {host: readings for host, (_told, readings) in found.items()}


class Averages:
    """What hosts sampled in the current minute, and in minutes that are over and not stored yet."""

    def __init__(
        self, *, minute_s: float = MINUTE_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._minute_s = minute_s
        self._clock = clock
        self._now: dict[str, tuple[int, float, int]] = {}
        self._over: dict[int, dict[str, int]] = defaultdict(dict)

    @property
    def minute(self) -> int:
        """The number of the current minute, by this engine's clock."""
        return int(self._clock() // self._minute_s)

    def heard(self, host: str, samples: Sequence[HostSample]) -> None:
        """Take in what a host sent, as of now: hosts' clocks are not believed.

        Of what it held back while no engine was there, only the last minute counts.
        """
        if not samples:
            return
        last = max(sample.time for sample in samples)
        since = last - dt.timedelta(seconds=self._minute_s)
        minute = self.minute
        before, total, count = self._now.get(host, (minute, 0.0, 0))
        if before != minute:
            self._end(host, before, total, count)
            total, count = 0.0, 0
        for sample in samples:
            if sample.time > since:
                total, count = total + sample.cpu_percent, count + 1
        self._now[host] = (minute, total, count)

    def take(self) -> dict[int, dict[str, int]]:
        """Return the averages of minutes that are over, in thousandths, and forget them."""
        now = self.minute
        for host, (minute, total, count) in list(self._now.items()):
            if minute != now:
                del self._now[host]
                self._end(host, minute, total, count)
        over, self._over = dict(self._over), defaultdict(dict)
        return over

    def _end(self, host: str, minute: int, total: float, count: int) -> None:
        if count:
            average = round(total / count * PERMILLE / 100)
            self._over[minute][host] = min(max(average, 0), PERMILLE)


class LoadKeeper:
    """Stores what one engine measured, if it is one, and tells a fleet what all of them did."""

    def __init__(self, loads: Loads, averages: Averages, *, minute_s: float = MINUTE_S) -> None:
        self._loads = loads
        self._averages = averages
        self._interval_s = minute_s / _LOOKS_A_MINUTE
        self._found: dict[str, Readings] = {}
        self._prepared = False
        self._failed = False

    async def run(self, fleet: Callable[[], Fleet | None]) -> None:
        """Look again and again. `fleet` returns whom to tell, None where nobody asked yet."""
        while True:
            await self.turn(fleet)
            await asyncio.sleep(self._interval_s)

    async def turn(self, fleet: Callable[[], Fleet | None]) -> None:
        """Look once. Where the database is away, what is known grows old, and then counts no more.

        What could not be stored is dropped: another minute comes.
        """
        over = self._averages.take()
        try:
            async with asyncio.timeout(_DATABASE_S_MAX):
                await self._exchange(over)
            self._failed = False
        except (TimeoutError, psycopg.Error, OSError) as error:
            if not self._failed:
                log.warning("hosts' loads are not shared", reason=str(error))
            self._failed, self._prepared = True, False
        told = fleet()
        if told is None:
            return
        hosts = told.hosts()
        for first in range(0, len(hosts), _HOSTS_AT_ONCE):
            self._show(told, hosts[first : first + _HOSTS_AT_ONCE])
            await asyncio.sleep(0)

    def show(self, fleet: Fleet) -> None:
        """Tell a fleet that was just made what is known."""
        self._show(fleet, fleet.hosts())

    def _show(self, fleet: Fleet, hosts: Sequence[str]) -> None:
        # The current minute has no reading yet: the newest that there can be is the one before.
        fleet.measure(self._found, self._averages.minute - 1, hosts)

    async def _exchange(self, over: Mapping[int, Mapping[str, int]]) -> None:
        if not self._prepared:
            await self._loads.prepare()
            self._prepared = True
        for minute in sorted(over):
            if self._averages.minute - minute <= _LATE_MAX:
                await self._loads.store(minute, over[minute])
        self._found = await self._loads.read()
