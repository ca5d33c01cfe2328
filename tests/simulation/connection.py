"""Each process's connection to the log: what it does to a log in memory is what a database does.

It may be away, refuse for now, or break before or after what it was to do; a command that was on
its way when it broke may be appended a while later. So `UnavailableError` says nothing of what is
stored, as in `Log.append`; the same key finds out.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from commands.gateway.contacts import MemoryContacts
from commands.gateway.view import SHAPE as VIEW
from commands.policies.facts import SHAPE as FACTS
from events.envelope import Stored
from events.log.memory import MemoryLog
from events.log.port import (
    READ_EVENTS_MAX,
    Append,
    Newest,
    Outcome,
    OverloadedError,
    Snapshot,
    StoredAnswer,
    UnavailableError,
)

if TYPE_CHECKING:
    from tests.simulation.world import World

FOLDS = frozenset({VIEW.name, FACTS.name})
CONNECT_S_MAX = 5.0
LATE_S_MAX = 3.0
RETRY_AFTER_S = 0.5


class Outage(msgspec.Struct, kw_only=True):
    """How the database suffers: whether it is away; and probabilities.

    `full`: an append finds the queue full. `broken`: the connection breaks before anything is done;
    `unheard`: when it is done, and the answer is lost; `late`: with an append on its way, which is
    carried out some time later.
    """

    away: bool = False
    full: float = 0.0
    broken: float = 0.0
    unheard: float = 0.0
    late: float = 0.0

    @property
    def there(self) -> bool:
        """Whether anything goes wrong at all: without, no dice are thrown."""
        return self.away or bool(self.full or self.broken or self.unheard or self.late)


class Connection:
    """A `Log` over a log in memory; the world counts what was met, and snapshots taken up."""

    def __init__(self, world: World, log: MemoryLog) -> None:
        self._world = world
        self._log = log

    @property
    def log_id(self) -> uuid.UUID:
        """See `LogReader.log_id`."""
        return self._log.log_id

    async def append(self, append: Append) -> Outcome:
        """See `Log.append`."""
        outage, dice = self._world.outage, self._world.dice
        if not outage.there:
            return await self._log.append(append)
        await self._pass()
        if dice.random() < outage.full:
            self._met("full")
            raise OverloadedError(RETRY_AFTER_S)
        if dice.random() < outage.late:
            self._met("late")
            self._world.begin(self._late(append))
            raise UnavailableError("the connection broke; the command is on its way")
        outcome = await self._log.append(append)
        if dice.random() < outage.unheard:
            self._met("unheard")
            raise UnavailableError("the connection broke; the command is stored")
        return outcome

    async def answer(self, principal: str, key: str) -> StoredAnswer | None:
        """See `Log.answer`."""
        await self._pass()
        return await self._log.answer(principal, key)

    async def head(self) -> int:
        """See `LogReader.head`."""
        await self._pass()
        return await self._log.head()

    async def read(self, after: int, limit: int = READ_EVENTS_MAX) -> Sequence[Stored]:
        """See `LogReader.read`."""
        await self._pass()
        return await self._log.read(after, limit)

    async def load(self, stream: str, after_version: int = 0) -> Sequence[Stored]:
        """See `LogReader.load`."""
        await self._pass()
        return await self._log.load(stream, after_version)

    async def load_many(self, after_versions: Mapping[str, int]) -> dict[str, Sequence[Stored]]:
        """See `LogReader.load_many`."""
        await self._pass()
        return await self._log.load_many(after_versions)

    async def load_newest(
        self, schema_hashes: Mapping[str, str], after_versions: Mapping[str, int]
    ) -> dict[str, Newest]:
        """See `LogReader.load_newest`."""
        await self._pass()
        return await self._log.load_newest(schema_hashes, after_versions)

    async def addressed(self, host: str, after: int, limit: int) -> Sequence[Stored]:
        """See `LogReader.addressed`."""
        await self._pass()
        return await self._log.addressed(host, after, limit)

    async def position_at(self, time: dt.datetime) -> int:
        """See `LogReader.position_at`."""
        await self._pass()
        return await self._log.position_at(time)

    async def wait(self, after: int, timeout_s: float) -> int:
        """See `LogReader.wait`: it looks for itself, and raises nothing."""
        return await self._log.wait(after, timeout_s)

    async def snapshot(self, name: str, schema_hash: str) -> Snapshot | None:
        """See `LogReader.snapshot`."""
        await self._pass()
        found = await self._log.snapshot(name, schema_hash)
        if found is not None:
            self._note_part(name, "taken up")
        return found

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """See `LogReader.save_snapshot`."""
        await self._pass()
        self._note_part(snapshot.name, "begun")
        await self._log.save_snapshot(snapshot)
        await asyncio.sleep(0)  # whoever dies here does not know whether it is stored

    async def _pass(self) -> None:
        """Get through to the database, or fail to."""
        outage, dice = self._world.outage, self._world.dice
        if not outage.there:
            return
        if outage.away:
            await asyncio.sleep(dice.uniform(0.0, CONNECT_S_MAX))
            self._met("away")
            raise UnavailableError("the database does not answer")
        if dice.random() < outage.broken:
            self._met("broken")
            raise UnavailableError("the connection broke")

    async def _late(self, append: Append) -> None:
        """Carry out what was on its way when the connection broke, whoever has died since."""
        await asyncio.sleep(self._world.dice.uniform(0.0, LATE_S_MAX))
        await self._log.append(append)

    def _note_part(self, name: str, what: str) -> None:
        """Count a fold's snapshot by its first chunk, and as whole by its head, which is last."""
        fold, *rest = name.split("/")
        if fold in FOLDS and len(rest) == 2 and rest[1] == "0":
            self._met(f"snapshots of {fold} {what}")
        elif fold in FOLDS and len(rest) == 1 and what == "begun":
            self._met(f"snapshots of {fold} whole")

    def _met(self, what: str) -> None:
        self._world.met[what] += 1


class ContactsOverConnection(MemoryContacts):
    """The table of contacts, which all engines share, and which lies in the same database."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def store(self, heard: Mapping[str, dt.datetime]) -> None:
        """See `Contacts.store`."""
        self._pass()
        await super().store(heard)

    async def read(self) -> dict[str, dt.datetime]:
        """See `Contacts.read`."""
        self._pass()
        return await super().read()

    def _pass(self) -> None:
        outage = self._world.outage
        if outage.away or (outage.there and self._world.dice.random() < outage.broken):
            raise UnavailableError("the database does not answer")
