"""The notifier: follows the log, queues what is to be told, and tells it.

Two halves that only the store joins. The intake turns events into queue entries and moves its place
in the same transaction. A courier for each address takes its entries in order and strikes each off
once the receiver has it. So nothing is lost, whenever it is killed, and one receiver that is down
holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from events.backoff import Backoff
from events.codec import CODEC, Codec, UnknownEventError
from events.log.port import UnavailableError
from events.log.reader import LogGapError
from events.stream.port import Batch, Cursor, OtherLogError, Stream
from events.wire.copies import DATA, HEAD, CopyServer
from notifier.channel import Channel, DeliveryError, RefusedError
from notifier.filters import parse_filter
from notifier.local_file import FileChannel
from notifier.notification import Notification, notification_of
from notifier.routing import Routes
from notifier.store import Address, Entry, Place, QueueLength, Store

BATCH_EVENTS_MAX = 500
QUEUE_ENTRIES_MAX = 100_000
PASSED_OVER_MAX = 1_000
"""Events that tell nobody anything are not worth a flush of the disk: so many are read again."""
SENDING_MAX = 8
DELIVERY_TIMEOUT_S = 60.0
SET_ASIDE_AFTER_S = 24 * 3600.0
HEAD_INTERVAL_S = 2.0
LOCAL_FILE_NAME = "notifications.log"
COPY_BYTES = 256 * 1024
COPY_NAMES = "copy-*.sqlite"
T = TypeVar("T")
logger = structlog.get_logger(__name__)


class NotifierStatus(msgspec.Struct, kw_only=True):
    """Where the notifier is, for health answers and metrics.

    `state` is starting, following, waiting (for the log, or for a queue to empty) or halted (an
    event that this release cannot read, or a damaged log). `queues` lists who is behind.
    """

    state: str = "starting"
    position: int = 0
    head: int = 0
    told: int = 0
    set_aside: int = 0
    failures: int = 0
    last_error: str = ""
    queues: list[QueueLength] = []


class Notifier:
    """Tells people and managers of a log's events.

    `filter_text` is in the grammar of `notifier.filters`; without any channel every notification
    goes to `folder/notifications.log`. On the very first start it begins at the log's head, or at
    its beginning if `start` is "beginning". Whole copies of its memory (a backup's) are handed out
    on `copy_socket`, if there is one. Raises FilterError for a filter that cannot be kept.
    """

    def __init__(
        self,
        stream: Stream,
        filter_text: str,
        channels: Sequence[Channel],
        folder: Path,
        *,
        start: str = "head",
        copy_socket: Path | None = None,
        codec: Codec = CODEC,
        time_scale: float = 1.0,
    ) -> None:
        if start not in {"head", "beginning"}:
            raise ValueError(f"start is head or beginning, not {start!r}")
        self._stream = stream
        self._folder = folder
        self._start = start
        self._copy_socket = copy_socket
        self._codec = codec
        used = channels or (FileChannel(folder / LOCAL_FILE_NAME),)
        self._routes = Routes(filter_text, parse_filter(filter_text), used)
        self._backoff_max_s = max(0.5, 60.0 * time_scale)
        self._set_aside_after_s = SET_ASIDE_AFTER_S * time_scale
        self._head_interval_s = HEAD_INTERVAL_S * time_scale
        self._sending = asyncio.Semaphore(SENDING_MAX)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="notifier")
        self._woken: dict[Address, asyncio.Event] = {}
        self._stored_position = 0
        self.status = NotifierStatus()

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a function of the store in its one thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)

    async def run(self) -> None:
        """Follow and tell until cancelled."""
        store = await self._call(Store, self._folder)
        for left_over in self._folder.glob(COPY_NAMES):
            left_over.unlink(missing_ok=True)
        try:
            async with asyncio.TaskGroup() as tasks:
                for address in await self._all_addresses(store):
                    self._woken[address] = asyncio.Event()
                    tasks.create_task(self._deliver_all(store, address))
                tasks.create_task(self._follow(store))
                tasks.create_task(self._watch(store))
                if self._copy_socket is not None:
                    copies = CopyServer(self._copy_socket, lambda: self._copy(store))
                    tasks.create_task(copies.run())
        finally:
            for channel in self._routes.channels.values():
                await channel.close()
            await asyncio.shield(self._call(store.close))
            self._executor.shutdown(wait=False)

    async def _all_addresses(self, store: Store) -> list[Address]:
        """Return who may be told something, and who is still to be told of what was queued."""
        queued = {each.address for each in await self._call(store.queues)}
        stranded = {each for each in queued if each.transport not in self._routes.channels}
        for address in stranded:
            logger.warning("queued for a transport that is not configured", address=str(address))
        return sorted({*self._routes.addresses, *queued} - stranded)

    async def _copy(self, store: Store) -> AsyncIterator[bytes]:
        """Yield the frames of a copy of the memory: a head, then the bytes of an SQLite file."""
        path = self._folder / f"copy-{secrets.token_hex(8)}.sqlite"
        try:
            await self._call(store.copy_to, path)
            yield HEAD + b"{}"
            with path.open("rb") as source:
                while content := source.read(COPY_BYTES):
                    yield DATA + content
        finally:
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------ intake

    async def _follow(self, store: Store) -> None:
        backoff = Backoff(max_s=min(5.0, self._backoff_max_s))
        while True:
            try:
                place = await self._first_place(store)
                self.status.position = self._stored_position = place.cursor.position
                self.status.state = "following"
                source = self._stream.batches(place.cursor, BATCH_EVENTS_MAX)
                async with contextlib.aclosing(source) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        place = await self._take(store, place, batch)
                        backoff.reset()
            except OtherLogError as error:
                await self._begin_other_log(store, error)
            except (UnknownEventError, LogGapError) as error:
                self.status.state, self.status.last_error = "halted", str(error)
                logger.error("the notifier takes no more events", reason=str(error))  # noqa: TRY400
                await asyncio.Event().wait()
            except (UnavailableError, OSError, sqlite3.Error) as error:
                self._note(error)
            await backoff.wait()

    def _note(self, error: Exception) -> None:
        self.status.state = "waiting"
        self.status.failures += 1
        self.status.last_error = f"{type(error).__name__}: {error}"
        logger.warning("the notifier waits", error=self.status.last_error)

    async def _first_place(self, store: Store) -> Place:
        """Return the stored place; on the first start choose one and store it."""
        place = await self._call(store.place)
        if place is None:
            head = await self._stream.head() if self._start == "head" else 0
            place = Place(cursor=Cursor(None, head))
            await self._call(store.set_place, place)
        return place

    async def _begin_other_log(self, store: Store, error: OtherLogError) -> None:
        """Take up a restored log: what is not later than the last event queued was told already.

        Times never fall along a log, and whatever the restored log got of its own is later than
        the restore. So reading it from its beginning, and passing over all up to that time, leaves
        nothing out and tells nothing twice.
        """
        before = await self._call(store.place)
        if before is None:
            return
        until = max(before.last_time, before.seen_until)
        place = Place(cursor=Cursor(error.found, 0), last_time=until, seen_until=until)
        await self._call(store.set_place, place)
        logger.warning(
            "the log is another one: it is read from its beginning",
            log_id=str(error.found),
            previous_log_id=str(error.expected),
            already_told_until=until.isoformat(),
        )

    async def _take(self, store: Store, place: Place, batch: Batch) -> Place:
        """Queue what a batch has to tell, with the place behind it."""
        news: list[tuple[Address, Notification]] = []
        unknown: UnknownEventError | None = None
        cursor, last_time = batch.cursor, place.last_time
        for number, stored in enumerate(batch.events):
            try:
                recorded = self._codec.decode(stored)
            except UnknownEventError as error:
                unknown = error
                if number == 0:
                    raise
                cursor = Cursor(cursor.log_id, stored.position - 1)
                break
            last_time = max(last_time, stored.time)
            if stored.time <= place.seen_until or cursor.log_id is None:
                continue
            notification = notification_of(recorded, cursor.log_id)
            if notification is not None:
                news.extend((to, notification) for to in self._routes.to(notification))
        if news:
            await self._wait_for_room(store, {to for to, _ in news})
        place = Place(cursor=cursor, last_time=last_time, seen_until=place.seen_until)
        if news or cursor.position - self._stored_position >= PASSED_OVER_MAX:
            try:
                await self._call(store.take, place, news)
            finally:  # an error does not tell that nothing was written
                for address in sorted({to for to, _ in news}):
                    self._woken[address].set()
            self._stored_position = cursor.position
        self.status.position = cursor.position
        if unknown is not None:
            raise unknown
        return place

    async def _wait_for_room(self, store: Store, addresses: set[Address]) -> None:
        """Leave the events in the log while a queue is at its bound: nothing is dropped for it."""
        while True:
            full = [
                each
                for each in await self._call(store.queues)
                if each.waiting >= QUEUE_ENTRIES_MAX and each.address in addresses
            ]
            if not full:
                self.status.state = "following"
                return
            self.status.state = "waiting"
            self.status.last_error = f"the queue of {full[0].address} is full"
            await asyncio.sleep(1.0)

    # ---------------------------------------------------------------------------- couriers

    async def _deliver_all(self, store: Store, address: Address) -> None:
        """Tell one address all that is queued for it, in order."""
        backoff = Backoff(first_s=0.5, max_s=self._backoff_max_s)
        channel = self._routes.channels[address.transport]
        woken = self._woken[address]
        while True:
            woken.clear()
            entries = await self._call(store.next, address, channel.at_once_max)
            if not entries:
                await woken.wait()
                continue
            try:
                async with self._sending, asyncio.timeout(DELIVERY_TIMEOUT_S):
                    await channel.deliver(
                        address.address, [entry.notification for entry in entries]
                    )
            except (DeliveryError, TimeoutError) as error:
                if not await self._give_up(store, address, entries[0], error):
                    await backoff.wait()
                continue
            backoff.reset()
            await self._persist(store.told, address, entries)
            self.status.told += len(entries)

    async def _persist(self, function: Callable[..., None], *arguments: object) -> None:
        """Write what happened, trying until it is written: telling it anew would be a double."""
        backoff = Backoff(max_s=5.0)
        while True:
            try:
                return await self._call(function, *arguments)
            except sqlite3.Error as error:
                self._note(error)
            await backoff.wait()

    async def _give_up(
        self, store: Store, address: Address, entry: Entry, error: Exception
    ) -> bool:
        """Note a failure; set the notification aside if it is refused, and long enough so."""
        reason = f"{type(error).__name__}: {error}"
        self.status.failures += 1
        age_s = time.time() - entry.queued_at
        if isinstance(error, RefusedError) and age_s >= self._set_aside_after_s:
            await self._persist(store.set_aside, entry, reason)
            self.status.set_aside += 1
            logger.error("refused for good, set aside", to=str(address), reason=reason)
            return True
        await self._persist(store.failed, entry, reason)
        if entry.attempts == 0:
            logger.warning("not told, tried again", to=str(address), reason=reason)
        return False

    async def _watch(self, store: Store) -> None:
        """Keep the status up to date."""
        while True:
            self.status.queues = await self._call(store.queues)
            self.status.set_aside = await self._call(store.set_aside_count)
            self.status.told = await self._call(store.told_count)
            with contextlib.suppress(UnavailableError, OSError):
                self.status.head = await self._stream.head()
            await asyncio.sleep(self._head_interval_s)
