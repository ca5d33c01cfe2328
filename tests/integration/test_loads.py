"""Hosts' loads by the minute: the same rules in memory and in PostgreSQL, shared by all engines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import psycopg
import psycopg_pool
import pytest

from commands.gateway.loads import Averages, LoadKeeper, Loads, MemoryLoads, PostgresLoads
from commands.scheduler.load import READINGS_KEPT, Readings
from tests.harness.postgres import Database
from tests.unit.gateway.test_loads import sample
from tests.unit.policies.test_fleet import fleet_of, host

pytestmark = pytest.mark.integration
MINUTE = 29_000_000


@contextlib.asynccontextmanager
async def engine(database: Database) -> AsyncIterator[PostgresLoads]:
    pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection] = (
        psycopg_pool.AsyncConnectionPool(
            database.url, min_size=1, max_size=2, open=False, kwargs={"autocommit": True}
        )
    )
    async with pool:
        loads = PostgresLoads(pool)
        await loads.prepare()
        yield loads


@pytest.fixture(params=["memory", "postgres"])
async def loads(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Loads]:
    if request.param == "memory":
        yield MemoryLoads()
        return
    async with engine(database) as found:
        yield found


async def kept(loads: Loads, name: str = "a") -> tuple[int, tuple[int | None, ...]]:
    """Return the newest minute of a host, as from the first one, and its readings."""
    found = (await loads.read())[name]
    return found.minute - MINUTE, found.permille


async def test_the_newest_reading_comes_first(loads: Loads) -> None:
    assert await loads.read() == {}
    await loads.store(MINUTE, {"a": 10, "b": 20})
    assert await loads.read() == {
        "a": Readings(minute=MINUTE, permille=(10,)),
        "b": Readings(minute=MINUTE, permille=(20,)),
    }
    await loads.store(MINUTE + 1, {"a": 11})
    await loads.store(MINUTE + 1, {})
    assert await kept(loads) == (1, (11, 10))
    assert await kept(loads, "b") == (0, (20,))


async def test_minutes_without_a_reading_are_left_open(loads: Loads) -> None:
    await loads.store(MINUTE, {"a": 10})
    await loads.store(MINUTE + 3, {"a": 13})
    assert await kept(loads) == (3, (13, None, None, 10))
    await loads.store(MINUTE + 4, {"a": 14})
    assert await kept(loads) == (4, (14, 13, None, None, 10))


async def test_so_many_readings_are_kept_and_no_more(loads: Loads) -> None:
    for number in range(READINGS_KEPT + 2):
        await loads.store(MINUTE + number, {"a": number})
    assert await kept(loads) == (READINGS_KEPT + 1, tuple(range(READINGS_KEPT + 1, 1, -1)))
    last = MINUTE + 2 * READINGS_KEPT  # all but two lie too far back
    await loads.store(last, {"a": 1})
    found = (await loads.read())["a"].permille
    assert found == (1, *[None] * (READINGS_KEPT - 2), READINGS_KEPT + 1)
    await loads.store(last + READINGS_KEPT, {"a": 2})
    assert (await loads.read())["a"].permille == (2,)


async def test_the_same_minute_of_another_engine_takes_the_place_of_the_first(loads: Loads) -> None:
    await loads.store(MINUTE, {"a": 10})
    await loads.store(MINUTE, {"a": 11})
    assert await kept(loads) == (0, (11,))
    await loads.store(MINUTE + 1, {"a": 12})
    await loads.store(MINUTE + 1, {"a": 13})
    assert await kept(loads) == (1, (13, 11))


async def test_an_older_minute_is_passed_over(loads: Loads) -> None:
    await loads.store(MINUTE + 1, {"a": 11})
    await loads.store(MINUTE, {"a": 10, "b": 20})
    assert await kept(loads) == (1, (11,))
    assert await kept(loads, "b") == (0, (20,))


async def test_minutes_of_a_clock_that_was_wrong_do_not_last(loads: Loads) -> None:
    await loads.store(MINUTE + 100, {"a": 11})
    await loads.store(MINUTE, {"a": 10})
    assert await kept(loads) == (0, (10,))


async def test_hosts_that_are_gone_are_forgotten_after_a_day(database: Database) -> None:
    async with engine(database) as loads:
        await loads.store(MINUTE, {"gone": 10})
        await loads.store(MINUTE + 1_440, {"a": 10})
        assert (await loads.read()).keys() == {"gone", "a"}
        await loads.store(MINUTE + 1_441, {"a": 10})
        assert (await loads.read()).keys() == {"a"}


async def test_engines_that_start_at_once_share_one_table(database: Database) -> None:
    async with contextlib.AsyncExitStack() as stack:
        engines = await asyncio.gather(
            *(stack.enter_async_context(engine(database)) for _ in range(4))
        )
        every = {f"host-{n}": n for n in range(1_000)}
        backwards = dict(reversed(every.items()))

        for minute in range(3):
            await asyncio.gather(
                *(
                    each.store(MINUTE + minute, some)
                    for each, some in zip(engines, (every, backwards) * 2, strict=True)
                )
            )

        found = await engines[-1].read()
        assert {name: one.permille for name, one in found.items()} == {
            name: (n, n, n) for name, n in every.items()
        }


async def test_ten_thousand_hosts_are_stored_and_read_in_no_time(database: Database) -> None:
    async with engine(database) as loads:
        every = {f"{n:032x}": n % 1_000 for n in range(10_000)}
        for minute in range(READINGS_KEPT):
            await loads.store(MINUTE + minute, every)
        began = time.monotonic()
        await loads.store(MINUTE + READINGS_KEPT, every)
        stored_s = time.monotonic() - began
        assert len(await loads.read()) == 10_000
        began = time.monotonic()
        again = await loads.read()
        read_s = time.monotonic() - began
        assert again["0" * 32].permille == (0,) * READINGS_KEPT
        assert stored_s < 5, stored_s
        assert read_s < 2, read_s


async def test_what_one_engine_measures_is_told_to_who_places_vms(database: Database) -> None:
    """given the table is emptied, as by a crash of the database, then it is filled again"""
    clock = [MINUTE * 60.0]
    async with engine(database) as own, engine(database) as others:
        averages = Averages(clock=lambda: clock[0])
        fleet = fleet_of(host(1, cpus=4))
        at_engine = LoadKeeper(own, averages)
        at_policies = LoadKeeper(others, Averages(clock=lambda: clock[0]))

        async def newest(percent: float) -> int | None:
            averages.heard("h1", [sample(percent)])
            clock[0] += 60
            await at_engine.turn(lambda: None)
            await at_policies.turn(lambda: fleet)
            candidate = fleet.candidate("h1")
            assert candidate is not None
            return None if candidate.load is None else candidate.load.newest

        assert await newest(70) == 700
        async with await psycopg.AsyncConnection.connect(database.url) as connection:
            await connection.execute("truncate gateway.loads")
        assert await newest(50) == 500
        async with await psycopg.AsyncConnection.connect(database.url) as connection:
            await connection.execute("drop table gateway.loads")
        assert await newest(40) == 500  # what was known, while it is not too old
        assert await newest(30) == 300
