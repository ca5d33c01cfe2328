"""The log behind the `eventsourcing` library's recorder interface: a thin layer beside the product.

The library's versions begin at 0, the log's at 1; its aggregates become the streams `uuid/<id>` and
`text/<id>`, its topics the events' names. Its mapper has turned events into bytes already, so the
log must be opened with `RECORDER_CODEC`, which stores them as they are. The library is synchronous:
calls come from any thread but the event loop's, and wait for the log on that loop.
Stricter than the library: the versions of an aggregate have no gaps.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    IntegrityError,
    Notification,
    OperationalError,
    StoredEvent,
    Subscription,
)

from events.codec import PAYLOAD_BYTES_MAX, Codec
from events.envelope import NewEvent, Stored
from events.log.port import (
    READ_EVENTS_MAX,
    Append,
    Appended,
    Log,
    OverloadedError,
    UnavailableError,
)
from events.types.base import Event

CALL_TIMEOUT_S = 30.0
WAIT_S = 0.25
"""How long a subscription waits before it looks whether it was stopped."""
PRINCIPAL = "eventsourcing"

Answer = TypeVar("Answer")


class Recording(Event, frozen=True, kw_only=True):
    """An event that the library's mapper has already encoded."""

    topic: str
    state: bytes


class RecorderCodec(Codec):
    """Stores recordings as they are, under their topics."""

    def encode(self, event: Event) -> tuple[str, int, bytes]:
        """Return the topic, schema number 1 and the state of a recording."""
        if not isinstance(event, Recording):
            raise TypeError(f"{type(event).__name__} is no recording")
        if len(event.state) > PAYLOAD_BYTES_MAX:
            raise ValueError(f"a state of {len(event.state)} B exceeds {PAYLOAD_BYTES_MAX} B")
        return event.topic, 1, event.state


RECORDER_CODEC = RecorderCodec({}, {})


class LogAggregateRecorder(AggregateRecorder):
    """Stores and selects the events of aggregates; `loop` runs the log."""

    def __init__(self, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._loop = loop

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        **kwargs: Any,  # noqa: ANN401 (the library's)
    ) -> Sequence[int] | None:
        """Append events, all or none; IntegrityError where a version is taken or leaves a gap."""
        self._insert(stored_events)
        return None

    def select_events(
        self,
        originator_id: uuid.UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Return the events of an aggregate, of versions above `gt` and up to `lte`."""
        after = 0 if gt is None else gt + 1
        stored = self._call(self._log.load(_stream(originator_id), after))
        found = [_event(one) for one in stored if lte is None or one.version <= lte + 1]
        if desc:
            found.reverse()
        return found if limit is None else found[:limit]

    def _insert(self, stored_events: Sequence[StoredEvent]) -> Appended | None:
        if not stored_events:
            return None
        reads: dict[str, int] = {}
        written: dict[str, int] = {}
        events: list[NewEvent] = []
        for one in stored_events:
            stream = _stream(one.originator_id)
            expected = written.get(stream, one.originator_version)
            if one.originator_version != expected:
                raise IntegrityError(f"version {one.originator_version} of {stream}: {expected} is")
            reads.setdefault(stream, one.originator_version)
            written[stream] = one.originator_version + 1
            events.append(NewEvent(stream, Recording(topic=one.topic, state=one.state)))
        outcome = self._call(
            self._log.append(
                Append(
                    command=uuid.uuid4(),
                    principal=PRINCIPAL,
                    actor=PRINCIPAL,
                    reads=reads,
                    events=tuple(events),
                    time=dt.datetime.now(dt.UTC),
                )
            )
        )
        if not isinstance(outcome, Appended):
            raise IntegrityError(str(outcome))
        return outcome

    def _call(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine on the log's loop, and wait for its end."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(CALL_TIMEOUT_S)
        except (UnavailableError, OverloadedError, TimeoutError) as error:
            future.cancel()
            raise OperationalError(str(error)) from error


class LogApplicationRecorder(LogAggregateRecorder, ApplicationRecorder):
    """Also selects and follows all events, in the order of their positions."""

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        **kwargs: Any,  # noqa: ANN401 (the library's)
    ) -> Sequence[int] | None:
        """Append events, all or none; return their positions."""
        appended = self._insert(stored_events)
        return None if appended is None else range_of(appended)

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Return at most `limit` events of these topics (all if none is named) from `start` on."""
        after = max(0, (start or 0) - (1 if inclusive_of_start else 0))
        found: list[Notification] = []
        for one in self._from(after):
            if len(found) == limit or (stop is not None and one.position > stop):
                break
            if not topics or one.name in topics:
                found.append(_notification(one))
        return found

    def max_notification_id(self) -> int | None:
        """Return the position of the last event, or None if there is none."""
        return self._call(self._log.head()) or None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Follow the events after position `gt`, waiting for new ones, until stopped."""
        return LogSubscription(self, gt, topics)

    def read(self, after: int) -> Sequence[Stored]:
        """Return the next page of events after a position."""
        return self._call(self._log.read(after, READ_EVENTS_MAX))

    def wait(self, after: int) -> None:
        """Wait a moment for events after a position."""
        self._call(self._log.wait(after, WAIT_S))

    def _from(self, after: int) -> Iterator[Stored]:
        while page := self.read(after):
            yield from page
            after = page[-1].position


class LogSubscription(Subscription[LogApplicationRecorder]):
    """An iterator over the events after a position that waits for new ones."""

    def __init__(
        self, recorder: LogApplicationRecorder, gt: int | None, topics: Sequence[str]
    ) -> None:
        super().__init__(recorder, gt, topics)
        self._after = gt or 0
        self._page: Iterator[Stored] = iter(())

    def __next__(self) -> Notification:
        """Return the next event; ends once `stop` was called."""
        while not self._has_been_stopped:
            for one in self._page:
                self._after = one.position
                if not self._topics or one.name in self._topics:
                    return _notification(one)
            page = self._recorder.read(self._after)
            if not page:
                self._recorder.wait(self._after)
            self._page = iter(page)
        raise StopIteration


def range_of(appended: Appended) -> list[int]:
    """Return the positions of an append's events."""
    return list(range(appended.first, appended.first + appended.count))


def _stream(originator_id: uuid.UUID | str) -> str:
    kind = "uuid" if isinstance(originator_id, uuid.UUID) else "text"
    return f"{kind}/{originator_id}"


def _originator(stream: str) -> uuid.UUID | str:
    kind, _, name = stream.partition("/")
    return uuid.UUID(name) if kind == "uuid" else name


def _event(stored: Stored) -> StoredEvent:
    return StoredEvent(
        originator_id=_originator(stored.stream),
        originator_version=stored.version - 1,
        topic=stored.name,
        state=stored.payload,
    )


def _notification(stored: Stored) -> Notification:
    return Notification(
        originator_id=_originator(stored.stream),
        originator_version=stored.version - 1,
        topic=stored.name,
        state=stored.payload,
        id=stored.position,
    )
