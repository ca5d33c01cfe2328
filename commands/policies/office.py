"""The office of the policies: one process at a time holds it, and only its holder may append.

Taking it over appends `policy.elected`; every append of the holder reads that stream's version, so
that one who lost the office fails at the next move (contract B).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from commands.kernel.command import Context
from events.envelope import NewEvent, Recorded
from events.log.port import Append, Appended, Claimed, Conflict, Log
from events.types.policy import PolicyElected

POLICY = "operations"
STREAM = f"policy/{POLICY}"

log = structlog.get_logger(__name__)
ContextSource = Callable[[str], Context]
"""Gives a fresh context for an actor."""


class SupersededError(Exception):
    """Another process took the policy over: this one must end."""

    def __init__(self) -> None:
        super().__init__(f"policy {POLICY} was taken over by another process")


class Office:
    """A process's claim to make the policies' moves. `process` names it in the log."""

    def __init__(self, events: Log, source: ContextSource, process: str) -> None:
        self._log = events
        self._source = source
        self._process = process
        self._version = 0

    def context(self) -> Context:
        """Return a fresh context for a move."""
        return self._source(STREAM)

    async def take(self) -> None:
        """Take the office over."""
        while True:
            stored = await self._log.load(STREAM)
            version = stored[-1].version if stored else 0
            elected = NewEvent(STREAM, PolicyElected(policy=POLICY, process=self._process))
            outcome = await self._commit(self.context(), {STREAM: version}, (elected,))
            if isinstance(outcome, Appended):
                self._version = version + 1
                log.info("policies taken over", process=self._process, position=outcome.last)
                return

    def look(self, recorded: Recorded) -> None:
        """Notice in the log that another took over: SupersededError."""
        if recorded.stream == STREAM and recorded.version > self._version:
            raise SupersededError

    async def append(
        self,
        context: Context,
        reads: dict[str, int],
        events: Iterable[NewEvent],
        correlation: str | None = None,
    ) -> Appended | Claimed | Conflict:
        """Append as the holder; SupersededError where the office is another's."""
        reads = reads | {STREAM: self._version}
        outcome = await self._commit(context, reads, events, correlation)
        if isinstance(outcome, Conflict) and outcome.stream == STREAM:
            raise SupersededError
        return outcome

    async def _commit(
        self,
        context: Context,
        reads: dict[str, int],
        events: Iterable[NewEvent],
        correlation: str | None = None,
    ) -> Appended | Claimed | Conflict:
        outcome = await self._log.append(
            Append(
                command=context.command,
                principal=STREAM,
                actor=context.actor,
                reads=reads,
                events=tuple(events),
                correlation=correlation,
                causation=f"{STREAM}@{self._version}" if correlation else None,
                time=context.time,
            )
        )
        if isinstance(outcome, Appended | Claimed | Conflict):
            return outcome
        message = f"an append under a fresh command id met {outcome}"
        raise RuntimeError(message)
