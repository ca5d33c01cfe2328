"""The place that one process has at a time: kept by who speaks, lost by who is silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import psycopg
import pytest

from chronovisor.leadership import LIFE_MIN_S, Leadership
from tests.harness.postgres import Database

pytestmark = pytest.mark.integration
SHORT = 0.01


@contextlib.asynccontextmanager
async def candidate(database: Database, name: str = "test") -> AsyncIterator[Leadership]:
    connection = await psycopg.AsyncConnection.connect(database.url, autocommit=True)
    try:
        yield Leadership(connection, name, time_scale=SHORT)
    finally:
        await connection.close()


async def test_a_holder_that_speaks_keeps_the_place(database: Database) -> None:
    async with candidate(database) as holder, candidate(database) as standby:
        await holder.take()
        keeping = asyncio.create_task(holder.keep())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(standby.take(), 2 * LIFE_MIN_S)
        assert not keeping.done()
        keeping.cancel()


async def test_a_silent_holder_loses_the_place_and_learns_of_it(database: Database) -> None:
    async with candidate(database) as holder, candidate(database) as standby:
        await holder.take()
        await asyncio.wait_for(standby.take(), 3 * LIFE_MIN_S)
        with pytest.raises(psycopg.Error):
            await asyncio.wait_for(holder.keep(), 3 * LIFE_MIN_S)


async def test_a_dead_holder_gives_the_place_back_at_once(database: Database) -> None:
    async with candidate(database) as standby:
        async with candidate(database) as holder:
            await holder.take()
            taking = asyncio.create_task(standby.take())
            await asyncio.sleep(0.1)
            assert not taking.done()
        await asyncio.wait_for(taking, LIFE_MIN_S)


async def test_places_of_other_names_do_not_meet(database: Database) -> None:
    async with candidate(database, "one") as one, candidate(database, "other") as other:
        await asyncio.wait_for(one.take(), LIFE_MIN_S)
        await asyncio.wait_for(other.take(), LIFE_MIN_S)
