"""The handler: load what a decision asks for, decide, append; on a conflict decide again."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from commands.kernel.command import Context, Decision
from commands.kernel.fold import Fold, Loaded, MissingStreamError, World
from commands.kernel.refusal import (
    InUse,
    KeyReusedWithOtherBody,
    NameTaken,
    Refusal,
    TooMuchContention,
)
from events.codec import CODEC
from events.envelope import Recorded
from events.log.port import Append, Appended, Claimed, Conflict, KeyReused, Log, Outcome, Snapshot
from events.types.base import type_of

MAC = "mac/"
"""What the claims of MAC addresses begin with."""
ATTEMPTS_MAX = 5
CACHED_STREAMS_MAX = 50_000
SNAPSHOT_EVENTS = 50
"""A stream of which more than this many events had to be read gets a snapshot: writing one takes as
long as reading so many.
"""


class Repository:
    """Loads streams as folded states, from a cache, a snapshot and the log's newer events."""

    def __init__(
        self,
        log: Log,
        cached_streams_max: int = CACHED_STREAMS_MAX,
        known: Callable[[str], Loaded | None] | None = None,
    ) -> None:
        self._log = log
        self._known_elsewhere = known or _nothing
        self._cached: collections.OrderedDict[str, Loaded] = collections.OrderedDict()
        self._cached_streams_max = cached_streams_max
        self._folds: dict[str, Fold[Any]] = {}

    async def load(self, folds: dict[str, Fold[Any]], *, fresh: bool = True) -> dict[str, Loaded]:
        """Return the state of each stream, each by its fold.

        `fresh` asks the log for what is newer; else what is cached is taken as it is: it may lag,
        which an append that reads it finds out.
        """
        if fresh:
            return await self._newest(folds)
        cached = {
            stream: loaded for stream in folds if (loaded := self._at_hand(stream)) is not None
        }
        missing = {stream: fold for stream, fold in folds.items() if stream not in cached}
        return cached | (await self._newest(missing) if missing else {})

    def take(self, stream: str, recorded: Sequence[Recorded]) -> None:
        """Bring what is cached of a stream up to date with events that were just appended."""
        loaded = self._cached.get(stream)
        fold = self._folds.get(stream.partition("/")[0])
        if fold is None or (loaded is None and recorded[0].version != 1):
            return
        version, state = (loaded.version, loaded.state) if loaded is not None else (0, None)
        for one in recorded:
            if one.version == version + 1:
                version, state = one.version, fold.evolve(state, one)
        self._remember(stream, Loaded(version, state))

    def follow(self, recorded: Recorded) -> None:
        """Bring what is cached of a stream up to date with an event that was read from the log."""
        if recorded.stream in self._cached:
            self.take(recorded.stream, (recorded,))

    async def _newest(self, folds: dict[str, Fold[Any]]) -> dict[str, Loaded]:
        self._folds |= {fold.kind: fold for fold in folds.values()}
        known = {
            stream: loaded for stream in folds if (loaded := self._at_hand(stream)) is not None
        }
        found = await self._log.load_newest(
            {stream: fold.schema_hash for stream, fold in folds.items() if stream not in known},
            {stream: loaded.version for stream, loaded in known.items()},
        )
        result: dict[str, Loaded] = {}
        for stream in sorted(folds):
            snapshot, newer = found[stream].snapshot, found[stream].events
            loaded = known.get(stream) or _taken_up(snapshot, folds[stream])
            version, state = loaded.version, loaded.state
            for stored in newer:
                state = folds[stream].evolve(state, CODEC.decode(stored))
                version = stored.version
            result[stream] = Loaded(version, state)
            self._remember(stream, result[stream])
            if len(newer) > SNAPSHOT_EVENTS:
                await self._save(stream, folds[stream], result[stream], newer[-1].position)
        return result

    def forget(self, streams: Iterable[str]) -> None:
        """Drop streams from the cache."""
        for stream in streams:
            self._cached.pop(stream, None)

    def _at_hand(self, stream: str) -> Loaded | None:
        return self._cached.get(stream) or self._known_elsewhere(stream)

    async def _save(self, stream: str, fold: Fold[Any], loaded: Loaded, position: int) -> None:
        if loaded.state is None:
            return
        await self._log.save_snapshot(
            Snapshot(
                name=stream,
                schema_hash=fold.schema_hash,
                position=position,
                version=loaded.version,
                state=msgspec.json.encode(loaded.state),
            )
        )

    def _remember(self, stream: str, loaded: Loaded) -> None:
        if loaded.version == 0:
            return
        self._cached[stream] = loaded
        self._cached.move_to_end(stream)
        while len(self._cached) > self._cached_streams_max:
            self._cached.popitem(last=False)


def _nothing(_stream: str) -> None:
    return None


def _taken_up(snapshot: Snapshot | None, fold: Fold[Any]) -> Loaded:
    if snapshot is None:
        return Loaded(0, None)
    return Loaded(snapshot.version, msgspec.json.decode(snapshot.state, type=fold.state))


class Decide(Protocol):
    """Something that decides over a world: a command, or a policy's step."""

    def __call__(self, world: World, context: Context) -> Decision:
        """Return the decision, or raise a Refusal."""
        ...


class ContextSource(Protocol):
    """Where time, ids and random numbers come from."""

    def __call__(self) -> Context:
        """Return a fresh context (a decision that is made anew gets the same command id)."""
        ...


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an accepted command: the stored answer, and the last position it wrote."""

    answer: bytes
    position: int
    repeated: bool
    decision: Decision | None


class Handler:
    """Runs decisions against the log.

    `known` tells of streams that another fold of this process follows: they need not be read.
    """

    def __init__(self, log: Log, known: Callable[[str], Loaded | None] | None = None) -> None:
        self._log = log
        self._repository = Repository(log, known=known)

    async def decide(
        self,
        decide: Decide,
        context: Context,
        reads: dict[str, Fold[Any]] | None = None,
        *,
        fresh: bool = True,
    ) -> tuple[Decision, dict[str, int]]:
        """Return the decision and what it read; raises what the decision raises.

        Without `fresh` it may rest on a state that lags: then only its append can be trusted, and
        neither a refusal nor an empty decision that is not appended.
        """
        folds: dict[str, Fold[Any]] = dict(reads or {})
        loaded = await self._repository.load(folds, fresh=fresh) if folds else {}
        while True:
            world = World(loaded)
            try:
                decision = decide(world, context)
            except MissingStreamError as missing:
                folds[missing.stream] = missing.fold
                wanted = {missing.stream: missing.fold}
                loaded |= await self._repository.load(wanted, fresh=fresh)
                continue
            for stream in reads or {}:
                world.reads.setdefault(stream, loaded[stream].version)
            for event in decision.events:
                world.reads.setdefault(event.stream, 0)
            return decision, world.reads

    def follow(self, recorded: Recorded) -> None:
        """Take in what others append, from whoever reads the log anyway: fewer decisions lag."""
        self._repository.follow(recorded)

    def forget(self, streams: Iterable[str]) -> None:
        """Drop streams from the cache: they changed behind it."""
        self._repository.forget(streams)

    async def handle(
        self,
        decide: Decide,
        source: ContextSource,
        *,
        principal: str,
        key: str | None = None,
        body_mac: bytes = b"",
    ) -> Accepted:
        """Decide, and append the events; raises a Refusal, Overloaded or Unavailable.

        The same key with the same body gives the stored answer, whatever happened since.
        """
        context = source()
        try:
            decided = await self._decide_quickly(decide, context)
            return await self._append(
                decide, source, context, decided, principal=principal, key=key, body_mac=body_mac
            )
        except Refusal:
            # The append finds a key that was used before; what is refused never comes to it.
            stored = await self._stored(principal, key, body_mac)
            if stored is None:
                raise
            return stored

    async def _stored(self, principal: str, key: str | None, body_mac: bytes) -> Accepted | None:
        """Return what came of a command that was accepted under this key before, if one was."""
        stored = await self._log.answer(principal, key) if key is not None else None
        if key is None or stored is None:
            return None
        if stored.body_mac != body_mac:
            raise _key_reused(key)
        last = stored.first + stored.count - 1
        return Accepted(answer=stored.answer, position=last, repeated=True, decision=None)

    async def take(
        self, decide: Decide, source: ContextSource, *, principal: str, key: str
    ) -> Accepted | None:
        """Decide, and append the events that follow; None where none do, by the newest state.

        For what others report, again and again: whether the key was used before is left to the
        append to find out.
        """
        context = source()
        try:
            decided = await self.decide(decide, context, fresh=False)
        except Refusal:
            decided = await self.decide(decide, context)
        else:
            if not decided[0].events:
                decided = await self.decide(decide, context)
        if not decided[0].events:
            return None
        return await self._append(decide, source, context, decided, principal=principal, key=key)

    async def _append(
        self,
        decide: Decide,
        source: ContextSource,
        context: Context,
        decided: tuple[Decision, dict[str, int]],
        *,
        principal: str,
        key: str | None,
        body_mac: bytes = b"",
    ) -> Accepted:
        """Append what was decided; on a conflict decide again."""
        drawn_again: set[str] = set()
        for _attempt in range(ATTEMPTS_MAX):
            decision, reads = decided
            answer = render(decision)
            outcome = await self._log.append(
                Append(
                    command=context.command,
                    principal=principal,
                    actor=context.actor,
                    key=key,
                    body_mac=body_mac,
                    reads=reads,
                    events=decision.events,
                    answer=answer,
                    correlation=(
                        decision.operation or decision.correlation or str(context.command)
                    ),
                    time=context.time,
                )
            )
            if isinstance(outcome, Claimed) and not _may_draw_again(outcome, drawn_again):
                raise refusal_of(outcome)
            accepted = self._accepted(outcome, decision, reads)
            if accepted is not None:
                self._remember(outcome, decision, reads, context)
                return accepted
            context = msgspec.structs.replace(
                source(),
                command=context.command,
                macs_refused=tuple(sorted(key.removeprefix(MAC) for key in drawn_again)),
            )
            # What is at hand may lag still, and would only meet the same conflict.
            decided = await self.decide(decide, context)
        raise TooMuchContention(
            "The object was changed by others while this was decided, again and again.",
            remedy="Try again.",
        )

    async def _decide_quickly(
        self, decide: Decide, context: Context
    ) -> tuple[Decision, dict[str, int]]:
        """Decide on what is cached, whose age the append finds out; refuse on what is fresh."""
        try:
            return await self.decide(decide, context, fresh=False)
        except Refusal:
            return await self.decide(decide, context)

    def _remember(
        self, outcome: Outcome, decision: Decision, reads: dict[str, int], context: Context
    ) -> None:
        """Fold what was just appended into what is cached, so that the next need not load it."""
        if not isinstance(outcome, Appended) or outcome.repeated:
            return
        versions = dict(reads)
        streams: dict[str, list[Recorded]] = {}
        for offset, new in enumerate(decision.events):
            versions[new.stream] += 1
            streams.setdefault(new.stream, []).append(
                Recorded(
                    position=outcome.first + offset,
                    stream=new.stream,
                    version=versions[new.stream],
                    name=type_of(type(new.event)).name,
                    event=new.event,
                    time=outcome.time,
                    actor=context.actor,
                    command=context.command,
                    correlation=(
                        decision.operation or decision.correlation or str(context.command)
                    ),
                    addressee=new.addressee,
                )
            )
        for stream, recorded in streams.items():
            self._repository.take(stream, recorded)

    def _accepted(
        self, outcome: Outcome, decision: Decision, reads: dict[str, int]
    ) -> Accepted | None:
        match outcome:
            case Appended():
                return Accepted(
                    answer=outcome.answer,
                    position=outcome.last,
                    repeated=outcome.repeated,
                    decision=None if outcome.repeated else decision,
                )
            case KeyReused():
                raise _key_reused(outcome.key)
            case Conflict():
                self._repository.forget([*reads, outcome.stream])
                return None
            case Claimed():
                return None


def _may_draw_again(claimed: Claimed, drawn_again: set[str]) -> bool:
    """Tell whether what was claimed may be a number that was drawn, and is drawn anew.

    A MAC address that the admin gave comes again with the next decision, and is refused then.
    """
    if not claimed.key.startswith(MAC) or claimed.key in drawn_again:
        return False
    drawn_again.add(claimed.key)
    return True


def refusal_of(claimed: Claimed) -> NameTaken | InUse:
    """Return the refusal that says who holds what the command wanted."""
    kind, _, rest = claimed.key.partition("/")
    holder = claimed.holder
    if kind.endswith(".name"):
        what = kind.removesuffix(".name").replace("_", " ")
        name = rest.rpartition("/")[2]
        return NameTaken(
            f"Another {what} has the name {name}.",
            remedy="Choose another name; names differ by more than upper and lower case.",
            holder=holder,
        )
    if claimed.key.startswith(MAC):
        return InUse(
            f"MAC address {rest} is in use by {holder}.",
            remedy="Choose another address, or give none: then the cluster's MAC pool gives one.",
            holder=holder,
        )
    if claimed.key.endswith("/gate"):
        return InUse(
            "The host takes no VMs: it is in maintenance, or being prepared for it.",
            remedy="Activate the host, or choose another.",
            holder=holder,
        )
    return InUse(
        f"{claimed.key} is in use by {holder}.",
        remedy=f"Remove or move {holder} first.",
        holder=holder,
    )


def render(decision: Decision) -> bytes:
    """Return the answer's body that is stored with the events."""
    body: dict[str, Any] = {"id": decision.id, **decision.extra}
    if decision.operation is not None:
        body["operation"] = decision.operation
    return msgspec.json.encode(body)


def _key_reused(key: str) -> KeyReusedWithOtherBody:
    return KeyReusedWithOtherBody(
        f"Idempotency-Key {key} was used for another request.",
        remedy="Use a new key for a new request, or repeat the old one exactly.",
    )
