"""Where telemetry comes in without Kafka: the warehouse's Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import structlog

from dwh.sockets import listening
from events.wire.agent import Telemetry
from events.wire.telemetry import TelemetryBatch, decode_telemetry, read_frame

WAITING_MAX = 500
BATCH_FRAMES_MAX = 200
GATHER_S = 0.2
logger = structlog.get_logger(__name__)


class TelemetryServer:
    """Takes frames from any number of senders (a `TelemetrySource`).

    At most `WAITING_MAX` frames wait for the warehouse; beyond that the senders wait, and drop
    their oldest.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: asyncio.Queue[Telemetry] = asyncio.Queue(WAITING_MAX)
        self.undecodable = 0

    async def batches(self, offsets: Mapping[int, int]) -> AsyncIterator[TelemetryBatch]:
        """Yield batches for ever; a socket has no places, so `offsets` is of no use here."""
        del offsets
        async with listening(self._path, self._serve):
            while True:
                telemetry = [await self._waiting.get()]
                # A moment's patience makes one transaction of what many hosts send at once.
                await asyncio.sleep(GATHER_S)
                while not self._waiting.empty() and len(telemetry) < BATCH_FRAMES_MAX:
                    telemetry.append(self._waiting.get_nowait())
                yield TelemetryBatch(telemetry=telemetry)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                content = await read_frame(reader)
                try:
                    telemetry = decode_telemetry(content)
                except msgspec.MsgspecError as error:
                    self.undecodable += 1
                    logger.warning("telemetry cannot be read", error=str(error))
                    continue
                await self._waiting.put(telemetry)
        except asyncio.IncompleteReadError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("a sender of telemetry was lost", error=str(error))
