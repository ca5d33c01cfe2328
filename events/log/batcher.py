"""Which waiting commands go into the next group: pure, and without ever rescanning the queue.

A command is held back while a stream that it reads is being written, its answer's key is in use, or
a claim that it needs or changes is being changed, by a command of the same group or of one in
flight. It then waits in a queue of that one *token*, and only the first of such a queue is looked
at when the token is free again; the next one follows if the first left the token free.
"""

from __future__ import annotations

import asyncio
from collections import deque

from events.claims import Mode
from events.log.claims import Kind
from events.log.group import Encoded
from events.log.port import GROUP_BYTES_MAX, GROUP_COMMANDS_MAX, GROUP_EVENTS_MAX, Outcome

Token = tuple[str, str, str]
"""What is in use: ("stream", id, ""), ("answer", principal, key), ("key", key, ""), ..."""


class Pending:
    """A command that waits for its outcome."""

    __slots__ = (
        "changes",
        "encoded",
        "future",
        "in_doubt",
        "needs",
        "reads",
        "since",
        "writes",
    )

    def __init__(self, encoded: Encoded, future: asyncio.Future[Outcome], since: float) -> None:
        self.encoded = encoded
        self.future = future
        self.since = since  # the loop's clock, in seconds, when it came
        self.in_doubt = False  # it was sent, and whether it was committed is not known
        append, plan = encoded.prepared.append, encoded.prepared.plan
        self.reads: list[Token] = [("stream", stream, "") for stream in append.reads]
        self.writes: list[Token] = [("answer", append.principal, append.answer_key)]
        self.writes += {("stream", row.stream, "") for row in encoded.prepared.rows}
        self.needs = [(need.key, need.kind is Kind.FREE) for need in plan.needs]
        self.changes = [
            (
                effect.key,
                effect.holder,
                effect.holding is not None and effect.holding.mode is Mode.EXCLUSIVE,
            )
            for effect in plan.effects
        ]


class Batcher:
    """The commands that wait, and what those in flight have in use."""

    def __init__(self) -> None:
        self._ready: deque[Pending] = deque()
        self._parked: dict[Token, deque[Pending]] = {}
        self._parked_count = 0
        self._freed: deque[Token] = deque()
        self._used: set[Token] = set()

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

    def take(self) -> list[Pending]:
        """Return the next group, empty if nothing can go; `done` must be called with it."""
        group = _Group()
        while self._freed:
            if not self._take_parked(self._freed[0], group):
                return group.members
            self._freed.popleft()
        while self._ready:
            pending = self._ready[0]
            if not pending.future.done():
                token = self._blocking(pending, group)
                if token is not None:
                    self._park(pending, token)
                elif group.fits(pending):
                    self._use(pending)
                    group.add(pending)
                else:
                    return group.members
            self._ready.popleft()
        return group.members

    def done(self, group: list[Pending]) -> None:
        """Free what a group had in use, whatever became of it."""
        for pending in group:
            for token in pending.writes:
                self._free(token)
            for key, holder, exclusive in pending.changes:
                self._free(("holding", key, holder))
                if exclusive:
                    self._free(("exclusive", key, ""))
                self._free(("key", key, ""))

    def _take_parked(self, token: Token, group: _Group) -> bool:
        """Take from a token's queue while the token is free; False if the group is full."""
        queue = self._parked.get(token)
        while queue:
            pending = queue[0]
            blocking = None if pending.future.done() else self._blocking(pending, group)
            if blocking == token:
                return True
            if blocking is None and not pending.future.done():
                if not group.fits(pending):
                    return False
                self._use(pending)
                group.add(pending)
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
        used = self._used
        for token in pending.reads:
            if token in used:
                return token
        answer = pending.writes[0]
        if answer in used:
            return answer
        for key, free in pending.needs:
            token = ("exclusive", key, "")
            if token in used:
                return token
            if free and key in group.changed:
                return ("key", key, "")
        for key, holder, _ in pending.changes:
            token = ("holding", key, holder)
            if token in used:
                return token
        return None

    def _use(self, pending: Pending) -> None:
        self._used.update(pending.writes)
        for key, holder, exclusive in pending.changes:
            self._used.add(("holding", key, holder))
            if exclusive:
                self._used.add(("exclusive", key, ""))

    def _free(self, token: Token) -> None:
        self._used.discard(token)
        if token in self._parked:
            self._freed.append(token)


class _Group:
    """A group being put together, within its limits."""

    def __init__(self) -> None:
        self.members: list[Pending] = []
        self.changed: set[str] = set()  # keys of claims
        self._events = 0
        self._bytes = 0

    def fits(self, pending: Pending) -> bool:
        prepared = pending.encoded.prepared
        return not self.members or (
            len(self.members) < GROUP_COMMANDS_MAX
            and self._events + len(prepared.rows) <= GROUP_EVENTS_MAX
            and self._bytes + prepared.size_bytes <= GROUP_BYTES_MAX
        )

    def add(self, pending: Pending) -> None:
        self.members.append(pending)
        self.changed.update(key for key, _, _ in pending.changes)
        self._events += len(pending.encoded.prepared.rows)
        self._bytes += pending.encoded.prepared.size_bytes
