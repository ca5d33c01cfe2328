"""Telemetry on its way from the gateway to the warehouse, over the warehouse's Unix socket.

Frames of a length (4 bytes, big-endian) and a `Telemetry` as msgspec JSON; nothing is answered.
Telemetry may be lost, within bounds and counted: the sender never waits for the warehouse, and
while that is away its queue drops the oldest.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from events.backoff import Backoff
from events.wire.agent import Telemetry

FRAME_BYTES_MAX = 4 * 1024 * 1024
QUEUE_FRAMES_MAX = 2_000
SEND_TIMEOUT_S = 5.0
LENGTH_BYTES = 4
logger = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Telemetry)


class TelemetrySink(Protocol):
    """Where telemetry goes: `TelemetrySender`, or the Kafka topic's publisher."""

    def send(self, telemetry: Telemetry) -> None:
        """Take a batch; never waits, drops the oldest if too many are waiting."""
        ...

    async def run(self) -> None:
        """Deliver what was taken, until cancelled."""
        ...


class TelemetryBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Telemetry to take in, and the places (partition to next offset) to store with it."""

    telemetry: Sequence[Telemetry]
    offsets: Mapping[int, int] = {}


class TelemetrySource(Protocol):
    """Where the warehouse takes telemetry from."""

    def batches(self, offsets: Mapping[int, int]) -> AsyncIterator[TelemetryBatch]:
        """Yield batches for ever, after these places as far as they are still known."""
        ...


def encode_telemetry(telemetry: Telemetry) -> bytes:
    """Return telemetry as JSON."""
    return _encoder.encode(telemetry)


def decode_telemetry(content: bytes) -> Telemetry:
    """Return telemetry from JSON; raises msgspec.MsgspecError."""
    return _decoder.decode(content)


def frame(content: bytes) -> bytes:
    """Return content with its length before it; ValueError if it is larger than a frame may be."""
    if len(content) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {len(content)} B exceeds {FRAME_BYTES_MAX} B")
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


async def read_frame(reader: asyncio.StreamReader, bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """Return the next frame's content.

    Raises asyncio.IncompleteReadError at the end, ValueError for a frame that is too large.
    """
    length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    if length > bytes_max:
        raise ValueError(f"a frame of {length} B exceeds {bytes_max} B")
    return await reader.readexactly(length)


class TelemetrySender:
    """Sends telemetry to the warehouse's Unix socket, connecting again whenever it must.

    `sent` and `dropped` count frames since the start.
    """

    def __init__(
        self, path: Path, *, queue_frames_max: int = QUEUE_FRAMES_MAX, backoff_max_s: float = 5.0
    ) -> None:
        self._path = path
        self._queue: collections.deque[bytes] = collections.deque()
        self._queue_frames_max = queue_frames_max
        self._backoff = Backoff(max_s=backoff_max_s)
        self._filled = asyncio.Event()
        self.sent = 0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """How many frames wait to be sent."""
        return len(self._queue)

    def send(self, telemetry: Telemetry) -> None:
        """Take a batch; never waits, drops the oldest if too many are waiting."""
        content = encode_telemetry(telemetry)
        if len(content) > FRAME_BYTES_MAX:
            self.dropped += 1
            return
        if len(self._queue) >= self._queue_frames_max:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(frame(content))
        self._filled.set()

    async def run(self) -> None:
        """Deliver what was taken, until cancelled."""
        while True:
            try:
                await self._deliver()
            except (OSError, TimeoutError) as error:
                if self._backoff.failures == 0:
                    logger.warning("warehouse takes no telemetry", error=str(error))
            await self._backoff.wait()

    async def _deliver(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            while True:
                await self._filled.wait()
                while self._queue:
                    if reader.at_eof():
                        raise ConnectionResetError("the warehouse closed the connection")
                    content = self._queue[0]
                    writer.write(content)
                    await asyncio.wait_for(writer.drain(), SEND_TIMEOUT_S)
                    self._drop_sent(content)
                    self._backoff.reset()
                self._filled.clear()
        finally:
            writer.close()

    def _drop_sent(self, content: bytes) -> None:
        """Take a sent frame off, unless the queue overflowed meanwhile and dropped it itself."""
        self.sent += 1
        if self._queue and self._queue[0] is content:
            self._queue.popleft()
