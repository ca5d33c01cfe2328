"""The stream that follows the PostgreSQL log itself: the embedded default."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog

from events.log.port import LogReader, UnavailableError
from events.stream.port import Batch, Cursor, OtherLogError

WAIT_S = 5.0
"""How long one wait for new events lasts; then the log is asked, in case a word of it was lost."""
BACKOFF_S = 0.05
BACKOFF_MAX_S = 1.0

Logger = structlog.stdlib.get_logger(__name__)


class DirectStream:
    """A `Stream` over a log's reader.

    While the database is away the stream waits and tries again, for ever: it has no end, and its
    consumer nothing better to do. LogGapError and OtherLogError end it: waiting mends neither.
    It rests for `rest_s` after a batch that was not full, so that a consumer whose every batch
    costs a flush of its disk gets larger ones; whoever waits longer is told at once.
    """

    def __init__(self, reader: LogReader, wait_s: float = WAIT_S, rest_s: float = 0.0) -> None:
        self._reader = reader
        self._wait_s = wait_s
        self._rest_s = rest_s

    async def batches(self, after: Cursor, limit: int = 2_000) -> AsyncIterator[Batch]:
        """Yield batches after a cursor for ever, waiting for new events.

        Raises OtherLogError where the cursor belongs to another log.
        """
        log_id = self._reader.log_id
        if after.log_id is not None and after.log_id != log_id:
            raise OtherLogError(after.log_id, log_id)
        position = after.position
        backoff_s = BACKOFF_S
        told = False  # whether there should be something to read
        while True:
            try:
                events = await self._reader.read(position, limit)
            except UnavailableError as error:
                Logger.warning("stream.log_unavailable", position=position, error=str(error))
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
                continue
            backoff_s = BACKOFF_S
            if events:
                position = events[-1].position
                yield Batch(events=events, cursor=Cursor(log_id, position))
            elif told:
                await asyncio.sleep(BACKOFF_S)  # a word of events that cannot be read yet
            if len(events) < limit:
                if events and self._rest_s:
                    await asyncio.sleep(self._rest_s)
                told = await self._reader.wait(position, self._wait_s) > position

    async def head(self) -> int:
        """Return the position of the log's last event."""
        return await self._reader.head()
