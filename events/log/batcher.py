"""Which waiting commands go into the next group: pure, and without ever rescanning the queue.

A command is held back while a stream that it reads is being written, its answer's key is in use, or
a claim that it needs or changes is being changed, by a command of the same group or of one in
flight. It then waits in a queue of that one *token*, and only the first of such a queue is looked
at when the token is free again; the next one follows if the first left the token free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from events.claims import Mode
from events.log.claims import Kind
from events.log.group import Encoded
from events.log.port import GROUP_BYTES_MAX, GROUP_COMMANDS_MAX, GROUP_EVENTS_MAX, Outcome

Token = tuple[str, ...]
"""What a command waits for: ("stream", id), ("answer", principal, key), ("key", key), ..."""


class Pending:
    """A command that waits for its outcome."""

    __slots__ = ("answer", "changes", "encoded", "future", "in_doubt", "needs", "since", "writes")

    def __init__(self, encoded: Encoded, future: asyncio.Future[Outcome], since: float) -> None:
        prepared = encoded.prepared
        self.encoded = encoded
        self.future = future
        self.since = since  # the loop's clock, in seconds, when it came
        self.in_doubt = False  # it was sent, and whether it was committed is not known
        self.answer = (prepared.append.principal, prepared.key)
        self.writes = {row.stream for row in prepared.rows}
        # Keys of claims: (key, whether it must be free), and (key, holder, taken exclusively).
        self.needs = [(need.key, need.kind is Kind.FREE) for need in prepared.plan.needs]
        self.changes = [
            (
                effect.key,
                effect.holder,
                effect.holding is not None and effect.holding.mode is Mode.EXCLUSIVE,
            )
            for effect in prepared.plan.effects
        ]


class Batcher:
    """The commands that wait, and what those in flight have in use."""

    def __init__(self) -> None:
        self._ready: deque[Pending] = deque()
        self._parked: dict[Token, deque[Pending]] = {}
        self._parked_count = 0
        self._freed: deque[Token] = deque()
        self._streams: set[str] = set()
        self._answers: set[tuple[str, str]] = set()
        self._exclusive: set[str] = set()
        self._holdings: set[tuple[str, str]] = set()

    def __len__(self) -> int:
        """How many commands wait, those of groups in flight apart."""
        return len(self._ready) + self._parked_count

    @property
    def ready(self) -> int:
        """How many commands wait for nothing but their turn."""
        return len(self._ready)

    def oldest(self) -> float | None:
        """Since when the first command that only waits for its turn has waited."""
        return self._ready[0].since if self._ready else None

    def waiting(self) -> list[Pending]:
        """Return all that wait, in no particular order."""
        return [*self._ready, *(one for queue in self._parked.values() for one in queue)]

    def put(self, pending: Pending) -> None:
        """Take a new command in."""
        self._ready.append(pending)

    def put_back(self, group: list[Pending]) -> None:
        """Take commands of a finished group in again, before all others."""
        self._ready.extendleft(reversed(group))

    def take(self, commands_max: int = GROUP_COMMANDS_MAX) -> list[Pending]:
        """Return the next group, empty if nothing can go; `done` must be called with it."""
        group = _Group(commands_max)
        while self._freed:
            if not self._take_parked(self._freed[0], group):
                return group.members
            self._freed.popleft()
        ready = self._ready
        while ready:
            pending = ready[0]
            if not pending.future.done():
                token = self._blocking(pending, group)
                if token is not None:
                    self._park(pending, token)
                elif group.fits(pending):
                    self._use(pending, group)
                else:
                    return group.members
            ready.popleft()
        return group.members

    def done(self, group: list[Pending]) -> None:
        """Free what a group had in use, whatever became of it."""
        for pending in group:
            self._streams -= pending.writes
            self._answers.discard(pending.answer)
            for key, holder, exclusive in pending.changes:
                self._holdings.discard((key, holder))
                if exclusive:
                    self._exclusive.discard(key)
            if self._parked:
                self._freed.extend(token for token in _tokens(pending) if token in self._parked)

    def _take_parked(self, token: Token, group: _Group) -> bool:
        """Take from a token's queue while the token is free; False if the group is full."""
        queue = self._parked.get(token)
        while queue:
            pending = queue[0]
            blocking = None
            if not pending.future.done():
                blocking = self._blocking(pending, group)
                if blocking == token:
                    return True
                if blocking is None:
                    if not group.fits(pending):
                        return False
                    self._use(pending, group)
            queue.popleft()
            self._parked_count -= 1
            if blocking is not None:
                self._park(pending, blocking)
        self._parked.pop(token, None)
        return True

    def _park(self, pending: Pending, token: Token) -> None:
        self._parked.setdefault(token, deque()).append(pending)
        self._parked_count += 1

    def _blocking(self, pending: Pending, group: _Group) -> Token | None:
        """Return the first thing in use that a command must wait for.

        That a key is free of other holders is asked of this group's changes only: those in flight
        come to pass before it or after it, and a key that many share is never out of use for long.
        """
        streams = self._streams
        for stream in pending.encoded.prepared.append.reads:
            if stream in streams:
                return ("stream", stream)
        if pending.answer in self._answers:
            return ("answer", *pending.answer)
        for key, free in pending.needs:
            if key in self._exclusive:
                return ("exclusive", key)
            if free and key in group.changed:
                return ("key", key)
        for key, holder, _ in pending.changes:
            if (key, holder) in self._holdings:
                return ("holding", key, holder)
        return None

    def _use(self, pending: Pending, group: _Group) -> None:
        """Put a command into the group."""
        group.add(pending)
        self._streams |= pending.writes
        self._answers.add(pending.answer)
        for key, holder, exclusive in pending.changes:
            group.changed.add(key)
            self._holdings.add((key, holder))
            if exclusive:
                self._exclusive.add(key)


class _Group:
    """A group being put together, within its limits."""

    __slots__ = ("_bytes", "_commands_max", "_events", "changed", "members")

    def __init__(self, commands_max: int) -> None:
        self.members: list[Pending] = []
        self.changed: set[str] = set()  # keys of claims
        self._commands_max = min(commands_max, GROUP_COMMANDS_MAX)
        self._events = 0
        self._bytes = 0

    def fits(self, pending: Pending) -> bool:
        prepared = pending.encoded.prepared
        return not self.members or (
            len(self.members) < self._commands_max
            and self._events + len(prepared.rows) <= GROUP_EVENTS_MAX
            and self._bytes + prepared.size_bytes <= GROUP_BYTES_MAX
        )

    def add(self, pending: Pending) -> None:
        prepared = pending.encoded.prepared
        self.members.append(pending)
        self._events += len(prepared.rows)
        self._bytes += prepared.size_bytes


def _tokens(pending: Pending) -> Iterator[Token]:
    """Yield all that others may wait for while a command is in flight."""
    for stream in pending.writes:
        yield ("stream", stream)
    yield ("answer", *pending.answer)
    for key, holder, exclusive in pending.changes:
        yield ("holding", key, holder)
        yield ("key", key)
        if exclusive:
            yield ("exclusive", key)
