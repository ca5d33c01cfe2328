"""A log's topic as a relay and a broker make it: late, doubled, with holes, emptied, made anew.

Read by the product's own stream over Kafka: only its client, and its thread, are replaced.
"""

from __future__ import annotations

import asyncio
import enum
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from kafka.errors import KafkaConnectionError

from events.log.memory import MemoryLog
from events.log.port import LogReader
from events.stream.kafka import KafkaStream
from events.stream.kafka_topic import POLL_TIMEOUT_S, Bounds, TopicReader, TopicRecord

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
RELAY_S = 0.3
WAIT_S = 5.0
CALL_S_MAX = 0.05
AGAIN_MAX = 40
LEFT_OUT_MAX = 20


class Trouble(enum.StrEnum):
    """What may happen to a topic."""

    LATE = "the relay stands still"
    AWAY = "the broker is away"
    DOUBLES = "the relay repeats what it had published"
    HOLE = "records are lost"
    FOREIGN = "a record is not of this log"
    SHORTER = "old records are removed"
    ANEW = "the topic is made anew"


class Topic:
    """One partition, and the relay that fills it."""

    def __init__(self, world: World, log: MemoryLog) -> None:
        self._world = world
        self._log = log
        self._published = 0
        self._begin = 0
        self._records: list[TopicRecord] = []
        self.away = False
        self.late = False

    async def relay(self) -> None:
        """Publish the log's events, in order, for ever."""
        while True:
            await asyncio.sleep(RELAY_S)
            if self.late or self.away:
                continue
            await self._log.wait(self._published, WAIT_S)
            for stored in await self._log.read(self._published):
                self._records.append(TopicRecord(self.bounds().end, stored))
                self._published = stored.position

    def bounds(self) -> Bounds:
        """See `TopicReader.bounds`."""
        return Bounds(self._begin, self._begin + len(self._records))

    def read(self, offset: int, limit: int) -> list[TopicRecord]:
        """Return the records from an offset on."""
        if not self._begin <= offset <= self.bounds().end:
            raise KafkaConnectionError(f"offset {offset} is out of range")
        return self._records[offset - self._begin :][:limit]

    def require_broker(self) -> None:
        """Raise what the client raises while the broker is away."""
        if self.away:
            raise KafkaConnectionError("no broker")

    def meet(self, trouble: Trouble) -> None:
        """Let something happen; what lasts ends with `mend`."""
        dice = self._world.dice
        match trouble:
            case Trouble.LATE:
                self.late = True
            case Trouble.AWAY:
                self.away = True
            case Trouble.DOUBLES:
                self._published = max(0, self._published - dice.randrange(1, AGAIN_MAX))
            case Trouble.HOLE:
                left_out = dice.randrange(1, LEFT_OUT_MAX)
                self._published = min(len(self._log._events), self._published + left_out)
            case Trouble.FOREIGN:
                self._records.append(TopicRecord(self.bounds().end, None))
            case Trouble.SHORTER:
                gone = dice.randrange(len(self._records) + 1)
                del self._records[:gone]
                self._begin += gone
            case Trouble.ANEW:
                self._records.clear()
                self._begin = 0
                self._published = dice.choice([0, self._published])

    def mend(self) -> None:
        """Let relay and broker work again."""
        self.late = self.away = False


class SimulatedReader(TopicReader):
    """A client's end of it; searching is the product's own."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._place = 0

    def open(self) -> None:
        """See `TopicReader.open`."""
        self._topic.require_broker()

    def close(self) -> None:
        """See `TopicReader.close`."""

    def bounds(self) -> Bounds:
        """See `TopicReader.bounds`."""
        self._topic.require_broker()
        return self._topic.bounds()

    def place(self) -> int:
        """See `TopicReader.place`."""
        return self._place

    def seek(self, offset: int) -> None:
        """See `TopicReader.seek`."""
        self._place = offset

    def poll(self, limit: int, timeout_s: float = POLL_TIMEOUT_S) -> list[TopicRecord]:
        """See `TopicReader.poll`; who waits is `InLoop`."""
        del timeout_s
        self._topic.require_broker()
        records = self._topic.read(self._place, limit)
        self._place += len(records)
        return records


class SimulatedStream(KafkaStream):
    """The product's stream, with a client of a simulated topic."""

    def __init__(self, topic: Topic, reader: LogReader) -> None:
        super().__init__("", reader)
        self._topic = topic

    def connect(self, log_id: uuid.UUID) -> TopicReader:
        """See `KafkaStream.connect`."""
        del log_id
        return SimulatedReader(self._topic)


class InLoop:
    """In place of `WorkerThread`: does in the loop what is done in a thread.

    What comes late comes late here; and a poll that finds nothing has waited.
    """

    world: World | None = None

    def __init__(self, name: str) -> None:
        del name

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """See `WorkerThread.call`."""
        assert self.world is not None
        await asyncio.sleep(self.world.dice.uniform(0.0, CALL_S_MAX))
        result = function(*arguments)
        if result == [] and isinstance(arguments[-1], float):
            await asyncio.sleep(arguments[-1])
        return result

    def finish(self, function: Callable[[], object]) -> None:
        """See `WorkerThread.finish`."""
        function()
