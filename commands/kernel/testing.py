"""Tests of decisions: given these events, when this command comes, then those events follow.

    given(("vm/1", created)).when(StartVm(id="1")).then(VmStartRequested(name="web01"))
    given().when(StartVm(id="1")).refused(NotFound)

Nothing is stored and nothing waits. Claims (names, references) are the log's own affair: what they
refuse is tested with a log.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from typing import Any, Self, TypeVar, cast

import msgspec

from commands.kernel.command import Command, Context, Decision
from commands.kernel.fold import Fold, World
from commands.kernel.refusal import Refusal
from events.codec import CODEC
from events.envelope import NewEvent, Recorded, Stored
from events.types.base import Event

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
COMMAND = uuid.UUID(int=0xC0)
ACTOR = "admin:test"
EventClass = TypeVar("EventClass", bound=Event)
State = TypeVar("State")
_IDS = tuple(str(uuid.UUID(int=0x1D0 + number)) for number in range(1 + 32 + 16))


def fresh(number: int = 0) -> str:
    """Return the id that a decision gets for the first, second, ... object that it makes."""
    return _IDS[number]


class Given:
    """What has happened so far: pairs of a stream and an event, or events as decisions make them.

    Each event has been stored and read again, so that what a fold sees is what the log gives.
    """

    def __init__(self, *events: tuple[str, Event] | NewEvent, correlation: str = "earlier") -> None:
        self.streams: dict[str, list[Recorded]] = {}
        self._position = 0
        self.and_then(*events, correlation=correlation)

    def and_then(self, *events: tuple[str, Event] | NewEvent, correlation: str = "earlier") -> Self:
        """Let more happen."""
        for item in events:
            stream, event = item if isinstance(item, tuple) else (item.stream, item.event)
            addressee = None if isinstance(item, tuple) else item.addressee
            self._record(stream, event, addressee, correlation)
        return self

    def state(self, fold: Fold[State], object_id: str) -> State | None:
        """Return the state of an object."""
        state: State | None = None
        for recorded in self.streams.get(fold.stream(object_id), ()):
            state = fold.evolve(state, recorded)
        return state

    def when(self, command: Command, **context: Any) -> When:  # noqa: ANN401 - parts of a Context
        """Let a command come; keywords replace parts of its context (`if_match=7`)."""
        return When(self, command, context)

    def _record(self, stream: str, event: Event, addressee: str | None, correlation: str) -> None:
        self._position += 1
        name, schema, payload = CODEC.encode(event)
        earlier = self.streams.setdefault(stream, [])
        stored = Stored(
            position=self._position,
            stream=stream,
            version=len(earlier) + 1,
            name=name,
            schema=schema,
            payload=payload,
            time=NOW - dt.timedelta(minutes=1),
            actor="admin:earlier",
            command=uuid.UUID(int=self._position),
            correlation=correlation,
            addressee=addressee,
        )
        earlier.append(CODEC.decode(stored))


class When:
    """A command that came: what follows from it, or how it is refused."""

    def __init__(self, given: Given, command: Command, context: dict[str, Any]) -> None:
        self.given = given
        self.decision: Decision | None = None
        self.refusal: Refusal | None = None
        self.world = _GivenWorld(given)
        fresh_context = Context(
            command=COMMAND,
            time=NOW,
            actor=ACTOR,
            ids=_IDS,
            randoms=tuple(range(1, 17)),
            secret_sha256=lambda token: f"hash of {token}",
        )
        try:
            self.decision = command.decide(
                self.world, msgspec.structs.replace(fresh_context, **context)
            )
        except Refusal as refusal:
            self.refusal = refusal

    @property
    def accepted(self) -> Decision:
        """The decision; fails where the command was refused."""
        if self.decision is None:
            message = f"refused: {self.refusal!r}"
            raise AssertionError(message)
        return self.decision

    @property
    def events(self) -> tuple[Event, ...]:
        """The events that follow, on whatever stream."""
        return tuple(new.event for new in self.accepted.events)

    def event(self, cls: type[EventClass]) -> EventClass:
        """Return the one event of a class that follows."""
        found = [event for event in self.events if isinstance(event, cls)]
        if len(found) != 1:
            message = f"{len(found)} events are {cls.__name__}: {self.events}"
            raise AssertionError(message)
        return found[0]

    def then(self, *events: Event) -> Decision:
        """Expect exactly these events, in this order."""
        if self.events != events:
            message = f"expected {events}\n     got {self.events}"
            raise AssertionError(message)
        return self.accepted

    def then_nothing(self) -> Decision:
        """Expect the command to be accepted, and to change nothing."""
        return self.then()

    def refused(self, cls: type[Refusal], *words: str) -> Refusal:
        """Expect a refusal of exactly this class, whose text contains these words."""
        if self.refusal is None:
            message = f"not refused: {self.events}"
            raise AssertionError(message)
        text = f"{self.refusal.detail} {self.refusal.remedy}"
        missing = [word for word in words if word not in text]
        if type(self.refusal) is not cls or missing:
            message = f"expected {cls.__name__} with {missing}, got {self.refusal!r}: {text}"
            raise AssertionError(message)
        return self.refusal

    def follows(self) -> Given:
        """Return what has happened with this decision, to go on from there."""
        correlation = self.accepted.operation or str(COMMAND)
        return self.given.and_then(*self.accepted.events, correlation=correlation)


class _GivenWorld(World):
    """A world that folds whatever a decision asks for."""

    def __init__(self, given: Given) -> None:
        super().__init__({})
        self._given = given

    def get(self, fold: Fold[State], object_id: str) -> State | None:
        """Return the state of an object, or None if it never existed."""
        stream = fold.stream(object_id)
        self.reads[stream] = len(self._given.streams.get(stream, ()))
        return self._given.state(fold, object_id)


def given(*events: tuple[str, Event] | NewEvent | Iterable[Any]) -> Given:
    """Begin a test: pairs of stream and event, decisions' events, or lists of either."""
    flat: list[tuple[str, Event] | NewEvent] = []
    for item in events:
        pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)  # noqa: PLR2004
        if isinstance(item, NewEvent) or pair:
            flat.append(cast("tuple[str, Event] | NewEvent", item))
        else:
            flat += list(cast("Iterable[Any]", item))
    return Given(*flat)
