"""What all watches want begun, and what came of it: the runner's book of beginnings."""

from __future__ import annotations

import datetime as dt
import itertools
import uuid
from collections.abc import Iterable, Sequence

import msgspec

from commands.kernel.command import Context
from commands.kernel.fold import World
from commands.kernel.refusal import Refusal
from commands.policies.facts import Facts
from commands.policies.watch import Beginning, Watch
from commands.state.operation import OPERATION
from events.envelope import NewEvent
from events.log.port import Appended, Conflict, Outcome


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A beginning, and the watch that wants it."""

    watch: Watch
    beginning: Beginning


class Beginnings:
    """What all watches want begun; what was refused waits for `retry_s` seconds."""

    def __init__(self, watches: Sequence[Watch], retry_s: float) -> None:
        self._watches = tuple(watches)
        self._retry = dt.timedelta(seconds=retry_s)
        self._not_before: dict[uuid.UUID, dt.datetime] = {}

    def due(self, facts: Facts, now: dt.datetime, at_most: int) -> list[Due]:
        """Return what is to be begun now, as the watches order it."""
        for key in [key for key, until in self._not_before.items() if until <= now]:
            del self._not_before[key]
        return list(itertools.islice(self._wanted(facts, now), at_most))

    def woken(self, facts: Facts, now: dt.datetime) -> list[str]:
        """Return the operations that the watches want moved again."""
        return [each for watch in self._watches for each in watch.woken(facts, now)]

    def next_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return when to ask again though nothing happens."""
        wanted = (*(watch.next_due(now) for watch in self._watches), *self._not_before.values())
        return min((each for each in wanted if each is not None), default=None)

    def decide(
        self, due: Due, world: World, context: Context
    ) -> tuple[tuple[NewEvent, ...], dict[str, int]] | None:
        """Return the events that begin it, and what they rest on; None where it is refused."""
        operation = due.beginning.operation
        # Whatever comes of it, not at once again: a watch that repeats itself must not spin.
        self._not_before[operation] = context.time + self._retry
        try:
            decision = due.beginning.decide(
                world, msgspec.structs.replace(context, command=operation)
            )
        except Refusal as refusal:
            due.watch.refused(due.beginning, refusal)
            return None
        written = {event.stream: 0 for event in decision.events}
        return decision.events, written | world.reads | {OPERATION.stream(str(operation)): 0}

    def conclude(self, due: Due, outcome: Outcome) -> None:
        """Learn what came of an append. One that lagged behind may be tried again at once."""
        operation = due.beginning.operation
        begun_before = OPERATION.stream(str(operation))
        if isinstance(outcome, Appended) or (
            isinstance(outcome, Conflict) and outcome.stream != begun_before
        ):
            self._not_before.pop(operation, None)

    def _wanted(self, facts: Facts, now: dt.datetime) -> Iterable[Due]:
        for watch in self._watches:
            for beginning in watch.due(facts, now):
                if beginning.operation not in self._not_before:
                    yield Due(watch=watch, beginning=beginning)
