"""The query service on a Unix socket: one query for each connection.

The client sends a frame with a `Query` and gets a frame with an `Answer` and, unless that tells of
a failure, one with the rows. Closing the connection stops the query.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import structlog

from dwh.queries import (
    BYTES_MAX,
    Answer,
    Execution,
    Failure,
    Query,
    QueryRefusedError,
    failure,
)
from dwh.sockets import listening
from events.wire.telemetry import frame, read_frame

REQUEST_BYTES_MAX = 512 * 1024
REQUEST_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 60.0
RUNNING_MAX = 4
WAITING_MAX = 16
INTERRUPT_INTERVAL_S = 0.05
ANSWER_BYTES_MAX = BYTES_MAX + 1024 * 1024
logger = structlog.get_logger(__name__)


class QueryServer:
    """Answers read-only queries; at most `running_max` at once, and `waiting_max` more wait."""

    def __init__(
        self,
        path: Path,
        connection: duckdb.DuckDBPyConnection,
        *,
        running_max: int = RUNNING_MAX,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._path = path
        self._connection = connection
        self._executor = ThreadPoolExecutor(running_max, thread_name_prefix="query")
        self._running = asyncio.Semaphore(running_max)
        self._present_max = running_max + waiting_max
        self._present = 0
        self._stopping: set[asyncio.Task[None]] = set()
        self.answered = 0
        self.failed = 0

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with listening(self._path, self._serve):
                await asyncio.Event().wait()
        finally:
            await asyncio.gather(*self._stopping, return_exceptions=True)
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await asyncio.wait_for(
                read_frame(reader, REQUEST_BYTES_MAX), REQUEST_TIMEOUT_S
            )
            head, content = await self._answer(request, reader)
            writer.write(frame(msgspec.json.encode(head)))
            if head.failure is None:
                self.answered += 1
                writer.write(_long_frame(content))
            else:
                self.failed += 1
            await asyncio.wait_for(writer.drain(), SEND_TIMEOUT_S)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            logger.debug("a query's connection was lost", error=str(error))

    async def _answer(self, request: bytes, reader: asyncio.StreamReader) -> tuple[Answer, bytes]:
        try:
            query = msgspec.json.decode(request, type=Query)
        except msgspec.MsgspecError as error:
            return failure(Failure.REFUSED, str(error))
        if self._present >= self._present_max:
            return failure(Failure.BUSY, "too many queries wait already; try again")
        self._present += 1
        gone = asyncio.create_task(reader.read(1))
        try:
            async with asyncio.timeout(query.timeout_s), self._running:
                return await self._execute(query, gone)
        except TimeoutError:
            return failure(Failure.TIMED_OUT, f"not answered within {query.timeout_s:g} s")
        except QueryRefusedError as error:
            return failure(Failure.REFUSED, str(error))
        except duckdb.Error as error:
            return failure(Failure.FAILED, str(error))
        finally:
            self._present -= 1
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await gone

    async def _execute(self, query: Query, gone: asyncio.Task[bytes]) -> tuple[Answer, bytes]:
        """Run a query in a thread; stop it when the time is over or the client is gone."""
        execution = Execution(self._connection, query)
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._executor, execution.run)
        try:
            first: set[asyncio.Future[Any]] = {running, gone}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not running.done():
                # A task of its own, since this one may be cancelled (again) while it waits.
                stopping = asyncio.create_task(_stop(execution, running))
                self._stopping.add(stopping)
                stopping.add_done_callback(self._stopping.discard)
                await asyncio.shield(stopping)
        return running.result()


async def _stop(execution: Execution, running: asyncio.Future[tuple[Answer, bytes]]) -> None:
    """Interrupt a query until it has ended: before it has begun, an interrupt has no effect."""
    while not running.done():
        execution.interrupt()
        await asyncio.wait({running}, timeout=INTERRUPT_INTERVAL_S)
    running.exception()  # whoever still waits for it is told as well


def _long_frame(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content
