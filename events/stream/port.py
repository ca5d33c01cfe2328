"""How consumers read the log: cursors, batches, and the port of a stream."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from events.envelope import Stored


class Cursor(msgspec.Struct, frozen=True):
    """A consumer's place: the last position it has taken in, and in which log.

    `hint` is the stream's own (Kafka: the next offset); it is stored beside the position, only
    saves searching, and may be wrong. A consumer that has seen nothing has `log_id` None.
    """

    log_id: uuid.UUID | None
    position: int
    hint: int | None = None


START = Cursor(None, 0)


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Events at consecutive positions, and the cursor to store in the same transaction."""

    events: Sequence[Stored]
    cursor: Cursor


class OtherLogError(Exception):
    """The log is not the one that the cursor belongs to (a restore): the consumer must re-seed."""

    def __init__(self, expected: uuid.UUID, found: uuid.UUID) -> None:
        super().__init__(f"the cursor is of log {expected}, but this is log {found}")
        self.expected = expected
        self.found = found


class Stream(Protocol):
    """Batches of events, in order, none left out, none twice."""

    def batches(self, after: Cursor, limit: int = 2_000) -> AsyncIterator[Batch]:
        """Yield batches after a cursor for ever, waiting for new events.

        Raises OtherLogError where the cursor belongs to another log.
        """
        ...

    async def head(self) -> int:
        """Return the position of the log's last event, for showing how far behind a reader is."""
        ...
