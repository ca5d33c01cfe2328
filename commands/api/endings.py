"""Waiting for the ends of operations, for `Prefer: wait`.

However many wait, the log is followed once, and only while somebody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
import structlog

from events.backoff import Backoff
from events.codec import CODEC
from events.envelope import Stored
from events.log.port import LogReader, UnavailableError
from events.types.operation import OperationEnded

WAITING_MAX = 1_000
LOOK_INTERVAL_S = 1.0
_ENDED = "operation.ended"

log = structlog.get_logger(__name__)


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How an operation ended, and at which position."""

    outcome: str
    reason: str
    position: int


class Endings:
    """Tells those who wait how operations end."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._waiting: dict[str, list[asyncio.Future[Ending]]] = {}
        self._count = 0
        self._following: asyncio.Task[None] | None = None

    async def wait(self, operation: str, timeout_s: float) -> Ending | None:
        """Wait until an operation has ended; None if it has not in time, or too many wait."""
        if self._count >= WAITING_MAX:
            return None
        ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        stream = f"operation/{operation}"
        self._waiting.setdefault(stream, []).append(ending)
        self._count += 1
        try:
            async with asyncio.timeout(timeout_s):
                if not self._follows():
                    # The head is known before the stream is read: no end falls in between.
                    head = await self._reader.head()
                    if not self._follows():
                        self._following = asyncio.create_task(self._follow(head))
                return _ending(await self._reader.load(stream)) or await ending
        except (TimeoutError, UnavailableError, OSError):
            # The command is accepted all the same, and the operation can be asked for.
            return None
        finally:
            self._count -= 1
            self._forget(stream, ending)

    async def close(self) -> None:
        """Stop following."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None

    def _follows(self) -> bool:
        return self._following is not None and not self._following.done()

    def _forget(self, stream: str, ending: asyncio.Future[Ending]) -> None:
        others = [other for other in self._waiting.get(stream, ()) if other is not ending]
        if others:
            self._waiting[stream] = others
        else:
            self._waiting.pop(stream, None)

    async def _follow(self, position: int) -> None:
        """Take in the log from a position on, until nobody waits any more."""
        backoff = Backoff(max_s=LOOK_INTERVAL_S)
        while self._count:
            try:
                if await self._reader.wait(position, LOOK_INTERVAL_S) <= position:
                    continue
                events = await self._reader.read(position)
            except (UnavailableError, OSError) as error:
                log.warning("operations cannot be followed", error=str(error))
                await backoff.wait()
                continue
            backoff.reset()
            position = events[-1].position if events else position
            self._tell(events)
        self._following = None

    def _tell(self, events: Iterable[Stored]) -> None:
        for stored in events:
            if stored.name != _ENDED or stored.stream not in self._waiting:
                continue
            ending = _ending([stored])
            for future in self._waiting[stored.stream]:
                if ending is not None and not future.done():
                    future.set_result(ending)


def _ending(events: Iterable[Stored]) -> Ending | None:
    for stored in events:
        if stored.name == _ENDED:
            event = CODEC.decode(stored).event
            if isinstance(event, OperationEnded):
                return Ending(
                    outcome=str(event.outcome), reason=event.reason, position=stored.position
                )
    return None
