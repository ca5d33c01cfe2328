"""One partition of a Kafka topic, read from a thread of its own.

kafka-python's clients block (version 3.0 runs an event loop of its own inside), so each reader has
one worker thread, which alone touches its client. Every call has a limit.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from events.envelope import Stored
from events.stream.kafka_records import ForeignRecordError, decode_record, topic_name

PARTITION = 0
POLL_TIMEOUT_S = 0.5
REQUEST_TIMEOUT_S = 5.0
FETCH_BYTES_MAX = 4 * 1024 * 1024
RECORD_TIMEOUT_S = 5.0
T = TypeVar("T")
Options = Mapping[str, Any]
"""Further settings of kafka-python's clients: `security_protocol`, `ssl_cafile`, `sasl_...`."""

CLIENT_ERRORS = (KafkaError, OSError, TimeoutError)
"""What kafka-python raises while a broker is away or has lost something."""


# kafka-python reports each of its attempts, several a second, for as long as a broker is away. What
# matters of it comes back as an exception, and is told once by whoever retries.
logging.getLogger("kafka").setLevel(logging.CRITICAL)


class WorkerThread:
    """One thread that runs a client's blocking calls, one after another."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a function in the thread and return its answer."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)

    def finish(self, function: Callable[[], object]) -> None:
        """Run a last function, after whatever runs now, and end the thread; does not wait."""
        self._executor.submit(function)
        self._executor.shutdown(wait=False)


class Bounds(msgspec.Struct, frozen=True):
    """A partition's offsets: the first record's, and the one that the next record will get."""

    begin: int
    end: int


class TopicRecord(msgspec.Struct, frozen=True):
    """A record's offset and its event; None where the record is not an event of this log."""

    offset: int
    stored: Stored | None


class TopicReader:
    """Reads a log's topic. Blocking: all calls from one thread."""

    def __init__(self, bootstrap: str, log_id: uuid.UUID, options: Options) -> None:
        self._log_id = log_id
        self._partition = TopicPartition(topic_name(log_id), PARTITION)
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            request_timeout_ms=round(REQUEST_TIMEOUT_S * 1000),
            bootstrap_timeout_ms=round(REQUEST_TIMEOUT_S * 1000),
            reconnect_backoff_max_ms=1_000,
            max_partition_fetch_bytes=FETCH_BYTES_MAX,
            metrics_enabled=False,
            **options,
        )

    def open(self) -> None:
        """Find the topic; raises UnknownTopicOrPartitionError where there is none."""
        self._consumer.bootstrap(timeout_ms=round(REQUEST_TIMEOUT_S * 1000))
        if not self._consumer.partitions_for_topic(self._partition.topic):
            raise UnknownTopicOrPartitionError(f"no topic {self._partition.topic}")
        self._consumer.assign([self._partition])

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close(autocommit=False, timeout_ms=1_000)

    def bounds(self) -> Bounds:
        """Return the offsets of the partition's first record and of its end."""
        limit = {"timeout_ms": round(REQUEST_TIMEOUT_S * 1000)}
        begin = self._consumer.beginning_offsets([self._partition], **limit)[self._partition]
        end = self._consumer.end_offsets([self._partition], **limit)[self._partition]
        return Bounds(begin, end)

    def place(self) -> int:
        """Return the offset that is read next."""
        place: int | None = self._consumer.position(self._partition, timeout_ms=1_000)
        if place is None:
            raise UnknownTopicOrPartitionError("the reader has no place in the topic")
        return place

    def seek(self, offset: int) -> None:
        """Read from this offset on."""
        self._consumer.seek(self._partition, offset)

    def poll(self, limit: int, timeout_s: float = POLL_TIMEOUT_S) -> list[TopicRecord]:
        """Return the next records, at most `limit`; none if there are none for `timeout_s`."""
        answer = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=limit)
        return [self._decode(record) for record in answer.get(self._partition, ())]

    def _decode(self, record: Any) -> TopicRecord:  # noqa: ANN401  kafka-python has no types
        try:
            stored = decode_record(self._log_id, record.key, record.value, record.headers)
        except ForeignRecordError:
            return TopicRecord(record.offset, None)
        return TopicRecord(record.offset, stored)

    def position_before(self, offset: int, begin: int) -> int | None:
        """Return the position of the last event below an offset (and at or above `begin`), if any.

        Leaves the reader's place at some offset between: seek before polling again.
        """
        for candidate in range(offset - 1, begin - 1, -1):
            self.seek(candidate)
            records = self.poll(1, RECORD_TIMEOUT_S)
            if not records or records[0].offset >= offset:
                return None
            if records[0].stored is not None:
                return records[0].stored.position
        return None

    def find(self, position: int) -> int:
        """Return an offset behind a record up to `position` and before one beyond it.

        A binary search: positions rise with the offsets except where a relay wrote doubles, and
        there any such place will do.
        """
        bounds = self.bounds()
        low, high = bounds.begin, bounds.end
        while low < high:
            middle = (low + high) // 2
            found = self.position_before(middle + 1, low)
            if found is None or found <= position:
                low = middle + 1
            else:
                high = middle
        return low
