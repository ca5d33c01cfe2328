"""Folds: how the state of a stream follows from its events, and the world that decisions see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

import msgspec

from events.envelope import Recorded

State = TypeVar("State")


class Fold(Generic[State]):
    """How to fold one kind of stream: `evolve(None, first event)` makes the state."""

    def __init__(
        self,
        kind: str,
        state: type[State],
        evolve: Callable[[State | None, Recorded], State | None],
        *,
        revision: int = 1,
    ) -> None:
        self.kind = kind
        self.state = state
        self.evolve = evolve
        schema = msgspec.json.encode(msgspec.json.schema(state), order="sorted")
        self.schema_hash = hashlib.sha256(schema + str(revision).encode()).hexdigest()
        """Changes with the state's shape; raise `revision` when only its meaning changes."""

    def stream(self, object_id: str) -> str:
        """Return the stream id of an object."""
        return f"{self.kind}/{object_id}"


class MissingStreamError(Exception):
    """A decision asked for a stream that is not loaded yet: load it and decide again."""

    def __init__(self, fold: Fold[Any], stream: str) -> None:
        super().__init__(stream)
        self.fold = fold
        self.stream = stream


class Loaded(msgspec.Struct, frozen=True):
    """A folded stream: its version (0: it does not exist) and state."""

    version: int
    state: Any


class World:
    """What a decision may look at: folded streams, each of which it then has read.

    A decision asks for what it needs, as its logic goes. Where a stream is not at hand,
    MissingStreamError tells the handler to load it and to run the decision, which is pure, anew.
    """

    def __init__(self, loaded: Mapping[str, Loaded]) -> None:
        self._loaded = loaded
        self.reads: dict[str, int] = {}

    def get(self, fold: Fold[State], object_id: str) -> State | None:
        """Return the state of an object, or None if it never existed."""
        stream = fold.stream(object_id)
        if stream not in self._loaded:
            raise MissingStreamError(fold, stream)
        entry = self._loaded[stream]
        self.reads[stream] = entry.version
        return cast("State | None", entry.state)
