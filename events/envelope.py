"""The envelopes of events: as a decision makes them, as the log stores them, as folds read them."""

from __future__ import annotations

import datetime as dt
import uuid

import msgspec

from events.types.base import Event


class NewEvent(msgspec.Struct, frozen=True):
    """An event that a decision wants on a stream; `addressee` names the host it is an order for."""

    stream: str
    event: Event
    addressee: str | None = None


class Stored(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as a row of the log: the payload is still bytes."""

    position: int
    stream: str
    version: int
    name: str
    schema: int
    payload: bytes
    time: dt.datetime
    actor: str
    command: uuid.UUID
    correlation: str | None = None
    causation: str | None = None
    addressee: str | None = None


class Recorded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A stored event with its payload decoded (and upcast): what folds and consumers read."""

    position: int
    stream: str
    version: int
    name: str
    event: Event
    time: dt.datetime
    actor: str
    command: uuid.UUID
    correlation: str | None = None
    causation: str | None = None
    addressee: str | None = None

    @property
    def id(self) -> str:
        """The event's id: its stream and version, which name it for ever, after a restore too."""
        return f"{self.stream}@{self.version}"

    @property
    def object_id(self) -> str:
        """The id part of the stream: `vm/0191...` gives `0191...`."""
        return self.stream.partition("/")[2]

    @property
    def kind(self) -> str:
        """The kind part of the stream: `vm/0191...` gives `vm`."""
        return self.stream.partition("/")[0]
