"""Telemetry through Kafka: topic `chronovisor.telemetry`, partitioned by host, kept for a day."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from events.backoff import Backoff
from events.stream.kafka_topic import (
    CLIENT_ERRORS,
    FETCH_BYTES_MAX,
    POLL_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    Options,
    WorkerThread,
)
from events.wire.agent import Telemetry
from events.wire.telemetry import (
    FRAME_BYTES_MAX,
    QUEUE_FRAMES_MAX,
    TelemetryBatch,
    decode_telemetry,
    encode_telemetry,
)

TOPIC = "chronovisor.telemetry"
PARTITIONS = 8
TOPIC_SETTINGS = {
    "cleanup.policy": "delete",
    "retention.ms": str(24 * 60 * 60 * 1000),
    "max.message.bytes": str(FRAME_BYTES_MAX + 64 * 1024),
}
PUBLISH_FRAMES_MAX = 200
DELIVERY_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_MS = round(REQUEST_TIMEOUT_S * 1000)
logger = structlog.get_logger(__name__)


def ensure_topic(bootstrap: str, replication_factor: int, options: Options) -> None:
    """Make the telemetry topic if there is none (blocking)."""
    admin = KafkaAdminClient(
        bootstrap_servers=bootstrap,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
        **options,
    )
    try:
        topic = {
            "num_partitions": PARTITIONS,
            "replication_factor": replication_factor,
            "configs": TOPIC_SETTINGS,
        }
        with contextlib.suppress(TopicAlreadyExistsError):
            admin.create_topics({TOPIC: topic}, timeout_ms=5_000)
        admin.wait_for_topics([TOPIC], timeout_ms=5_000)
    finally:
        admin.close()


class TelemetryPublisher:
    """Publishes telemetry to Kafka (a `TelemetrySink`); drops the oldest while it cannot."""

    def __init__(
        self,
        bootstrap: str,
        *,
        replication_factor: int = 1,
        queue_frames_max: int = QUEUE_FRAMES_MAX,
        options: Options | None = None,
        backoff_max_s: float = 5.0,
    ) -> None:
        self._bootstrap = bootstrap
        self._replication_factor = replication_factor
        self._options = dict(options or {})
        self._queue: collections.deque[tuple[bytes, bytes]] = collections.deque()
        self._queue_frames_max = queue_frames_max
        self._backoff = Backoff(max_s=backoff_max_s)
        self._filled = asyncio.Event()
        self.sent = 0
        self.dropped = 0

    def send(self, telemetry: Telemetry) -> None:
        """Take a batch; never waits, drops the oldest if too many are waiting."""
        content = encode_telemetry(telemetry)
        if len(content) > FRAME_BYTES_MAX:
            self.dropped += 1
            return
        if len(self._queue) >= self._queue_frames_max:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append((telemetry.host.encode(), content))
        self._filled.set()

    async def run(self) -> None:
        """Deliver what was taken, until cancelled."""
        while True:
            thread = WorkerThread("telemetry")
            producer: list[Any] = []
            try:
                await thread.call(self._open, producer)
                await self._deliver(thread, producer[0])
            except CLIENT_ERRORS as error:
                if self._backoff.failures == 0:
                    logger.warning("telemetry cannot be published", error=str(error))
            finally:
                thread.finish(functools.partial(_close, producer))
            await self._backoff.wait()

    def _open(self, producer: list[Any]) -> None:
        ensure_topic(self._bootstrap, self._replication_factor, self._options)
        producer.append(
            KafkaProducer(
                bootstrap_servers=self._bootstrap,
                enable_idempotence=True,
                acks="all",
                linger_ms=20,
                max_request_size=FRAME_BYTES_MAX + 64 * 1024,
                allow_auto_create_topics=False,
                delivery_timeout_ms=round(DELIVERY_TIMEOUT_S * 1000),
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                max_block_ms=REQUEST_TIMEOUT_MS,
                bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
                reconnect_backoff_max_ms=1_000,
                metrics_enabled=False,
                **self._options,
            )
        )

    async def _deliver(self, thread: WorkerThread, producer: Any) -> None:  # noqa: ANN401
        while True:
            await self._filled.wait()
            while self._queue:
                size = min(len(self._queue), PUBLISH_FRAMES_MAX)
                frames = [self._queue.popleft() for _ in range(size)]
                try:
                    await thread.call(_publish, producer, frames)
                except BaseException:
                    # Back to the front: what arrived nevertheless is told apart by its key.
                    room = max(0, self._queue_frames_max - len(self._queue))
                    kept = frames[len(frames) - min(len(frames), room) :]
                    self.dropped += len(frames) - len(kept)
                    self._queue.extendleft(reversed(kept))
                    raise
                self.sent += len(frames)
                self._backoff.reset()
            self._filled.clear()


def _publish(producer: Any, frames: list[tuple[bytes, bytes]]) -> None:  # noqa: ANN401
    futures = [producer.send(TOPIC, key=host, value=content) for host, content in frames]
    producer.flush(timeout=DELIVERY_TIMEOUT_S + 2.0)
    for future in futures:
        future.get(timeout=1.0)


def _close(clients: list[Any]) -> None:
    with contextlib.suppress(KafkaError):
        for client in clients:
            client.close()


class TelemetryConsumer:
    """Reads telemetry from Kafka (a `TelemetrySource`), every partition, at places given."""

    def __init__(
        self,
        bootstrap: str,
        *,
        replication_factor: int = 1,
        options: Options | None = None,
        backoff_max_s: float = 5.0,
    ) -> None:
        self._bootstrap = bootstrap
        self._replication_factor = replication_factor
        self._options = dict(options or {})
        self._backoff = Backoff(max_s=backoff_max_s)
        self.undecodable = 0

    async def batches(self, offsets: Mapping[int, int]) -> AsyncIterator[TelemetryBatch]:
        """Yield batches for ever, after these places as far as the topic still has them."""
        places = dict(offsets)
        while True:
            thread = WorkerThread("telemetry")
            consumer: list[Any] = []
            try:
                await thread.call(self._open, consumer, places)
                while True:
                    batch = await thread.call(self._poll, consumer[0])
                    if batch is not None:
                        places.update(batch.offsets)
                        self._backoff.reset()
                        yield batch
            except CLIENT_ERRORS as error:
                if self._backoff.failures == 0:
                    logger.warning("telemetry cannot be read", error=str(error))
            finally:
                thread.finish(functools.partial(_close, consumer))
            await self._backoff.wait()

    def _open(self, opened: list[Any], places: Mapping[int, int]) -> None:
        ensure_topic(self._bootstrap, self._replication_factor, self._options)
        consumer = KafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
            reconnect_backoff_max_ms=1_000,
            max_partition_fetch_bytes=FETCH_BYTES_MAX + 64 * 1024,
            metrics_enabled=False,
            **self._options,
        )
        opened.append(consumer)
        consumer.bootstrap(timeout_ms=REQUEST_TIMEOUT_MS)
        numbers = consumer.partitions_for_topic(TOPIC)
        if not numbers:
            raise UnknownTopicOrPartitionError(f"no topic {TOPIC}")
        partitions = [TopicPartition(TOPIC, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        begins = consumer.beginning_offsets(partitions, timeout_ms=REQUEST_TIMEOUT_MS)
        ends = consumer.end_offsets(partitions, timeout_ms=REQUEST_TIMEOUT_MS)
        for partition in partitions:
            place = places.get(partition.partition, begins[partition])
            known = begins[partition] <= place <= ends[partition]
            consumer.seek(partition, place if known else begins[partition])

    def _poll(self, consumer: Any) -> TelemetryBatch | None:  # noqa: ANN401
        answer = consumer.poll(timeout_ms=round(POLL_TIMEOUT_S * 1000))
        if not answer:
            return None
        telemetry: list[Telemetry] = []
        offsets: dict[int, int] = {}
        for partition, records in answer.items():
            for record in records:
                offsets[partition.partition] = record.offset + 1
                try:
                    telemetry.append(decode_telemetry(record.value or b""))
                except msgspec.MsgspecError:
                    self.undecodable += 1
        return TelemetryBatch(telemetry=telemetry, offsets=offsets)
