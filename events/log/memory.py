"""A log in memory, under the same contract as PostgreSQL's: for unit tests, and for dry runs."""

from __future__ import annotations

import asyncio
import bisect
import datetime as dt
import uuid
from collections.abc import Mapping, Sequence

from events.codec import CODEC, Codec
from events.envelope import Stored
from events.log.claims import ClaimTable, Holding
from events.log.port import (
    READ_EVENTS_MAX,
    Append,
    Appended,
    Claimed,
    Conflict,
    KeyReused,
    Newest,
    Outcome,
    Snapshot,
    StoredAnswer,
)
from events.log.preparation import Prepared, prepare


class MemoryLog:
    """A `Log` that forgets everything with its process. One event loop at a time may use it."""

    def __init__(self, log_id: uuid.UUID | None = None, codec: Codec = CODEC) -> None:
        self._log_id = log_id if log_id is not None else uuid.uuid4()
        self._codec = codec
        self._events: list[Stored] = []
        self._times: list[dt.datetime] = []
        self._streams: dict[str, list[Stored]] = {}
        self._addressed: dict[str, list[Stored]] = {}
        self._claims = ClaimTable()
        self._answers: dict[tuple[str, str], StoredAnswer] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def log_id(self) -> uuid.UUID:
        """The log's identity."""
        return self._log_id

    def claims(self) -> dict[tuple[str, str], Holding]:
        """Return the table of claims: (key, holder) to holding."""
        return self._claims.rows()

    async def append(self, append: Append) -> Outcome:
        """Append one command; see `Log.append`."""
        prepared = prepare(append, self._codec)
        outcome = self._refusal_or_repeat(prepared)
        if outcome is None:
            outcome = self._accept(prepared)
            self._wake()
        await asyncio.sleep(0)  # as with a database, others run before the answer is there
        return outcome

    async def answer(self, principal: str, key: str) -> StoredAnswer | None:
        """Return the stored answer of a command, or None if it was not accepted."""
        return self._answers.get((principal, key))

    async def head(self) -> int:
        """Return the position of the last event, 0 for an empty log."""
        return len(self._events)

    async def read(self, after: int, limit: int = READ_EVENTS_MAX) -> Sequence[Stored]:
        """Return events at positions after + 1 .., without a gap, at most `limit` of them."""
        return self._events[after : after + limit]

    async def load(self, stream: str, after_version: int = 0) -> Sequence[Stored]:
        """Return the events of a stream after a version, in order."""
        return self._streams.get(stream, [])[after_version:]

    async def load_many(self, after_versions: Mapping[str, int]) -> dict[str, Sequence[Stored]]:
        """Return, for each stream named, its events after the version given, as of one instant."""
        return {
            stream: self._streams.get(stream, [])[after:]
            for stream, after in after_versions.items()
        }

    async def load_newest(
        self, schema_hashes: Mapping[str, str], after_versions: Mapping[str, int]
    ) -> dict[str, Newest]:
        """Return, for each stream named, what its fold needs that has nothing of it, or a version.

        Of the streams in `schema_hashes` that is the newest snapshot of that schema, where there is
        one, and the events behind it; of those in `after_versions` the events after the version.
        """
        found: dict[str, Newest] = {}
        for stream, schema_hash in schema_hashes.items():
            snapshot = await self.snapshot(stream, schema_hash)
            after = snapshot.version if snapshot is not None else 0
            found[stream] = Newest(snapshot, self._streams.get(stream, [])[after:])
        for stream, after in after_versions.items():
            found[stream] = Newest(None, self._streams.get(stream, [])[after:])
        return found

    async def addressed(self, host: str, after: int, limit: int) -> Sequence[Stored]:
        """Return the events addressed to a host after a position, in order."""
        events = self._addressed.get(host, [])
        start = bisect.bisect_right(events, after, key=lambda stored: stored.position)
        return events[start : start + limit]

    async def position_at(self, time: dt.datetime) -> int:
        """Return the last position whose time is not after `time`; 0 if there is none."""
        return bisect.bisect_right(self._times, time)

    async def wait(self, after: int, timeout_s: float) -> int:
        """Wait until the head is beyond `after`, at most `timeout_s`; return the head."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while len(self._events) <= after and (left_s := deadline - loop.time()) > 0:
            woken = loop.create_future()
            self._waiting.add(woken)
            try:
                # Not wait_for: before Python 3.12 it forgets a cancellation that comes with a word.
                async with asyncio.timeout(left_s):
                    await woken
            except TimeoutError:
                break
            finally:
                self._waiting.discard(woken)
        return len(self._events)

    async def snapshot(self, name: str, schema_hash: str) -> Snapshot | None:
        """Return the newest snapshot of a fold, or None; one of another schema is discarded."""
        snapshot = self._snapshots.get(name)
        return snapshot if snapshot is not None and snapshot.schema_hash == schema_hash else None

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """Store a snapshot; an older one of the same schema than what is stored is ignored."""
        stored = self._snapshots.get(snapshot.name)
        if (
            stored is None
            or stored.schema_hash != snapshot.schema_hash
            or stored.position < snapshot.position
        ):
            self._snapshots[snapshot.name] = snapshot

    def _refusal_or_repeat(self, prepared: Prepared) -> Outcome | None:
        """Return the outcome of a command that stores nothing; None if it is to be accepted."""
        append = prepared.append
        known = self._answers.get((append.principal, prepared.key))
        if known is not None:
            if known.body_mac != append.body_mac:
                return KeyReused(key=prepared.key)
            return Appended(
                first=known.first,
                count=known.count,
                time=known.time,
                answer=known.answer,
                repeated=True,
            )
        for stream, expected in append.reads.items():
            actual = len(self._streams.get(stream, ()))
            if actual != expected:
                return Conflict(stream=stream, expected=expected, actual=actual)
        obstacle = self._claims.obstacle(prepared.plan.needs)
        if obstacle is not None:
            return Claimed(key=obstacle.key, holder=obstacle.holder, mode=obstacle.mode)
        return None

    def _accept(self, prepared: Prepared) -> Appended:
        append = prepared.append
        first = len(self._events) + 1
        time = max([append.time.astimezone(dt.UTC), *self._times[-1:]])
        for position, row in enumerate(prepared.rows, first):
            stored = Stored(
                position=position,
                stream=row.stream,
                version=row.version,
                name=row.name,
                schema=row.schema,
                payload=row.payload,
                time=time,
                actor=append.actor,
                command=append.command,
                correlation=append.correlation,
                causation=append.causation,
                addressee=row.addressee,
            )
            self._events.append(stored)
            self._times.append(time)
            self._streams.setdefault(row.stream, []).append(stored)
            if row.addressee is not None:
                self._addressed.setdefault(row.addressee, []).append(stored)
        self._claims.apply(prepared.plan.effects)
        count = len(prepared.rows)
        self._answers[append.principal, prepared.key] = StoredAnswer(
            body_mac=append.body_mac, answer=append.answer, first=first, count=count, time=time
        )
        return Appended(first=first, count=count, time=time, answer=append.answer)

    def _wake(self) -> None:
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)
