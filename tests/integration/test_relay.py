"""The relay as a process of its own, between a real PostgreSQL and a real broker, and what hits it.

Whatever is killed or held, and when, a consumer gets every event once and in order, and the topic
is the whole log in the end.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from events.log.postgres import PostgresLog
from events.stream.kafka import KafkaStream
from events.stream.kafka_records import decode_record, topic_name
from events.stream.port import START
from tests.contract.sample_events import SAMPLE_CODEC
from tests.contract.stream_contract import append_events, events_of, positions, take
from tests.harness.kafka import KafkaBroker
from tests.harness.postgres import Database, PostgresServer
from tests.harness.workspace import PROJECT_ROOT
from tests.integration.kafka_clients import let_go_of_clients

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
CHILD = PROJECT_ROOT / "tests" / "integration" / "relay_child.py"
SCALE = 0.1
_let_go = pytest.fixture(scope="module", autouse=True)(let_go_of_clients)


class RelayProcess:
    def __init__(self, dsn: str, bootstrap: str) -> None:
        self._command = [sys.executable, str(CHILD), dsn, bootstrap]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
        return subprocess.Popen(self._command, cwd=PROJECT_ROOT, env=environment)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def restart(self) -> None:
        self.kill()
        self._process = self._start()


@pytest.fixture
def relays(database: Database, kafka: KafkaBroker) -> Iterator[list[RelayProcess]]:
    started: list[RelayProcess] = []
    yield started
    for relay in started:
        relay.kill()


def topic_positions(kafka: KafkaBroker, log_id: uuid.UUID) -> list[int]:
    """The positions in the topic, record by record."""
    consumer: Any = KafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="none")
    place = TopicPartition(topic_name(log_id), 0)
    consumer.assign([place])
    consumer.seek_to_beginning(place)
    end = consumer.end_offsets([place])[place]
    found: list[int] = []
    while len(found) < end:
        for record in consumer.poll(timeout_ms=1_000).get(place, ()):
            stored = decode_record(log_id, record.key, record.value, record.headers)
            found.append(stored.position)
    consumer.close()
    return found


async def test_kills_of_the_relay_lose_nothing(
    kafka: KafkaBroker, database: Database, relays: list[RelayProcess]
) -> None:
    dice = random.Random(5)
    total = 0
    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC) as log:
        relays.append(RelayProcess(database.url, kafka.bootstrap))
        stream = KafkaStream(kafka.bootstrap, log, time_scale=SCALE)
        reading = asyncio.create_task(take(stream, START, 3_000, patience_s=120))
        for _ in range(6):
            for _ in range(10):
                await append_events(log, 50)
                total += 50
                await asyncio.sleep(dice.random() * 0.15)
            await asyncio.to_thread(relays[0].restart)
        batches = await reading
        assert positions(batches) == list(range(1, total + 1))
        assert events_of(batches)[-1] == (await log.read(total - 1, 1))[0]
        in_topic = await asyncio.to_thread(topic_positions, kafka, log.log_id)
        assert list(dict.fromkeys(in_topic)) == list(range(1, total + 1))
        assert stream.status.hole_events == 0


async def test_a_relay_that_slept_and_one_that_took_over_only_double(
    kafka: KafkaBroker, database: Database, relays: list[RelayProcess]
) -> None:
    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC) as log:
        relays.append(RelayProcess(database.url, kafka.bootstrap))
        stream = KafkaStream(kafka.bootstrap, log, time_scale=SCALE)
        await append_events(log, 100)
        batches = await take(stream, START, 100)
        relays[0].signal(signal.SIGSTOP)
        relays.append(RelayProcess(database.url, kafka.bootstrap))
        await append_events(log, 100)
        batches += await take(stream, batches[-1].cursor, 200)
        relays[0].signal(signal.SIGCONT)
        await append_events(log, 100)
        batches += await take(stream, batches[-1].cursor, 300)
        assert positions(batches) == list(range(1, 301))


async def test_the_database_away_only_delays(
    kafka: KafkaBroker, postgres: PostgresServer, database: Database, relays: list[RelayProcess]
) -> None:
    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC) as log:
        relays.append(RelayProcess(database.url, kafka.bootstrap))
        stream = KafkaStream(kafka.bootstrap, log, time_scale=SCALE)
        await append_events(log, 50)
        batches = await take(stream, START, 50)
        await asyncio.to_thread(postgres.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(postgres.start)
    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC) as log:
        stream = KafkaStream(kafka.bootstrap, log, time_scale=SCALE)
        await append_events(log, 50)
        batches += await take(stream, batches[-1].cursor, 100, patience_s=60)
        assert positions(batches) == list(range(1, 101))
