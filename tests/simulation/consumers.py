"""The notifier and the warehouse as consumers that die, stand still and find their disk full.

Each is the product's own process, over the product's own stream of a simulated topic; what it
does in a thread is done in the loop. The notifier has its real memory and its file, and a desk
whose answers may be lost. The warehouse keeps in memory what DuckDB keeps in tables.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from unittest import mock

import msgspec

from dwh.configuration import VERSIONED, Row, changes
from dwh.process import WarehouseProcess
from dwh.warehouse import Warehouse
from events.audit import AuditRecord, audit_record
from events.codec import CODEC
from events.envelope import Recorded, Stored
from events.log.memory import MemoryLog
from events.stream import kafka
from events.stream.port import START, Batch, Cursor
from events.wire.telemetry import TelemetrySource
from notifier.channel import DeliveryError
from notifier.local_file import FileChannel
from notifier.notification import Notification
from notifier.process import Notifier
from tests.simulation.loop import Freezer
from tests.simulation.process import Process
from tests.simulation.topic import InLoop, SimulatedStream, Topic, Trouble

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
FILTER = "include:*(desk:ops) include:*(file:notifications)"
FAILS = 0.15
REVIVE_S = 5.0
Told = tuple[uuid.UUID, int]
"""What tells a notification from others: the log, and the event's position in it."""


class Consumer(Process):
    """A process that consumes; `troubled`: what it does with its disk may fail."""

    def __init__(self, world: World) -> None:
        super().__init__(Freezer())
        self.world = world
        self.troubled = False

    def start(self, stream: SimulatedStream) -> None:
        """Start the process, on a stream; it is started again where its disk ends it."""
        self.begin(self._again_and_again(stream))

    async def run(self, stream: SimulatedStream) -> None:
        """Consume until killed."""
        raise NotImplementedError

    async def _again_and_again(self, stream: SimulatedStream) -> None:
        while True:
            try:
                await self.run(stream)
            except* OSError:
                self.world.met["consumers ended by their disk"] += 1
            await asyncio.sleep(1.0)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Do in the loop what is done in the thread that has the files."""
        await asyncio.sleep(0)
        fails = self.troubled and self.world.dice.random() < FAILS
        if fails and self.world.dice.random() < 0.5:
            raise OSError(28, "no space left")
        result = function(*arguments)
        await asyncio.sleep(0)  # whoever dies here does not know whether it was done
        if fails:
            raise OSError(5, "it was written, and that was not heard")
        return result


# ---------------------------------------------------------------------- the notifier


class _InLoopNotifier(Notifier):
    consumer: NotifierConsumer

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        # Of what goes on beside the intake a fault of the disk ends the process, and it is started
        # again; here that is what kills are for.
        if getattr(function, "__name__", "") in {"take", "place", "set_place"}:
            return await self.consumer.call(function, *arguments)
        await asyncio.sleep(0)
        result = function(*arguments)
        await asyncio.sleep(0)
        return result


class Desk:
    """A receiver that may not answer, before it has taken something in or after."""

    transport = "desk"
    at_once_max = 3

    def __init__(self, world: World) -> None:
        self._world = world
        self.told: list[Told] = []

    def addresses(self, name: str) -> tuple[str, ...]:
        """See `Channel.addresses`."""
        return (name,)

    async def deliver(self, address: str, notifications: Sequence[Notification]) -> None:
        """See `Channel.deliver`."""
        del address
        dice = self._world.dice
        await asyncio.sleep(dice.uniform(0.0, 0.2))
        if dice.random() < FAILS / 2:
            raise DeliveryError("nobody is at the desk")
        self.told += [(each.log_id, each.position) for each in notifications]
        await asyncio.sleep(0)
        if dice.random() < FAILS / 2:
            raise DeliveryError("the answer was lost")

    async def close(self) -> None:
        """See `Channel.close`."""


class NotifierConsumer(Consumer):
    """The notifier."""

    def __init__(self, world: World, folder: Path) -> None:
        super().__init__(world)
        self.desk = Desk(world)
        self._folder = folder
        self._file = folder / "notifications"

    async def run(self, stream: SimulatedStream) -> None:
        """See `Consumer.run`."""
        channels = (self.desk, FileChannel(self._file))
        notifier = _InLoopNotifier(stream, FILTER, channels, self._folder, start="beginning")
        notifier.consumer = self
        await notifier.run()

    def written(self) -> list[Told]:
        """Return what the file's lines are about."""
        if not self._file.exists():
            return []
        lines = self._file.read_bytes().splitlines()
        found = [msgspec.json.decode(line, type=Notification) for line in lines]
        return [(each.log_id, each.position) for each in found]

    def check(self, cuts: list[Told], log: MemoryLog) -> None:
        """Check that each event that has something to tell was told once, in order."""
        world, recorded = self.world, [CODEC.decode(stored) for stored in log._events]
        expected = [one.position for one in recorded if audit_record(one) is not None]
        heard = list(dict.fromkeys(self.desk.told))
        for where, told in (("at the desk", heard), ("in the file", self.written())):
            lasting = [one for one in told if _lasts(one, cuts, log.log_id)]
            if [position for _log, position in lasting] != expected:
                found = [position for _log, position in lasting]
                twice = sorted({one for one in found if found.count(one) > 1})
                missing = sorted(set(expected) - set(found))
                order = "" if found == sorted(found) else "; not in order"
                world.break_promise(f"{where} {twice} were told twice, and {missing} never{order}")


def _lasts(told: Told, cuts: list[Told], log: uuid.UUID) -> bool:
    """Tell whether an event that was told is in the log that there is now, after all restores."""
    first = next((at for at, cut in enumerate(cuts) if cut[0] == told[0]), len(cuts))
    known = told[0] == log or first < len(cuts)
    return known and all(told[1] <= position for _log, position in cuts[first:])


# ---------------------------------------------------------------------- the warehouse


class MemoryWarehouse(Warehouse):
    """The tables that follow from the log; each batch takes effect whole, with its cursor."""

    def __init__(self) -> None:
        self._codec = CODEC
        self.events_taken = 0
        self._begin(START)

    def _begin(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.events: list[Stored] = []
        self.audit: list[AuditRecord] = []
        self.configurations: dict[str, list[Row]] = {kind.kind: [] for kind in VERSIONED}

    def read_cursor(self) -> Cursor:
        """See `Warehouse.read_cursor`."""
        return self.cursor

    def reseed(self, log_id: uuid.UUID) -> None:
        """See `Warehouse.reseed`."""
        self._begin(Cursor(log_id, 0))

    def _store_events(
        self, events: Sequence[Stored], decoded: Sequence[Recorded], cursor: Cursor
    ) -> None:
        if self.cursor.position + 1 != events[0].position:
            raise ValueError(f"{events[0].position} does not follow {self.cursor.position}")
        self.events += events
        self.audit += [record for one in decoded if (record := audit_record(one)) is not None]
        for kind in VERSIONED:
            rows = self.configurations[kind.kind]
            open_rows = {row[kind.kind]: row for row in rows if row["valid_to"] is None}
            plain = {key: _configuration(row, kind.kind) for key, row in open_rows.items()}
            result = changes(kind, decoded, plain)
            for object_id, end in result.closed.items():
                open_rows[object_id]["valid_to"] = end
            rows += result.rows
        self.cursor = cursor


def _configuration(row: Row, key: str) -> Row:
    """Return a row as it is read back: without its key and validity, and without what is null."""
    left_out = {key, "position", "valid_from", "valid_to"}
    return {
        name: value for name, value in row.items() if name not in left_out and value is not None
    }


class _InLoopWarehouse(WarehouseProcess):
    consumer: WarehouseConsumer

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await self.consumer.call(function, *arguments)


class WarehouseConsumer(Consumer):
    """The warehouse's process, as far as it follows the log."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.warehouse = MemoryWarehouse()

    async def run(self, stream: SimulatedStream) -> None:
        """See `Consumer.run`."""
        nothing = cast("TelemetrySource", None)
        process = _InLoopWarehouse(stream, Path(), telemetry=nothing, query_socket=Path())
        process.consumer = self
        await process._follow_events(self.warehouse)

    def check(self, log: MemoryLog) -> None:
        """Check that it has each event once, and what follows from them as if taken in one go."""
        fresh, events = MemoryWarehouse(), tuple(log._events)
        fresh.take_events(Batch(events=events, cursor=Cursor(log.log_id, len(events))))
        mine = self.warehouse
        if mine.events != fresh.events:
            here, there = len(mine.events), len(fresh.events)
            self.world.break_promise(f"the warehouse has {here} events, the log {there}")
        if mine.audit != fresh.audit:
            self.world.break_promise("the warehouse's audit log is not the log's")
        for kind, rows in fresh.configurations.items():
            if mine.configurations[kind] != rows:
                self.world.break_promise(f"the warehouse's configurations of a {kind} differ")


# ---------------------------------------------------------------------- both


class Consumers:
    """Both of them, the topic that they read, and what happens to these."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        InLoop.world = world
        self._patch = mock.patch.object(kafka, "WorkerThread", InLoop)
        self._patch.start()
        self.topic = Topic(world, world.log)
        self._relay = Process()
        self.notifier = NotifierConsumer(world, folder / "notifier")
        self.warehouse = WarehouseConsumer(world)
        self._cuts: list[Told] = []
        self._one_at_a_time = asyncio.Lock()

    @property
    def all(self) -> tuple[Consumer, ...]:
        """The consumers."""
        return self.notifier, self.warehouse

    def start(self) -> None:
        """Start the relay and both."""
        self._relay.begin(self.topic.relay())
        for consumer in self.all:
            self._start(consumer)

    def _start(self, consumer: Consumer) -> None:
        consumer.start(SimulatedStream(self.topic, self._world.connection))

    async def suffer(self, lasts_s: float) -> None:
        """Let something happen to one of them, or to the topic."""
        dice = self._world.dice
        consumer = dice.choice(self.all)
        assert consumer.freezer is not None
        for _ in range(dice.randrange(20)):
            await asyncio.sleep(0)
        match dice.randrange(5):
            case 0 | 1:
                async with self._one_at_a_time:
                    await consumer.end()
                    self._start(consumer)
            case 2:
                consumer.freezer.freeze()
                await asyncio.sleep(lasts_s)
                consumer.freezer.thaw()
            case 3:
                consumer.troubled = True
                await asyncio.sleep(lasts_s)
                consumer.troubled = False
            case _:
                trouble = dice.choice(list(Trouble))
                self._world.note(trouble)
                self._world.met[trouble] += 1
                self.topic.meet(trouble)
                await asyncio.sleep(lasts_s)
                self.topic.mend()

    async def follow_another_log(self, position: int, former: uuid.UUID) -> None:
        """Start anew on the log that is there now, which has the former one's first events."""
        self._cuts.append((former, position))
        async with self._one_at_a_time:
            await self._relay.end()
            for consumer in self.all:
                await consumer.end()
            self.topic = Topic(self._world, self._world.log)
            self.start()

    def mend(self) -> None:
        """Mend everything."""
        self.topic.mend()
        for consumer in self.all:
            consumer.troubled = False
            assert consumer.freezer is not None
            consumer.freezer.thaw()
        self._world.begin(self._revive())

    async def _revive(self) -> None:
        """Start who was killed, and not started again when the chaos ended."""
        await asyncio.sleep(REVIVE_S)
        for consumer in self.all:
            if not consumer.tasks:
                self._start(consumer)

    def check(self) -> None:
        """Check that each event took effect once with each."""
        log = self._world.log
        self.notifier.check(self._cuts, log)
        self.warehouse.check(log)

    async def close(self) -> None:
        """End everything."""
        await self._relay.end()
        for consumer in self.all:
            await consumer.end()
        self._patch.stop()
