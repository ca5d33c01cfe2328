"""The vault in PostgreSQL: sealed rows, shared by engines, and unreadable with another key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import psycopg_pool
import pytest

from access.secrets import EngineSecret
from access.vault import MIGRATIONS, SCHEMA, PostgresVault, SecretForgotten
from events.log.migrate import migrate
from events.log.port import UnavailableError
from tests.harness.postgres import Database

pytestmark = pytest.mark.integration
SECRET = "correct horse battery staple"
KEY = EngineSecret(b"k" * 32)
Pool = psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection]


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    """Connections to a database with a vault."""
    assert await asyncio.to_thread(migrate, database.url, SCHEMA, MIGRATIONS) == 1
    pool: Pool = psycopg_pool.AsyncConnectionPool(
        database.url, min_size=1, max_size=2, timeout=2, open=False, kwargs={"autocommit": True}
    )
    async with pool:
        yield pool


async def test_a_secret_lies_sealed_in_the_table_and_is_forgotten(pool: Pool) -> None:
    vault = PostgresVault(pool, KEY)
    reference = await vault.put(SECRET)
    async with pool.connection() as connection:
        rows = await (await connection.execute("select sealed from vault.secrets")).fetchall()
    assert len(rows) == 1
    assert SECRET.encode() not in bytes(rows[0][0])
    assert await PostgresVault(pool, KEY).get(reference) == SECRET
    with pytest.raises(SecretForgotten):
        await PostgresVault(pool, EngineSecret(b"o" * 32)).get(reference)
    await vault.delete(reference)
    with pytest.raises(SecretForgotten):
        await vault.get(reference)
    async with pool.connection() as connection:
        left = await (await connection.execute("select count(*) from vault.secrets")).fetchone()
    assert left == (0,)


async def test_only_what_is_old_and_referred_to_by_nothing_is_swept(pool: Pool) -> None:
    vault = PostgresVault(pool, KEY)
    kept, left, young = [await vault.put(word) for word in ("kept", "left", "young")]
    async with pool.connection() as connection:
        await connection.execute(
            "update vault.secrets set made = made - interval '1 hour' where id <> %s",
            (young.removeprefix("vault/"),),
        )
    assert await vault.sweep({kept}, older_than_s=600) == 1
    assert [await vault.get(each) for each in (kept, young)] == ["kept", "young"]
    with pytest.raises(SecretForgotten):
        await vault.get(left)


async def test_a_database_that_is_away_says_so_and_tells_no_secret(pool: Pool) -> None:
    vault = PostgresVault(pool, KEY)
    async with pool.connection() as connection:
        await connection.execute("drop table vault.secrets")
    with pytest.raises(UnavailableError) as refused:
        await vault.put(SECRET)
    assert SECRET not in str(refused.value)
