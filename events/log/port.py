"""What a log is (contract A): the messages of the append, its outcomes, and the port itself."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from events.envelope import NewEvent, Stored

GROUP_COMMANDS_MAX = 256
GROUP_EVENTS_MAX = 1_000
GROUP_BYTES_MAX = 1024 * 1024
QUEUE_COMMANDS_MAX = 2_000
WAIT_MS_MAX = 250
READ_EVENTS_MAX = 2_000


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """One command's append: all or nothing.

    `reads` maps each stream that the decision read to its version then (0: it was absent). A
    stream that is written but not read must be in `reads` too. `key` is the idempotency key, unique
    per principal; without one the command id serves. `body_mac` tells apart two bodies under one
    key. `answer` is stored and given again to whoever comes with the same key and body.
    """

    command: uuid.UUID
    principal: str
    actor: str
    key: str | None = None
    body_mac: bytes = b""
    reads: dict[str, int]
    events: tuple[NewEvent, ...]
    answer: bytes = b""
    correlation: str | None = None
    causation: str | None = None
    time: dt.datetime

    @property
    def answer_key(self) -> str:
        """The key under which the answer is stored."""
        return self.key if self.key is not None else str(self.command)


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """The events are durable at positions `first` .. `first + count - 1` (count may be 0).

    With count 0, `first` is the position after which the command took effect, plus 1.
    """

    first: int
    count: int
    time: dt.datetime
    answer: bytes
    repeated: bool = False

    @property
    def last(self) -> int:
        """The position of the last event, or of the log's end then if there was none."""
        return self.first + self.count - 1


class KeyReused(msgspec.Struct, frozen=True, kw_only=True):
    """The idempotency key was used with another body."""

    key: str


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """A stream is not at the version that the decision read: load and decide again."""

    stream: str
    expected: int
    actual: int


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A claim does not fit those of others: who holds it, and how."""

    key: str
    holder: str
    mode: str


Outcome = Appended | KeyReused | Conflict | Claimed


class OverloadedError(Exception):
    """The queue is full, or its oldest command has waited too long: try again later."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the log is overloaded; try again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class UnavailableError(Exception):
    """The database cannot be reached or refuses to work; nothing is known to be stored."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A fold's state at a position (for a stream: at a version, with that version's position)."""

    name: str
    schema_hash: str
    position: int
    version: int
    state: bytes


class StoredAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted command's answer."""

    body_mac: bytes
    answer: bytes
    first: int
    count: int
    time: dt.datetime


class Newest(msgspec.Struct, frozen=True):
    """A stream's snapshot, where one was asked for and found, and the events behind it in order."""

    snapshot: Snapshot | None
    events: Sequence[Stored]


class LogReader(Protocol):
    """The reading side of a log."""

    @property
    def log_id(self) -> uuid.UUID:
        """The log's identity; a restored log has another."""
        ...

    async def head(self) -> int:
        """Return the position of the last event, 0 for an empty log."""
        ...

    async def read(self, after: int, limit: int = READ_EVENTS_MAX) -> Sequence[Stored]:
        """Return events at positions after + 1 .., without a gap, at most `limit` of them."""
        ...

    async def load(self, stream: str, after_version: int = 0) -> Sequence[Stored]:
        """Return the events of a stream after a version, in order."""
        ...

    async def load_many(self, after_versions: Mapping[str, int]) -> dict[str, Sequence[Stored]]:
        """Return, for each stream named, its events after the version given, as of one instant."""
        ...

    async def load_newest(
        self, schema_hashes: Mapping[str, str], after_versions: Mapping[str, int]
    ) -> dict[str, Newest]:
        """Return, for each stream named, what its fold needs that has nothing of it, or a version.

        Of the streams in `schema_hashes` that is the newest snapshot of that schema, where there is
        one, and the events behind it; of those in `after_versions` the events after the version.
        All is as of one instant.
        """
        ...

    async def addressed(self, host: str, after: int, limit: int) -> Sequence[Stored]:
        """Return the events addressed to a host after a position, in order."""
        ...

    async def position_at(self, time: dt.datetime) -> int:
        """Return the last position whose time is not after `time`; 0 if there is none."""
        ...

    async def wait(self, after: int, timeout_s: float) -> int:
        """Wait until the head is beyond `after`, at most `timeout_s`; return the head."""
        ...

    async def snapshot(self, name: str, schema_hash: str) -> Snapshot | None:
        """Return the newest snapshot of a fold, or None; one of another schema is discarded."""
        ...

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """Store a snapshot; an older one than what is stored is ignored."""
        ...


class Log(LogReader, Protocol):
    """A log: readers' side and the append."""

    async def append(self, append: Append) -> Outcome:
        """Append one command; commands that wait together are committed together.

        Raises OverloadedError or UnavailableError; then nothing is stored, or (Unavailable only)
        a repeat under the same key finds out.
        """
        ...

    async def answer(self, principal: str, key: str) -> StoredAnswer | None:
        """Return the stored answer of a command, or None if it was not accepted."""
        ...
