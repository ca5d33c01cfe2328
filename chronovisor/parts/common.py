"""What the consumers' processes share: the log to read, and the stream to follow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from chronovisor.installation import Installation
from events.log.connection import NoLogError
from events.log.port import LogReader, UnavailableError
from events.log.reader import PostgresLogReader
from events.stream.direct import DirectStream
from events.stream.port import Stream

log = structlog.get_logger(__name__)
Pool = AsyncConnectionPool[psycopg.AsyncConnection]
START_ATTEMPTS_MAX = 60
START_RETRY_S = 1.0
REST_S = 0.1
"""How long consumers that flush a disk for each batch let events gather, at most."""


@contextlib.asynccontextmanager
async def opened_pool(installation: Installation, connections_max: int) -> AsyncIterator[Pool]:
    """Open connections to the database for what is no event, as many at once as are needed."""
    pool: Pool = AsyncConnectionPool(
        installation.dsn(),
        min_size=1,
        max_size=connections_max,
        timeout=5,
        open=False,
        kwargs={"autocommit": True, "connect_timeout": 5},
    )
    async with pool:
        yield pool


@contextlib.asynccontextmanager
async def open_reader(installation: Installation) -> AsyncIterator[PostgresLogReader]:
    """Open the log for reading; waits, within limits, for a database that is away or not set up."""
    for attempt in range(START_ATTEMPTS_MAX):
        opened = PostgresLogReader.open(installation.dsn())
        try:
            reader = await opened.__aenter__()
        except (UnavailableError, NoLogError) as error:
            if attempt == START_ATTEMPTS_MAX - 1:
                raise
            log.warning("waiting for the database", reason=str(error))
            await asyncio.sleep(START_RETRY_S)
            continue
        try:
            yield reader
        finally:
            await opened.__aexit__(None, None, None)
        return


def open_stream(
    installation: Installation, reader: LogReader, *, kafka: bool = True, rest_s: float = 0.0
) -> Stream:
    """Return the stream that the settings say: Kafka's where there is a broker, else the log's.

    `rest_s` is for how long events may gather (see `DirectStream`); Kafka's come in batches anyway.
    """
    settings = installation.settings
    if settings.kafka.bootstrap is None or not kafka:
        return DirectStream(reader, wait_s=1.0, rest_s=rest_s * settings.time_scale)
    from events.stream.kafka import KafkaStream  # noqa: PLC0415 - costs memory, is not always used

    return KafkaStream(settings.kafka.bootstrap, reader, time_scale=settings.time_scale)
