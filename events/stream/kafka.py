"""The Kafka stream: a consumer reads the log's topic, and the log itself where the topic has holes.

Kafka keeps no place for a consumer: the cursor does, in the consumer's own transaction. The offset
in it is a hint. Whatever the topic holds, the consumer gets positions mine+1, mine+2, ...: records
up to its own position are dropped (the relay may repeat itself), and a record beyond mine+1 proves
a hole, which is read from the log. While the broker is away the consumer waits: nothing is lost,
since the relay publishes from the log later.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import msgspec
import structlog

from events.backoff import Backoff
from events.envelope import Stored
from events.log.port import LogReader, UnavailableError
from events.stream.kafka_topic import (
    CLIENT_ERRORS,
    Options,
    TopicReader,
    TopicRecord,
    WorkerThread,
)
from events.stream.port import Batch, Cursor, OtherLogError

IDLE_CHECK_S = 5.0
logger = structlog.get_logger(__name__)


class KafkaStreamStatus(msgspec.Struct, kw_only=True):
    """What a Kafka stream has met so far, for health answers and metrics."""

    connected: bool = False
    doubles_dropped: int = 0
    foreign_dropped: int = 0
    hole_events: int = 0
    failures: int = 0
    last_error: str = ""


class _LostPlaceError(Exception):
    """The topic is not the one that the reader's offset belongs to: find the place anew."""


class KafkaStream:
    """Batches of a log's events from Kafka (port: `events.stream.port.Stream`).

    `reader` is the log itself, for holes. `options` go to kafka-python as they are. Each call of
    `batches` has a connection and a thread of its own.
    """

    def __init__(
        self,
        bootstrap: str,
        reader: LogReader,
        *,
        options: Options | None = None,
        time_scale: float = 1.0,
    ) -> None:
        self._bootstrap = bootstrap
        self._reader = reader
        self._options = dict(options or {})
        self._idle_check_s = IDLE_CHECK_S * time_scale
        self._backoff_max_s = max(0.5, 5.0 * time_scale)
        self.status = KafkaStreamStatus()

    async def head(self) -> int:
        """Return the position of the log's last event (asked of the log: the topic may lag)."""
        return await self._reader.head()

    async def batches(self, after: Cursor, limit: int = 2_000) -> AsyncIterator[Batch]:
        """Yield batches after a cursor for ever; raises OtherLogError for another log's cursor."""
        log_id = self._reader.log_id
        if after.log_id is not None and after.log_id != log_id:
            raise OtherLogError(after.log_id, log_id)
        cursor = Cursor(log_id, after.position, after.hint if after.log_id else None)
        backoff = Backoff(max_s=self._backoff_max_s)
        while True:
            session = _Session(self, log_id)
            try:
                await session.open(cursor)
                self.status.connected = True
                following = session.follow(cursor, limit)
                async with aclosing(following) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        backoff.reset()
                        cursor = batch.cursor
                        yield batch
            except (*CLIENT_ERRORS, _LostPlaceError, UnavailableError) as error:
                self._note(error, cursor, first=backoff.failures == 0)
                if isinstance(error, _LostPlaceError):
                    cursor = Cursor(log_id, cursor.position)
            finally:
                self.status.connected = False
                session.close()
            await backoff.wait()

    def _note(self, error: Exception, cursor: Cursor, *, first: bool) -> None:
        self.status.failures += 1
        self.status.last_error = f"{type(error).__name__}: {error}"
        tell = logger.warning if first else logger.debug
        tell("kafka stream interrupted", error=self.status.last_error, position=cursor.position)

    async def hole(self, after: int, until: int, limit: int) -> Sequence[Stored]:
        """Read events that the topic lacks: after + 1 .. until, at most `limit` at a time."""
        events = await self._reader.read(after, min(limit, until - after))
        if not events or events[0].position != after + 1:
            raise UnavailableError(f"the log did not answer the event at {after + 1}")
        self.status.hole_events += len(events)
        return events

    def connect(self, log_id: uuid.UUID) -> TopicReader:
        """Make a reader of the topic (blocking: it reaches for the broker)."""
        return TopicReader(self._bootstrap, log_id, self._options)

    @property
    def idle_check_s(self) -> float:
        """How long nothing may come before the place in the topic is looked at again."""
        return self._idle_check_s


class _Session:
    """One connection's worth of following the topic."""

    def __init__(self, stream: KafkaStream, log_id: uuid.UUID) -> None:
        self._stream = stream
        self._log_id = log_id
        self._thread = WorkerThread("kafka-stream")
        self._topic: TopicReader | None = None

    async def open(self, cursor: Cursor) -> None:
        await self._thread.call(self._open, cursor)

    def _open(self, cursor: Cursor) -> None:
        self._topic = self._stream.connect(self._log_id)
        self._topic.open()
        bounds = self._topic.bounds()
        hint = cursor.hint
        fits = hint is not None and bounds.begin <= hint <= bounds.end
        if hint is None or not fits or self._beyond(hint, bounds.begin, cursor.position):
            hint = self._topic.find(cursor.position)
        self._topic.seek(hint)

    def _beyond(self, offset: int, begin: int, position: int) -> bool:
        """Whether the record below this offset is beyond the position, so reading here skips."""
        if self._topic is None or offset <= begin:
            return False
        below = self._topic.position_before(offset, begin)
        return below is not None and below > position

    def close(self) -> None:
        """Close the connection behind whatever the thread still does; does not wait."""
        self._thread.finish(self._close)

    def _close(self) -> None:
        if self._topic is not None:
            self._topic.close()

    async def follow(self, cursor: Cursor, limit: int) -> AsyncIterator[Batch]:
        """Yield batches until an error ends the session."""
        idle_s = 0.0
        while True:
            records, waited_s = await self._poll(limit)
            if not records:
                idle_s += waited_s
                if idle_s >= self._stream.idle_check_s:
                    await self._thread.call(self._check_place, cursor.position)
                    await self._check_head(cursor.position)
                    idle_s = 0.0
                continue
            idle_s = 0.0
            merged = self._merge(records, cursor, limit)
            async with aclosing(merged) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    cursor = batch.cursor
                    yield batch

    async def _poll(self, limit: int) -> tuple[list[TopicRecord], float]:
        topic = self._topic
        if topic is None:
            raise _LostPlaceError("the session is not open")
        timeout_s = min(0.5, self._stream.idle_check_s)
        return await self._thread.call(topic.poll, limit, timeout_s), timeout_s

    def _check_place(self, position: int) -> None:
        """Notice that the topic was emptied or made anew while nothing seemed to come.

        A shorter topic shows by its end; a longer one by a record below our place that we never
        had. Without this a consumer could sit behind an event until the next one shows the hole.
        """
        topic = self._topic
        if topic is None:
            return
        place, bounds = topic.place(), topic.bounds()
        if not bounds.begin <= place <= bounds.end:
            raise _LostPlaceError(f"offset {place} is outside {bounds.begin}..{bounds.end}")
        if self._beyond(place, bounds.begin, position):
            raise _LostPlaceError(f"the topic holds events beyond {position} below offset {place}")
        topic.seek(place)

    async def _check_head(self, position: int) -> None:
        """Notice that the log has gone on although the topic shows nothing new.

        Then the place is sought anew: the event may lie below it, before a relay's doubles. What
        the topic does not have at all is waited for: the relay is behind.
        """
        head = await self._stream.head()
        if head > position:
            raise _LostPlaceError(f"the log is at {head}, and nothing comes after {position}")

    async def _merge(
        self, records: list[TopicRecord], cursor: Cursor, limit: int
    ) -> AsyncIterator[Batch]:
        """Turn records into batches without doubles and without holes."""
        ready: list[Stored] = []
        position, hint = cursor.position, cursor.hint
        for record in records:
            stored = record.stored
            if stored is None:
                self._stream.status.foreign_dropped += 1
            elif stored.position <= position:
                self._stream.status.doubles_dropped += 1
            else:
                if stored.position > position + 1:
                    if ready:
                        yield Batch(events=ready, cursor=Cursor(self._log_id, position, hint))
                        ready = []
                    filled = self._fill(position, stored.position - 1, hint, limit)
                    async with aclosing(filled) as batches:  # type: ignore[type-var]
                        async for batch in batches:
                            yield batch
                ready.append(stored)
                position = stored.position
            hint = record.offset + 1
        if ready:
            yield Batch(events=ready, cursor=Cursor(self._log_id, position, hint))

    async def _fill(
        self, position: int, until: int, hint: int | None, limit: int
    ) -> AsyncIterator[Batch]:
        """Yield the events of a hole, from the log; the hint stays before the record behind it."""
        while position < until:
            events = await self._stream.hole(position, until, limit)
            position = events[-1].position
            yield Batch(events=events, cursor=Cursor(self._log_id, position, hint))
