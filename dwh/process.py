"""The warehouse's process: follows the log and the telemetry, and answers queries meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import duckdb
import msgspec
import structlog

from dwh.copies import copy_frames
from dwh.query_server import QueryServer
from dwh.warehouse import MEMORY_BYTES_MAX, Warehouse
from events.backoff import Backoff
from events.codec import CODEC, Codec, UnknownEventError
from events.log.port import UnavailableError
from events.log.reader import LogGapError
from events.stream.port import OtherLogError, Stream
from events.wire.copies import CopyServer, in_thread
from events.wire.telemetry import TelemetrySource

HEAD_INTERVAL_S = 2.0
BATCH_EVENTS_MAX = 2_000
T = TypeVar("T")
logger = structlog.get_logger(__name__)


class WarehouseStatus(msgspec.Struct, kw_only=True):
    """Where the warehouse is, for health answers and metrics.

    `state` is starting, following, waiting (for the log or the disk) or halted (an event that this
    release cannot read, or a damaged log); `lag` is how many events are still to come.
    """

    state: str = "starting"
    position: int = 0
    head: int = 0
    log_id: str = ""
    events: int = 0
    samples: int = 0
    telemetry_doubles: int = 0
    telemetry_dropped: int = 0
    reseeds: int = 0
    failures: int = 0
    last_error: str = ""

    @property
    def lag(self) -> int:
        """How many events are still to come."""
        return max(0, self.head - self.position)


class WarehouseProcess:
    """One process that owns the warehouse.

    `telemetry` is a `TelemetryServer` in the embedded default, a Kafka `TelemetryConsumer` else.
    The file lies in `folder`; queries are answered on `query_socket`, and whole copies (a backup's)
    are handed out on `copy_socket`, if there is one.
    """

    def __init__(
        self,
        stream: Stream,
        folder: Path,
        *,
        telemetry: TelemetrySource,
        query_socket: Path,
        copy_socket: Path | None = None,
        codec: Codec = CODEC,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        time_scale: float = 1.0,
    ) -> None:
        self._stream = stream
        self._folder = folder
        self._telemetry = telemetry
        self._query_socket = query_socket
        self._copy_socket = copy_socket
        self._codec = codec
        self._memory_bytes_max = memory_bytes_max
        self._backoff_max_s = max(0.5, 5.0 * time_scale)
        self._head_interval_s = HEAD_INTERVAL_S * time_scale
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="warehouse")
        self.status = WarehouseStatus()

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a function of the warehouse in its one writing thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)

    async def run(self) -> None:
        """Own the warehouse until cancelled; raises WarehouseUnavailableError at the start."""
        warehouse = await self._call(self._open)
        queries = QueryServer(self._query_socket, warehouse.connection)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_events(warehouse))
                tasks.create_task(self._follow_telemetry(warehouse))
                tasks.create_task(self._watch_head())
                tasks.create_task(queries.run())
                if self._copy_socket is not None:
                    copies = CopyServer(self._copy_socket, lambda: _copy(warehouse))
                    tasks.create_task(copies.run())
        finally:
            await asyncio.shield(self._call(warehouse.close))
            self._executor.shutdown(wait=False)

    def _open(self) -> Warehouse:
        return Warehouse(self._folder, codec=self._codec, memory_bytes_max=self._memory_bytes_max)

    async def _follow_events(self, warehouse: Warehouse) -> None:
        backoff = Backoff(max_s=self._backoff_max_s)
        while True:
            try:
                cursor = await self._call(warehouse.read_cursor)
                self.status.position = cursor.position
                self.status.log_id = str(cursor.log_id or "")
                self.status.state = "following"
                source = self._stream.batches(cursor, BATCH_EVENTS_MAX)
                async with contextlib.aclosing(source) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        await self._call(warehouse.take_events, batch)
                        backoff.reset()
                        self.status.position = batch.cursor.position
                        self.status.log_id = str(batch.cursor.log_id or "")
                        self.status.events = warehouse.events_taken
            except OtherLogError as error:
                self.status.reseeds += 1
                await self._call(warehouse.reseed, error.found)
            except (UnknownEventError, LogGapError) as error:
                cursor = await self._call(warehouse.read_cursor)
                self.status.position = cursor.position
                self.status.state, self.status.last_error = "halted", str(error)
                logger.error("the warehouse takes no more events", reason=str(error))  # noqa: TRY400
                await asyncio.Event().wait()
            except (UnavailableError, OSError, duckdb.Error) as error:
                self.status.state = "waiting"
                self._note(error)
            await backoff.wait()

    async def _follow_telemetry(self, warehouse: Warehouse) -> None:
        backoff = Backoff(max_s=self._backoff_max_s)
        while True:
            try:
                offsets = await self._call(warehouse.telemetry_offsets)
                source = self._telemetry.batches(offsets)
                async with contextlib.aclosing(source) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        await self._call(warehouse.take_telemetry, batch)
                        backoff.reset()
                        self.status.samples = warehouse.samples_taken
                        self.status.telemetry_doubles = warehouse.watermarks.doubles
                        self.status.telemetry_dropped = warehouse.watermarks.dropped
            except (OSError, duckdb.Error) as error:
                self._note(error)
            await backoff.wait()

    def _note(self, error: Exception) -> None:
        self.status.failures += 1
        self.status.last_error = f"{type(error).__name__}: {error}"
        logger.warning("the warehouse waits", error=self.status.last_error)

    async def _watch_head(self) -> None:
        """Keep the log's head at hand, to show how far behind the warehouse is."""
        while True:
            with contextlib.suppress(UnavailableError, OSError):
                self.status.head = await self._stream.head()
            await asyncio.sleep(self._head_interval_s)


def _copy(warehouse: Warehouse) -> AsyncIterator[bytes]:
    return in_thread(copy_frames(warehouse.connection.cursor()))
