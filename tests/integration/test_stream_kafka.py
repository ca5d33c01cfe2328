"""The Kafka stream and the relay with a real broker; the log, which is not meant, is in memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from kafka import KafkaProducer

from events.log.memory import MemoryLog
from events.stream.kafka import KafkaStream
from events.stream.kafka_records import encode_headers, topic_name
from events.stream.port import START, Cursor
from events.stream.relay import Relay
from tests.contract.sample_events import SAMPLE_CODEC
from tests.contract.stream_contract import StreamContract, append_events, events_of, positions, take
from tests.harness.kafka import KafkaBroker
from tests.integration.kafka_clients import let_go_of_clients

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
SCALE = 0.1
_let_go = pytest.fixture(scope="module", autouse=True)(let_go_of_clients)


async def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def relaying(relay: Relay) -> AsyncIterator[Relay]:
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(codec=SAMPLE_CODEC)


@pytest.fixture
def stream(kafka: KafkaBroker, log: MemoryLog) -> KafkaStream:
    return KafkaStream(kafka.bootstrap, log, time_scale=SCALE)


@pytest.fixture
async def relay(kafka: KafkaBroker, log: MemoryLog) -> AsyncIterator[Relay]:
    async with relaying(Relay(kafka.bootstrap, log, time_scale=SCALE)) as running:
        yield running


class TestKafkaStream(StreamContract):
    @pytest.fixture(autouse=True)
    def _published(self, relay: Relay) -> None:
        """The contract is the stream's; the relay publishes."""


async def publish_raw(kafka: KafkaBroker, log: MemoryLog, *positions: int) -> None:
    """Write records of these positions into the topic, in this order, by hand."""
    topic = topic_name(log.log_id)
    if topic not in kafka.topics():
        kafka.create_topic(topic)
    events = await log.read(0)

    def publish() -> None:
        producer: Any = KafkaProducer(bootstrap_servers=kafka.bootstrap)
        for position in positions:
            stored = events[position - 1]
            headers = encode_headers(log.log_id, stored)
            key = stored.stream.encode()
            producer.send(topic, value=stored.payload, key=key, headers=headers, partition=0)
        producer.flush(10)
        producer.close(5)

    await asyncio.to_thread(publish)


async def test_holes_are_read_from_the_log_and_doubles_dropped(
    kafka: KafkaBroker, log: MemoryLog, stream: KafkaStream
) -> None:
    await append_events(log, 20)
    await publish_raw(kafka, log, 3, 4, 4, 3, 5, 9, 1, 10, 20)
    events = events_of(await take(stream, START, 20, limit=4))
    assert events == list(await log.read(0))
    assert stream.status.hole_events == 2 + 3 + 9
    assert stream.status.doubles_dropped == 3


async def test_what_the_topic_does_not_show_is_not_read_from_the_log(
    kafka: KafkaBroker, log: MemoryLog, stream: KafkaStream
) -> None:
    await append_events(log, 10)
    await publish_raw(kafka, log, 1, 2, 3)
    with pytest.raises(TimeoutError):
        await take(stream, START, 4, patience_s=3.0)
    assert stream.status.hole_events == 0


async def test_foreign_records_are_passed_over(
    kafka: KafkaBroker, log: MemoryLog, stream: KafkaStream
) -> None:
    await append_events(log, 3)
    await publish_raw(kafka, log, 1)

    def publish_junk() -> None:
        producer: Any = KafkaProducer(bootstrap_servers=kafka.bootstrap)
        producer.send(topic_name(log.log_id), value=b"junk", partition=0)
        producer.flush(10)
        producer.close(5)

    await asyncio.to_thread(publish_junk)
    await publish_raw(kafka, log, 2, 3)
    assert len(events_of(await take(stream, START, 3))) == 3
    assert stream.status.foreign_dropped == 1


async def test_a_new_relay_goes_on_where_the_topic_ends(
    kafka: KafkaBroker, log: MemoryLog, stream: KafkaStream
) -> None:
    topic = topic_name(log.log_id)
    await append_events(log, 100)
    async with relaying(Relay(kafka.bootstrap, log, time_scale=SCALE)) as first:
        await eventually(lambda: first.status.position == 100, "the first relay")
    await append_events(log, 50)
    async with relaying(Relay(kafka.bootstrap, log, time_scale=SCALE)) as second:
        await eventually(lambda: second.status.position == 150, "the second relay")
        assert second.status.published == 50
    assert kafka.record_count(topic) == 150
    assert len(events_of(await take(stream, START, 150))) == 150


async def test_a_consumer_and_the_relay_outlive_the_brokers_kill(
    kafka: KafkaBroker, log: MemoryLog, stream: KafkaStream, relay: Relay
) -> None:
    reading = asyncio.create_task(take(stream, START, 900, patience_s=90.0))
    for _ in range(3):
        await append_events(log, 200)
        await asyncio.sleep(0.3)
        kafka.kill()
        await append_events(log, 100)
        await asyncio.to_thread(kafka.start)
    assert [stored.position for stored in events_of(await reading)] == list(range(1, 901))


async def test_a_broker_that_is_not_there_yet_is_waited_for(
    kafka: KafkaBroker, log: MemoryLog, stream: KafkaStream
) -> None:
    kafka.stop()
    await append_events(log, 10)
    async with relaying(Relay(kafka.bootstrap, log, time_scale=SCALE)) as relay:
        reading = asyncio.create_task(take(stream, START, 10, patience_s=90.0))
        await eventually(lambda: relay.status.failures >= 2, "failures of the relay")
        await eventually(lambda: stream.status.failures >= 2, "failures of the stream")
        assert relay.status.state == "waiting"
        await asyncio.to_thread(kafka.start)
        assert positions(await reading) == list(range(1, 11))
    assert not stream.status.connected


async def test_a_paused_broker_only_delays(
    kafka: KafkaBroker, log: MemoryLog, stream: KafkaStream, relay: Relay
) -> None:
    reading = asyncio.create_task(take(stream, START, 60, patience_s=90.0))
    await append_events(log, 30)
    await asyncio.sleep(1)
    with kafka.paused():
        await append_events(log, 30)
        await asyncio.sleep(3)
    assert len(events_of(await reading)) == 60


async def test_a_deleted_topic_is_made_again_and_filled(
    kafka: KafkaBroker, log: MemoryLog, stream: KafkaStream, relay: Relay
) -> None:
    topic = topic_name(log.log_id)
    await append_events(log, 40)
    batches = await take(stream, START, 40)
    reading = asyncio.create_task(take(stream, batches[-1].cursor, 60, patience_s=90.0))
    await asyncio.sleep(1)
    kafka.delete_topic(topic)
    await append_events(log, 20)
    assert [stored.position for stored in events_of(await reading)] == list(range(41, 61))
    await eventually(lambda: kafka.record_count(topic) >= 60, "the topic to be whole")
    fresh = KafkaStream(kafka.bootstrap, log, time_scale=SCALE)
    assert len(events_of(await take(fresh, START, 60))) == 60


async def test_an_emptied_topic_is_filled_again_without_a_new_event(
    kafka: KafkaBroker, log: MemoryLog, relay: Relay
) -> None:
    topic = topic_name(log.log_id)
    await append_events(log, 40)
    await eventually(lambda: relay.status.position == 40, "the relay")
    kafka.empty_topic(topic)
    await eventually(lambda: relay.status.refills == 1, "the relay to notice")
    await eventually(lambda: kafka.record_count(topic) == 40, "the topic to be whole")


async def test_a_consumer_behind_an_event_in_a_topic_made_anew_finds_it(
    kafka: KafkaBroker, log: MemoryLog, stream: KafkaStream
) -> None:
    """Its offset is inside the new topic, but the event that it waits for lies below."""
    await append_events(log, 10)
    await publish_raw(kafka, log, *range(1, 10), *range(1, 10))
    reading = asyncio.create_task(take(stream, START, 10, patience_s=90.0))
    await asyncio.sleep(1.5)
    kafka.delete_topic(topic_name(log.log_id))
    await publish_raw(kafka, log, *range(1, 11), *range(1, 10))
    assert [stored.position for stored in events_of(await reading)] == list(range(1, 11))


async def test_another_logs_topic_is_another_topic(
    kafka: KafkaBroker, log: MemoryLog, relay: Relay
) -> None:
    restored = MemoryLog(codec=SAMPLE_CODEC)
    await append_events(log, 5)
    await append_events(restored, 3)
    other = KafkaStream(kafka.bootstrap, restored, time_scale=SCALE)
    async with relaying(Relay(kafka.bootstrap, restored, time_scale=SCALE)):
        assert len(events_of(await take(other, Cursor(None, 0), 3))) == 3
    assert topic_name(log.log_id) != topic_name(restored.log_id)
