"""The log in PostgreSQL passes the contract of logs; a direct stream over it that of streams.

Once on the newest server, which the embedded default brings, and once on the oldest that the log
works with, which Debian has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from events.log.migrate import migrate
from events.log.postgres import PostgresLog
from events.stream.direct import DirectStream
from tests.contract.log_contract import LogContract
from tests.contract.sample_events import SAMPLE_CODEC
from tests.contract.stream_contract import StreamContract
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
