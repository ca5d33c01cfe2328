"""The projector: follows the stream and keeps the inventory in PostgreSQL up to date.

It writes each batch with its position in one transaction, so that every event counts exactly once,
whatever is killed when. One projector works at a time; others stand by. Where the views changed, it
is far behind, or on demand, it builds the inventory anew beside the one that is served, and swaps
the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import enum
import uuid
from collections.abc import AsyncIterator

import msgspec
import psycopg
import structlog

from events.codec import CODEC, Codec, UnknownEventError
from events.stream.port import OtherLogError, Stream
from projections.connection import Connection, connect
from projections.folder import Folder, collector_relaxed
from projections.store import FORMER, NEXT, SERVED, Store
from projections.views.tables import schema_hash

LOCK_KEY = 7_311
"""The advisory lock of the one active projector of a database."""

BUILD_BATCH_EVENTS = 20_000
FOLLOW_BATCH_EVENTS = 2_000
FAR_BEHIND_EVENTS = 500_000
BUILDS_FASTER = 5
"""How many times as many events a second are folded by a build, which writes each object once."""
STANDBY_INTERVAL_S = 1.0
WATCH_INTERVAL_S = 1.0
RETRY_S_MIN = 0.1
RETRY_S_MAX = 5.0
HEAD_TIMEOUT_S = 2.0
DROP_ATTEMPTS_MAX = 20

logger = structlog.get_logger(__name__)


class ProjectorStatus(enum.StrEnum):
    """What a projector is doing."""

    STARTING = "starting"
    STANDBY = "standby"  # another projector is at work
    BUILDING = "building"  # the inventory is being built; nothing newer is served meanwhile
    FOLLOWING = "following"
    RETRYING = "retrying"  # something is away; it tries again
    HALTED = "halted"  # it cannot go on: see error; it looks again now and then
    STOPPED = "stopped"


class ProjectorHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a projector is: `position` of `head`, and what it builds anew beside, up to where."""

    status: ProjectorStatus
    since: dt.datetime
    position: int
    head: int | None
    log_id: uuid.UUID | None
    rebuild_position: int | None = None
    error: str = ""

    @property
    def healthy(self) -> bool:
        """Whether all is as it should be."""
        return self.status in {
            ProjectorStatus.FOLLOWING,
            ProjectorStatus.STANDBY,
            ProjectorStatus.BUILDING,
        }


class Projector:
    """Keeps the schema `inventory` of the database at `dsn` equal to the fold of `stream`.

    `time_scale` multiplies every interval. Run it once with `run()`, which ends by cancellation.
    """

    def __init__(
        self,
        stream: Stream,
        dsn: str,
        *,
        codec: Codec = CODEC,
        time_scale: float = 1.0,
        follow_batch_events: int = FOLLOW_BATCH_EVENTS,
        build_batch_events: int = BUILD_BATCH_EVENTS,
        far_behind_events: int = FAR_BEHIND_EVENTS,
    ) -> None:
        self._stream = stream
        self._dsn = dsn
        self._codec = codec
        self._time_scale = time_scale
        self._follow_batch_events = follow_batch_events
        self._build_batch_events = build_batch_events
        self._far_behind_events = far_behind_events
        self._hash = schema_hash()
        self._folder: Folder | None = None
        self._builder: Folder | None = None
        self._turn = asyncio.Lock()
        self._rebuilds: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue(maxsize=16)
        self._status = ProjectorStatus.STARTING
        self._since = dt.datetime.now(dt.UTC)
        self._error = ""
        self._retry_s = RETRY_S_MIN

    async def run(self) -> None:
        """Work, or stand by, until cancelled; whatever fails is tried again, and shown.

        Raises OtherLogError where the stream itself finds the log exchanged under it (a restore):
        only a stream that is opened anew can go on.
        """
        try:
            while True:
                try:
                    await self._session()
                except OtherLogError:
                    raise
                except UnknownEventError as error:
                    notes = " ".join(getattr(error, "__notes__", ()))
                    await self._pause(ProjectorStatus.HALTED, f"{error} {notes}".strip())
                except (psycopg.Error, OSError, TimeoutError) as error:
                    await self._pause(ProjectorStatus.RETRYING, f"{type(error).__name__}: {error}")
                except Exception as error:
                    logger.exception("the projector failed")
                    await self._pause(ProjectorStatus.HALTED, f"{type(error).__name__}: {error}")
        finally:
            self._enter(ProjectorStatus.STOPPED)
            self._refuse_rebuilds()

    async def rebuild(self) -> None:
        """Build the inventory anew beside the one that is served, swap them, and return then.

        Raises RuntimeError where the projector stops or fails before that.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rebuilds.put_nowait(done)
        await done

    async def health(self) -> ProjectorHealth:
        """Return how the projector is; the log's head is asked for, within 2 s."""
        head: int | None = None
        with contextlib.suppress(Exception):
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                head = await self._stream.head()
        cursor = self._folder.written if self._folder else None
        return ProjectorHealth(
            status=self._status,
            since=self._since,
            position=cursor.position if cursor else 0,
            head=head,
            log_id=cursor.log_id if cursor else None,
            rebuild_position=self._builder.written.position if self._builder else None,
            error=self._error,
        )

    # ------------------------------------------------------------------------------- sessions

    async def _session(self) -> None:
        """Work over one connection, which also holds the lock: who lost it cannot write."""
        async with await connect(self._dsn, "chronovisor projector") as connection:
            await self._take_lock(connection)
            store = Store(connection)
            await self._clear_leftovers(store)
            if await self._is_to_be_built(store):
                self._enter(ProjectorStatus.BUILDING)
                await self._build(store)
            folder = await self._load(store)
            self._enter(ProjectorStatus.FOLLOWING)
            self._retry_s = RETRY_S_MIN
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow(folder))
                    tasks.create_task(self._serve_rebuilds(store))
                    tasks.create_task(self._watch(store))
            except ExceptionGroup as errors:
                first = errors.exceptions[0]
                if not isinstance(first, OtherLogError):
                    raise first from errors
                # What is there tells of a log that is no more: no answer is better than that one.
                logger.warning("the log is another one: starting over", error=str(first))
                await store.drop()
            finally:
                await self._close_folders()

    async def _is_to_be_built(self, store: Store) -> bool:
        """Tell whether there is no inventory of these views, or building one is quicker.

        That is so where it is far behind: after a long stop, or a log that was filled by other
        means.
        """
        if not await store.exists():
            return True
        cursor, views = await store.place()
        if views != self._hash:
            return True
        head = await self._stream.head()
        behind = head - cursor.position
        return behind > self._far_behind_events and behind * BUILDS_FASTER > head

    async def _take_lock(self, connection: Connection) -> None:
        while True:
            found = await connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,))
            row = await found.fetchone()
            if row is not None and row[0]:
                return
            self._enter(ProjectorStatus.STANDBY)
            await asyncio.sleep(STANDBY_INTERVAL_S * self._time_scale)

    async def _load(self, store: Store) -> Folder:
        folder = self._folder = Folder(store, self._codec)
        await folder.load()
        return folder

    async def _close_folders(self) -> None:
        for folder in (self._folder, self._builder):
            if folder is not None:
                await folder.close()
        self._builder = None

    async def _follow(self, folder: Folder) -> None:
        while True:
            batches = self._stream.batches(folder.cursor, self._follow_batch_events)
            async with _closing(batches):
                async for batch in batches:
                    async with self._turn:
                        if self._folder is not None and self._folder is not folder:
                            folder = self._folder
                            break  # swapped meanwhile: go on from where the new one is
                        await folder.take(batch)

    async def _watch(self, store: Store) -> None:
        """See that the database still has what was written, also while nothing happens.

        Commits are not waited for, so a crash of the server takes the last ones back: the broken
        connection tells, and the next session folds them again.
        """
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S * self._time_scale)
            async with self._turn:
                await store.place()

    # ------------------------------------------------------------------------------- building

    async def _serve_rebuilds(self, store: Store) -> None:
        while True:
            done = await self._rebuilds.get()
            try:
                await self._build(store)
            except BaseException as error:
                if not done.done():
                    done.set_exception(RuntimeError(f"the rebuild failed: {error}"))
                raise
            if not done.done():
                done.set_result(None)

    async def _build(self, store: Store) -> None:
        """Build the inventory beside the one of `store`, catch up with it, and swap them."""
        async with (
            await connect(self._dsn, "chronovisor projector rebuild") as connection,
            await connect(self._dsn, "chronovisor projector audit log") as audits,
        ):
            beside = Store(connection, NEXT, audits=audits)
            builder = self._builder = Folder(beside, self._codec, building=True)
            try:
                async with beside.building(self._hash), _ending(builder):
                    with collector_relaxed():
                        await self._catch_up(builder)
                await self._catch_up(builder)
                async with self._turn:
                    # The served one stands still now, so this ends, and readers never see a
                    # position fall.
                    await self._catch_up(builder)
                    await self._swap(store)
                    if self._folder is not None:
                        await self._load(store)
            finally:
                await builder.close()
                self._builder = None
        logger.info("the inventory is built anew", position=builder.cursor.position)
        await self._drop_former(store)

    async def _catch_up(self, folder: Folder) -> None:
        """Fold up to where the log ends now."""
        head = await self._stream.head()
        if folder.cursor.position >= head:
            return
        batches = self._stream.batches(folder.cursor, self._build_batch_events)
        async with _closing(batches):
            # The next batch is read while one is folded: the database works meanwhile.
            coming = asyncio.ensure_future(anext(batches))
            try:
                while folder.cursor.position < head:
                    batch = await coming
                    coming = asyncio.ensure_future(anext(batches))
                    await folder.take(batch)
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        await folder.flush()

    async def _swap(self, store: Store) -> None:
        """Put the new inventory in the served one's place, on the connection that has the lock."""
        async with store.transaction():
            if await store.exists():
                await Store(store.connection, SERVED).rename(FORMER)
            await Store(store.connection, NEXT).rename(SERVED)

    async def _clear_leftovers(self, store: Store) -> None:
        for schema in (NEXT, FORMER):
            await Store(store.connection, schema).drop()

    async def _drop_former(self, store: Store) -> None:
        """Remove the former inventory once no reader is in it; else the next start does."""
        async with self._turn:
            for _ in range(DROP_ATTEMPTS_MAX):
                with contextlib.suppress(psycopg.errors.LockNotAvailable):
                    await Store(store.connection, FORMER).drop()
                    return

    # --------------------------------------------------------------------------------- health

    def _enter(self, status: ProjectorStatus, error: str = "") -> None:
        if status is not self._status or error != self._error:
            self._status, self._error = status, error
            self._since = dt.datetime.now(dt.UTC)

    async def _pause(self, status: ProjectorStatus, error: str) -> None:
        logger.warning("the projector stands still", status=status.value, error=error)
        self._enter(status, error)
        await asyncio.sleep(self._retry_s * self._time_scale)
        self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)

    def _refuse_rebuilds(self) -> None:
        while not self._rebuilds.empty():
            waiting = self._rebuilds.get_nowait()
            if not waiting.done():
                waiting.set_exception(RuntimeError("the projector stopped"))


@contextlib.asynccontextmanager
async def _ending(folder: Folder) -> AsyncIterator[None]:
    """End a write that is under way before the transaction that it belongs to."""
    try:
        yield
    finally:
        await folder.close()


@contextlib.asynccontextmanager
async def _closing(batches: AsyncIterator[object]) -> AsyncIterator[None]:
    """Close a generator of batches when its reader is done with it, with whatever it holds."""
    try:
        yield
    finally:
        close = getattr(batches, "aclose", None)
        if close is not None:
            await close()
