"""When hosts were heard of: the same rules in memory and in PostgreSQL, shared by all engines."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator

import psycopg
import psycopg_pool
import pytest

from commands.gateway.contacts import Contacts, MemoryContacts, PostgresContacts
from tests.harness.postgres import Database

pytestmark = pytest.mark.integration
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


@contextlib.asynccontextmanager
async def engine(database: Database) -> AsyncIterator[PostgresContacts]:
    pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection] = (
        psycopg_pool.AsyncConnectionPool(database.url, min_size=1, max_size=2, open=False)
    )
    async with pool:
        contacts = PostgresContacts(pool)
        await contacts.prepare()
        yield contacts


@pytest.fixture(params=["memory", "postgres"])
async def contacts(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Contacts]:
    if request.param == "memory":
        yield MemoryContacts()
        return
    async with engine(database) as found:
        yield found


async def test_what_is_stored_is_read(contacts: Contacts) -> None:
    assert await contacts.read() == {}

    await contacts.store({"a": NOON, "b": NOON + SECOND})
    await contacts.store({})

    assert await contacts.read() == {"a": NOON, "b": NOON + SECOND}


async def test_an_older_time_never_replaces_a_newer_one(contacts: Contacts) -> None:
    await contacts.store({"a": NOON, "b": NOON})

    await contacts.store({"a": NOON - 30 * SECOND, "b": NOON + 30 * SECOND})

    assert await contacts.read() == {"a": NOON, "b": NOON + 30 * SECOND}


async def test_a_time_from_a_clock_that_was_wrong_does_not_last(contacts: Contacts) -> None:
    await contacts.store({"a": NOON + dt.timedelta(days=1)})

    await contacts.store({"a": NOON})

    assert await contacts.read() == {"a": NOON}


async def test_engines_that_start_at_once_share_one_table(database: Database) -> None:
    async with contextlib.AsyncExitStack() as stack:
        engines = await asyncio.gather(
            *(stack.enter_async_context(engine(database)) for _ in range(4))
        )
        times = {f"host-{n}": NOON + n * SECOND for n in range(100)}

        await asyncio.gather(*(each.store(times) for each in engines))

        assert await engines[-1].read() == times
