"""The relay: publishes the log, in order, to its Kafka topic.

It keeps no state of its own: it resumes after the topic's last record. So a relay that is killed
may repeat some records, and a second relay all of them: consumers drop doubles by position. It
makes the topic (one partition, nothing ever expires). A topic that is empty, because it is new, was
deleted or was emptied, is filled from the log's first position: a topic that never expires is
promised to be the whole log, also to readers that are none of ours. Meanwhile our consumers wait,
or, where the topic shows them a hole, read it from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from collections.abc import Sequence

import msgspec
import structlog
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from events.backoff import Backoff
from events.envelope import Stored
from events.log.port import LogReader, UnavailableError
from events.stream.kafka_records import encode_headers, topic_name
from events.stream.kafka_topic import (
    CLIENT_ERRORS,
    PARTITION,
    REQUEST_TIMEOUT_S,
    Options,
    TopicReader,
    WorkerThread,
)

PUBLISH_EVENTS_MAX = 1_000
DELIVERY_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 1.0
IDLE_CHECK_S = 5.0
WAIT_S = 1.0
TOPIC_SETTINGS = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
logger = structlog.get_logger(__name__)


class RelayStatus(msgspec.Struct, kw_only=True):
    """Where the relay is, for health answers and metrics."""

    state: str = "starting"  # starting, publishing, waiting (for the broker or the log)
    position: int = 0
    head: int = 0
    published: int = 0
    refills: int = 0
    failures: int = 0
    last_error: str = ""


class _EmptiedTopicError(Exception):
    """The topic lost its records: it is to be filled from the log's first position."""


class _TopicAheadError(Exception):
    """The topic holds positions that the log does not have: it is not this log's topic."""


RECOVERABLE_ERRORS = (*CLIENT_ERRORS, UnavailableError, _EmptiedTopicError, _TopicAheadError)


class TopicWriter:
    """Makes a log's topic and writes to it. Blocking: all calls from one thread."""

    def __init__(
        self, bootstrap: str, log_id: uuid.UUID, replication_factor: int, options: Options
    ) -> None:
        self._bootstrap = bootstrap
        self._log_id = log_id
        self._topic = topic_name(log_id)
        self._replication_factor = replication_factor
        self._options = options
        self._producer: KafkaProducer | None = None
        self._reader: TopicReader | None = None
        self._end = 0

    def open(self) -> int:
        """Make the topic if there is none; return the position of its last event, 0 if empty."""
        self._ensure_topic()
        self._reader = TopicReader(self._bootstrap, self._log_id, self._options)
        self._reader.open()
        bounds = self._reader.bounds()
        self._end = bounds.end
        last = self._reader.position_before(bounds.end, bounds.begin)
        self._producer = KafkaProducer(
            bootstrap_servers=self._bootstrap,
            enable_idempotence=True,
            acks="all",
            linger_ms=2,
            batch_size=256 * 1024,
            allow_auto_create_topics=False,
            delivery_timeout_ms=round(DELIVERY_TIMEOUT_S * 1000),
            request_timeout_ms=round(REQUEST_TIMEOUT_S * 1000),
            max_block_ms=round(REQUEST_TIMEOUT_S * 1000),
            bootstrap_timeout_ms=round(REQUEST_TIMEOUT_S * 1000),
            reconnect_backoff_max_ms=1_000,
            metrics_enabled=False,
            **self._options,
        )
        return last or 0

    def _ensure_topic(self) -> None:
        admin = KafkaAdminClient(
            bootstrap_servers=self._bootstrap,
            request_timeout_ms=round(REQUEST_TIMEOUT_S * 1000),
            bootstrap_timeout_ms=round(REQUEST_TIMEOUT_S * 1000),
            **self._options,
        )
        try:
            # With replicas, one of them may be away without stopping the relay.
            in_sync = {"min.insync.replicas": str(max(1, self._replication_factor - 1))}
            topic = {
                "num_partitions": 1,
                "replication_factor": self._replication_factor,
                "configs": TOPIC_SETTINGS | in_sync,
            }
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics({self._topic: topic}, timeout_ms=5_000)
            admin.wait_for_topics([self._topic], timeout_ms=5_000)
        finally:
            admin.close()

    def publish(self, events: Sequence[Stored]) -> None:
        """Publish events and wait until the broker has acknowledged all of them.

        Raises KafkaError where some may be missing, _EmptiedTopicError where their offsets show
        that the topic lost its former records.
        """
        producer = self._producer
        if producer is None:
            raise UnknownTopicOrPartitionError("the relay's producer is not open")
        futures = [
            producer.send(
                self._topic,
                value=stored.payload,
                key=stored.stream.encode(),
                headers=encode_headers(self._log_id, stored),
                partition=PARTITION,
                timestamp_ms=int(stored.time.timestamp() * 1000),
            )
            for stored in events
        ]
        producer.flush(timeout=DELIVERY_TIMEOUT_S + 2.0)
        offsets = [future.get(timeout=1.0).offset for future in futures]
        # An offset of -1 belongs to a repetition that the broker recognised by its sequence.
        first = next((offset for offset in offsets if offset >= 0), self._end)
        if first < self._end:
            raise _EmptiedTopicError(f"offset {first} was given after offset {self._end - 1}")
        self._end = max(self._end, offsets[-1] + 1)

    def check(self) -> None:
        """Raise _EmptiedTopicError where the topic is gone or has lost its records."""
        if self._reader is None:
            return
        try:
            bounds = self._reader.bounds()
        except UnknownTopicOrPartitionError as error:
            raise _EmptiedTopicError("the topic is gone") from error
        if bounds.end < self._end or (bounds.begin == bounds.end and self._end > 0):
            raise _EmptiedTopicError(f"{self._end} records were there, now {bounds}")

    def close(self, timeout_s: float = DELIVERY_TIMEOUT_S) -> None:
        """Close the connections; what is not acknowledged by now may or may not arrive."""
        if self._reader is not None:
            self._reader.close()
        if self._producer is not None:
            with contextlib.suppress(KafkaError):
                self._producer.close(timeout=timeout_s)


class Relay:
    """Publishes a log to Kafka until it is cancelled; outages only make it wait.

    `options` go to kafka-python's clients as they are (TLS, SASL).
    """

    def __init__(
        self,
        bootstrap: str,
        reader: LogReader,
        *,
        replication_factor: int = 1,
        options: Options | None = None,
        time_scale: float = 1.0,
    ) -> None:
        self._bootstrap = bootstrap
        self._reader = reader
        self._replication_factor = replication_factor
        self._options = dict(options or {})
        self._idle_check_s = IDLE_CHECK_S * time_scale
        self._backoff = Backoff(max_s=max(0.5, 5.0 * time_scale))
        self._acknowledged: int | None = None
        self._refill = False
        self.status = RelayStatus()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            thread = WorkerThread("relay")
            writer = TopicWriter(
                self._bootstrap, self._reader.log_id, self._replication_factor, self._options
            )
            close = writer.close
            try:
                await self._publish_all(thread, writer)
            except RECOVERABLE_ERRORS as error:
                self._note(error)
            except asyncio.CancelledError:
                close = functools.partial(writer.close, STOP_TIMEOUT_S)
                raise
            finally:
                thread.finish(close)
            await self._backoff.wait()

    def _note(self, error: Exception) -> None:
        if isinstance(error, _EmptiedTopicError):
            self._refill = True
            self.status.refills += 1
        self.status.state = "waiting"
        self.status.failures += 1
        self.status.last_error = f"{type(error).__name__}: {error}"
        tell = logger.warning if self._backoff.failures == 0 else logger.debug
        tell("relay interrupted", error=self.status.last_error, position=self.status.position)

    async def _publish_all(self, thread: WorkerThread, writer: TopicWriter) -> None:
        position = await self._resume(await thread.call(writer.open))
        idle_s = 0.0
        while True:
            self.status.state = "publishing"
            self.status.position = position
            events = await self._reader.read(position, PUBLISH_EVENTS_MAX)
            if events:
                await thread.call(writer.publish, events)
                position = self._acknowledged = events[-1].position
                self.status.published += len(events)
                self._backoff.reset()
                idle_s = 0.0
                continue
            wait_s = min(WAIT_S, self._idle_check_s)
            self.status.head = await self._reader.wait(position, wait_s)
            idle_s += wait_s
            if idle_s >= self._idle_check_s:
                await thread.call(writer.check)
                idle_s = 0.0

    async def _resume(self, last: int) -> int:
        """Return the position to publish after.

        That is the topic's last, but never beyond what this process knows to be acknowledged: of
        records sent together, a later one may have arrived where an earlier one did not.
        """
        self.status.head = await self._reader.head()
        if last > self.status.head:
            raise _TopicAheadError(
                f"the topic ends at position {last}, the log at {self.status.head}"
            )
        if self._refill or last == 0:
            logger.info("topic is filled from the log's first position", head=self.status.head)
            self._refill = False
            self._acknowledged = None
            return 0
        return last if self._acknowledged is None else min(last, self._acknowledged)
