"""The log in PostgreSQL passes the contract of logs; a direct stream over it that of streams.

Once on the newest server, which the embedded default brings, and once on the oldest that the log
works with, which Debian has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from events.log.migrate import migrate
from events.log.postgres import PostgresLog
from events.log.reader import PostgresLogReader
from events.stream.direct import DirectStream
from tests.contract.log_contract import LogContract
from tests.contract.sample_events import SAMPLE_CODEC
from tests.contract.stream_contract import StreamContract, append_events
from tests.harness.postgres import Binaries, Database, PostgresServer, find_binaries
from tests.harness.workspace import Workspace

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=["wheel", "debian"])
def migrated(
    request: pytest.FixtureRequest, workspace: Workspace, postgres_session: PostgresServer
) -> Iterator[Database]:
    """One database for all tests of the module: making one takes longer than most of them."""
    which: Binaries = request.param
    if find_binaries(which) is None:
        pytest.skip(f"no PostgreSQL from {which}")
    server = postgres_session if which == "wheel" else PostgresServer(workspace, which)
    server.start()
    database = server.create_database("log_contract")
    migrate(database.url)
    yield database
    server.start()
    server.drop_database(database)
    if which == "debian":
        server.kill()


@pytest.fixture
async def log(migrated: Database) -> AsyncIterator[PostgresLog]:
    with psycopg.connect(migrated.url) as connection:
        connection.execute("truncate log.log, log.claims, log.answers, log.snapshots")
    async with PostgresLog.open(migrated.url, migrate=False, codec=SAMPLE_CODEC) as log:
        yield log


@pytest.fixture
def stream(log: PostgresLog) -> DirectStream:
    return DirectStream(log)


class TestPostgresLog(LogContract):
    pass


class TestDirectStreamOverPostgres(StreamContract):
    pass


async def test_whoever_follows_the_log_does_not_wait_behind_those_who_decide(
    migrated: Database, log: PostgresLog
) -> None:
    await append_events(log, 5)
    async with PostgresLogReader.open(migrated.url, pool_connections_max=1) as reader:
        with lock_of_claims(migrated.url):
            deciding = asyncio.create_task(reader.claims())
            await asyncio.sleep(0.2)
            assert not deciding.done()
            assert [stored.position for stored in await reader.read(0)] == [1, 2, 3, 4, 5]
            assert not deciding.done()
        await deciding


@contextlib.contextmanager
def lock_of_claims(url: str) -> Iterator[None]:
    """Let nobody read the claims for the length of the block."""
    with psycopg.connect(url) as connection:
        connection.execute("lock table log.claims in access exclusive mode")
        yield
