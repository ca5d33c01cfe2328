"""Copies of what a running process keeps in files of its own, handed out over a Unix socket.

Whoever connects gets a whole, consistent copy as frames, made by the owner of the files: each frame
is a length (4 bytes, big-endian) and so many bytes, the first of which is its kind. The owner goes
on with its work meanwhile.

| kind | content |
|---|---|
| `T` | the head of what follows, as JSON |
| `D` | bytes of it |
| `.` | nothing: the copy is whole |
| `!` | why there is no (whole) copy, as text |
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

HEAD, DATA, END, FAILURE = b"T", b"D", b".", b"!"
FRAME_BYTES_MAX = 8 * 1024 * 1024
LENGTH_BYTES = 4
SEND_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 120.0
COPIES_AT_ONCE_MAX = 1
Produce = Callable[[], AsyncIterator[bytes]]
"""Makes the frames of a copy, kind and content, without the end."""

logger = structlog.get_logger(__name__)


class NoCopyError(Exception):
    """The owner could not make the copy, or went away before it was whole."""


class CopyServer:
    """Hands out copies on a socket that only this user can reach, one at a time."""

    def __init__(self, path: Path, produce: Produce) -> None:
        self._path = path
        self._produce = produce
        self._room = asyncio.Semaphore(COPIES_AT_ONCE_MAX)
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled."""
        self._path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._connected, self._path)
        self._path.chmod(0o600)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        task = asyncio.current_task()
        if task is None:
            return
        self._connections.add(task)
        try:
            await self._serve(writer)
        except asyncio.CancelledError:
            # Cancelled by `run`, and nobody waits for the outcome: asyncio would log an error.
            return
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._room:
                source = self._produce()
                async with contextlib.aclosing(source) as frames:  # type: ignore[type-var]
                    async for frame in frames:
                        await _send(writer, frame)
            await _send(writer, END)
        except (OSError, TimeoutError) as error:
            logger.warning("a copy was not taken whole", reason=repr(error))
        except Exception as error:
            logger.exception("a copy failed")
            with contextlib.suppress(OSError, TimeoutError):
                await _send(writer, FAILURE + str(error).encode()[:4_096])


async def in_thread(frames: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what an iterator yields, each step of it in one thread of its own."""
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(1, thread_name_prefix="copy")
    try:
        while (frame := await loop.run_in_executor(executor, next, frames, None)) is not None:
            yield frame
    finally:
        close = getattr(frames, "close", None)
        if close is not None:
            await asyncio.shield(loop.run_in_executor(executor, close))
        executor.shutdown(wait=False)


def fetch(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each frame of a copy; ends only if the copy is whole.

    Raises OSError where nobody serves the socket, NoCopyError where the copy failed. Blocks.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plug:
        plug.settimeout(CONNECT_TIMEOUT_S)
        plug.connect(str(path))
        plug.settimeout(READ_TIMEOUT_S)
        with plug.makefile("rb") as source:
            try:
                yield from _frames(source.read)
            except OSError as error:
                raise NoCopyError(f"the copy stopped before it was whole: {error}") from error


def _frames(read: Callable[[int], bytes]) -> Iterator[tuple[bytes, bytes]]:
    while True:
        length = int.from_bytes(_exactly(read, LENGTH_BYTES), "big")
        if not 1 <= length <= FRAME_BYTES_MAX:
            raise NoCopyError(f"a frame of {length} B is none of a copy's")
        frame = _exactly(read, length)
        kind, content = frame[:1], frame[1:]
        if kind == END:
            return
        if kind == FAILURE:
            raise NoCopyError(content.decode(errors="replace"))
        yield kind, content


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    content = read(count)
    if len(content) != count:
        raise NoCopyError("the copy's owner went away before the copy was whole")
    return content


async def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await writer.drain()
