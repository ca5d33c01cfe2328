"""The log in PostgreSQL passes the contract of logs; a direct stream over it that of streams."""

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
from tests.harness.postgres import Database, PostgresServer

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def migrated(postgres_session: PostgresServer) -> Iterator[Database]:
    """One database for all tests of the module: making one takes longer than most of them."""
    postgres_session.start()
    database = postgres_session.create_database("log_contract")
    migrate(database.url)
    yield database
    postgres_session.start()
    postgres_session.drop_database(database)


@pytest.fixture
async def log(postgres: PostgresServer, migrated: Database) -> AsyncIterator[PostgresLog]:
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
