"""The writing side of the log: commands that wait together are committed together.

A *lane* is a connection with a task that sends one group at a time. Two of them overlap the
database's work on one group with this process's work on another; the log's lock orders them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Awaitable, Callable

import msgspec
import psycopg
import structlog

from events.log import arrays
from events.log.batcher import Batcher, Pending
from events.log.connection import (
    LOCK_TIMEOUT_MS,
    Connection,
    NoLogError,
    NotDurableError,
    close,
    connect,
    log_id,
    require_durability,
    sever,
)
from events.log.group import Deferred, Rows, encode, outcomes, parameters, rising_times
from events.log.port import (
    QUEUE_COMMANDS_MAX,
    WAIT_MS_MAX,
    Appended,
    Outcome,
    OverloadedError,
    UnavailableError,
)
from events.log.preparation import Prepared
from events.log.statements import statement
from events.log.tasks import end
from events.stream.port import OtherLogError

LANES = 2
LANE_READY_MIN = 48
"""How many commands must be ready before a further lane starts beside a busy one."""
CLOSE_TIMEOUT_S = 5.0
RETRY_AFTER_S = 1.0
BACKOFF_S = 0.05
BACKOFF_MAX_S = 1.0

TRANSIENT = ("08", "25", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE that are the server's trouble, not the commands': the group is sent again."""

Faults = (psycopg.Error, OSError, TimeoutError, NoLogError, NotDurableError)
Logger = structlog.stdlib.get_logger(__name__)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds the writer.

    `answer_timeout_s`: how long a command waits for its outcome before its caller is told that the
    log is away. `wait_max_s`: how long the oldest may wait for its turn before new ones are turned
    away. `group_timeout_s`: how long a group may take before its connection is cut, which is more
    than the server lets a statement take.
    """

    lanes: int = LANES
    answer_timeout_s: float = 15.0
    wait_max_s: float = WAIT_MS_MAX / 1000
    group_timeout_s: float = 12.0
    lock_timeout_ms: int = LOCK_TIMEOUT_MS


DEFAULT_LIMITS = Limits()


class Writer:
    """Sends commands in groups; `start` first, `close` at the end."""

    def __init__(
        self,
        dsn: str,
        identity: uuid.UUID,
        on_commit: Callable[[int], None],
        *,
        limits: Limits,
    ) -> None:
        self._dsn = dsn
        self._identity = identity
        self._on_commit = on_commit
        self._limits = limits
        self._batcher = Batcher()
        self._lanes = [Lane(self._open, index, limits) for index in range(limits.lanes)]
        self._tasks: list[asyncio.Task[None]] = []
        self._wakes = [asyncio.Event() for _ in range(limits.lanes)]
        self._in_flight: dict[int, list[Pending]] = {}
        self._closed: Exception | None = None
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Open the first connection, so that what is wrong shows now; start the lanes."""
        await self._lanes[0].ready()
        self._tasks = [
            self._loop.create_task(self._run(index), name=f"log lane {index}")
            for index in range(len(self._lanes))
        ]
        self._tasks.append(self._loop.create_task(self._watch(), name="log watch"))

    async def close(self) -> None:
        """Commit what waits, for a bounded time, and end; what is left gets UnavailableError."""
        self._closed = UnavailableError("the log is closed")
        left = [pending.future for pending in self._all()]
        if left:
            await asyncio.wait(left, timeout=CLOSE_TIMEOUT_S)
        for lane in self._lanes:
            lane.cut()
        await end(self._tasks)
        for pending in self._all():
            _fail(pending, UnavailableError("the log was closed before the command was committed"))
        for lane in self._lanes:
            await lane.close()

    async def append(self, prepared: Prepared) -> Outcome:
        """Queue a command and wait for its outcome; see `Log.append`."""
        if self._closed is not None:
            raise self._closed
        now = self._loop.time()
        oldest = self._batcher.oldest()
        if len(self._batcher) >= QUEUE_COMMANDS_MAX or (
            oldest is not None and now - oldest > self._limits.wait_max_s
        ):
            raise OverloadedError(RETRY_AFTER_S)
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._batcher.put(Pending(encode(prepared), future, now))
        self._wake()
        return await future

    def _wake(self) -> None:
        """Wake a lane that has nothing to do, if there is enough to do for it."""
        if not self._in_flight:
            self._wakes[0].set()
        elif len(self._in_flight) < len(self._lanes) and self._batcher.ready >= LANE_READY_MIN:
            for index, wake in enumerate(self._wakes):
                if index not in self._in_flight:
                    wake.set()
                    return

    def _share(self) -> int:
        """Return how many commands a lane that is about to start leaves none of for the others."""
        ready = self._batcher.ready
        idle = len(self._lanes) - len(self._in_flight)
        return max(LANE_READY_MIN, -(-ready // idle)) if idle else ready

    async def _run(self, index: int) -> None:
        """Send one group after the other on a lane, for ever."""
        wake, lane = self._wakes[index], self._lanes[index]
        while True:
            await wake.wait()
            await asyncio.sleep(0)  # those who were just answered may come again and join
            group = self._batcher.take(self._share())
            if not group:
                wake.clear()
                continue
            self._in_flight[index] = group
            self._wake()
            deferred: list[Pending] = []
            try:
                deferred = await self._settle(lane, group)
            except Exception:  # noqa: BLE001
                # A mistake of ours must not end the lane, and leave all others waiting for ever.
                Logger.exception("log.lane_failed", commands=len(group))
                for pending in group:
                    _fail(pending, UnavailableError("the log failed; its journal says why"))
            finally:
                del self._in_flight[index]
                self._batcher.done(group)
            self._batcher.put_back(deferred)
            if len(self._batcher) == 0 or (
                self._in_flight and self._batcher.ready < LANE_READY_MIN
            ):
                wake.clear()
            self._wake()

    async def _settle(self, lane: Lane, group: list[Pending]) -> list[Pending]:
        """Send a group until every command of it has its outcome; return the deferred ones."""
        backoff_s = BACKOFF_S
        while group := [pending for pending in group if not pending.future.done()]:
            try:
                times = rising_times([pending.encoded for pending in group])
                rows = await lane.send(group, times)
            except OtherLogError as error:
                self._closed = UnavailableError(f"{error}; restart this process")
                self._closed.__cause__ = error
                for pending in group:
                    _fail(pending, self._closed)
            except Faults as error:
                if _is_the_commands_fault(error, lane):
                    return await self._settle_singly(lane, group, error)
                Logger.warning("log.append_failed", error=str(error), commands=len(group))
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
                backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
            else:
                return self._answer(group, times, rows)
        return []

    async def _settle_singly(
        self, lane: Lane, group: list[Pending], error: Exception
    ) -> list[Pending]:
        """Send the commands of a group that failed before its commit one by one."""
        if len(group) == 1:
            Logger.error("log.command_failed", error=str(error))
            failure = UnavailableError(f"the database refuses the command: {error}")
            failure.__cause__ = error
            _fail(group[0], failure)
            return []
        for pending in group:
            await self._settle(lane, [pending])
        return []

    def _answer(self, group: list[Pending], times: list[int], rows: Rows) -> list[Pending]:
        """Give the commands their outcomes; return those that are deferred."""
        found = outcomes([pending.encoded for pending in group], times, rows)
        deferred: list[Pending] = []
        head = 0
        for pending, outcome in zip(group, found, strict=True):
            if isinstance(outcome, Deferred):
                deferred.append(pending)
                continue
            if isinstance(outcome, Appended):
                head = max(head, outcome.last)
                if outcome.repeated and pending.in_doubt:
                    # Our own first attempt was committed: to the caller this is no repeat.
                    outcome = msgspec.structs.replace(outcome, repeated=False)  # noqa: PLW2901
            if not pending.future.done():
                pending.future.set_result(outcome)
        if head:
            self._on_commit(head)
        return deferred

    async def _watch(self) -> None:
        """Tell callers who have waited too long that the log is away."""
        while True:
            await asyncio.sleep(self._limits.answer_timeout_s / 20)
            limit = self._loop.time() - self._limits.answer_timeout_s
            for pending in self._all():
                if pending.since < limit:
                    _fail(pending, UnavailableError("the database did not answer in time"))

    def _all(self) -> list[Pending]:
        flying = [pending for group in self._in_flight.values() for pending in group]
        return [*self._batcher.waiting(), *flying]

    async def _open(self, index: int) -> Connection:
        """Open a connection that may append; raises one of Faults, or OtherLogError."""
        connection = await connect(
            self._dsn,
            f"chronovisor log writer {index}",
            lock_timeout_ms=self._limits.lock_timeout_ms,
        )
        try:
            await require_durability(connection)
            found = await log_id(connection)
            arrays.register(connection)
        except BaseException:
            await close(connection)
            raise
        if found != self._identity:
            await close(connection)
            raise OtherLogError(self._identity, found)
        return connection


class Lane:
    """One connection, opened again whenever it is lost."""

    def __init__(
        self, opener: Callable[[int], Awaitable[Connection]], index: int, limits: Limits
    ) -> None:
        self._open = opener
        self._index = index
        self._limits = limits
        self._connection: Connection | None = None

    @property
    def connected(self) -> bool:
        """Whether the connection is there and works, as far as one knows."""
        return self._connection is not None and not self._connection.closed

    async def ready(self) -> Connection:
        """Return the connection, opened if need be."""
        if self._connection is None or self._connection.closed:
            self._connection = await self._open(self._index)
        return self._connection

    async def send(self, group: list[Pending], times: list[int]) -> Rows:
        """Append a group and commit, in one round trip.

        After a connection is lost, whether the group was committed is not known. Sending it again
        finds out: the call takes the log's lock first, which the old transaction holds until its
        end, and then looks for the commands' answers.
        """
        connection = await self.ready()
        arguments = parameters([pending.encoded for pending in group], times)
        loop = asyncio.get_running_loop()
        limit = loop.call_later(self._limits.group_timeout_s, sever, connection)
        try:
            async with connection.cursor(binary=True) as cursor:
                await cursor.execute(statement("append_group"), arguments, prepare=True)
                return await cursor.fetchall()
        except BaseException as error:
            broken = not isinstance(error, psycopg.Error) or connection.broken
            if broken or connection.closed:
                for pending in group:
                    pending.in_doubt = True
                self._connection = None
                sever(connection)
                await close(connection)
            raise
        finally:
            limit.cancel()

    def cut(self) -> None:
        """End whatever waits for the server."""
        if self._connection is not None and not self._connection.closed:
            sever(self._connection)

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await close(self._connection)


def _is_the_commands_fault(error: BaseException, lane: Lane) -> bool:
    """Tell whether the server refused what was sent, so that nothing was committed."""
    if not isinstance(error, psycopg.Error) or not lane.connected:
        return False
    return error.sqlstate is not None and not error.sqlstate.startswith(TRANSIENT)


def _fail(pending: Pending, error: Exception) -> None:
    if not pending.future.done():
        with contextlib.suppress(asyncio.InvalidStateError):
            pending.future.set_exception(error)
