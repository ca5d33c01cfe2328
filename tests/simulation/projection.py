"""The inventory's own fold as a consumer that dies, stands still and is doubled like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from events.codec import CODEC
from events.log.memory import MemoryLog
from events.log.port import LogReader
from events.stream.direct import DirectStream
from events.stream.port import START, Cursor, OtherLogError
from projections.folder import Folder
from projections.store import Changes, FencedError
from projections.views.table import Table
from projections.views.tables import TABLES, VMS
from tests.simulation.loop import Freezer
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

LIMIT = 37
KEYS = {table.name: 0 for table in TABLES} | {"events": 0, "removed": 1}
_TABLES = {table.name: table for table in TABLES}


class MemoryStore:
    """The tables of an inventory; each write takes effect whole, with its position, or not."""

    def __init__(self) -> None:
        self.cursor = START
        self.rows: dict[str, dict[Any, tuple[Any, ...]]] = {name: {} for name in KEYS}
        self.audits_written = 0

    async def place(self) -> tuple[Cursor, str]:
        await asyncio.sleep(0)
        return self.cursor, ""

    async def load_all(self, table: Table[Any]) -> list[Any]:
        return await self.load(table, self.rows[table.name])

    async def load(self, table: Table[Any], ids: Iterable[str]) -> list[Any]:
        await asyncio.sleep(0)
        rows = self.rows[table.name]
        return [table.decoder.decode(rows[one][-1]) for one in sorted(ids) if one in rows]

    async def vms_on(self, hosts: Iterable[str]) -> list[Any]:
        return await self._vms_where("host_id", hosts)

    async def vms_in(self, clusters: Iterable[str]) -> list[Any]:
        return await self._vms_where("cluster_id", clusters)

    async def _vms_where(self, column: str, values: Iterable[str]) -> list[Any]:
        await asyncio.sleep(0)
        wanted, place = set(values), list(VMS.columns).index(column)
        rows = sorted(self.rows["vms"].items())
        return [VMS.decoder.decode(row[-1]) for _, row in rows if row[place] in wanted]

    async def complete_audits(self) -> None:
        await asyncio.sleep(0)

    async def write(self, changes: Sequence[Changes], before: Cursor, after: Cursor) -> None:
        await asyncio.sleep(0)
        if self.cursor.position != before.position:
            raise FencedError(f"the inventory is not at position {before.position}")
        for change in changes:
            table = self.rows[change.part.table]
            for gone in change.removed:
                table.pop(gone, None)
            for row in change.rows:
                key = row[KEYS[change.part.table]]
                if change.part.insert_only and change.part.table == "events" and key in table:
                    raise AssertionError(f"audit record {key} is written twice")
                table[key] = row
        self.cursor = after
        await asyncio.sleep(0)  # whoever dies here does not know whether it was written


class Projection(Process):
    """The projector's process over a store that outlives it."""

    def __init__(self, world: World) -> None:
        super().__init__(Freezer())
        self._world = world
        self.store = MemoryStore()
        self.reseeds = 0

    def start(self) -> None:
        """Start the process, or a second one beside it."""
        self.begin(self._run(self._world.connection))

    def follow_another_log(self) -> None:
        """Start anew, on the log that is there now."""
        self.kill()
        self.start()

    async def _run(self, log: LogReader) -> None:
        while True:
            folder = Folder(self.store, CODEC, cached_max=self._world.dice.choice([2, 50]))  # type: ignore[arg-type]
            try:
                await folder.load()
                source = DirectStream(log).batches(folder.cursor, LIMIT)
                async with aclosing(source) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        await folder.take(batch)
            except OtherLogError:
                self.store = MemoryStore()
                self.reseeds += 1
            except FencedError:
                await asyncio.sleep(1.0)


async def rebuilt(log: MemoryLog) -> MemoryStore:
    """Return what a build in one go makes of the log."""
    store = MemoryStore()
    folder = Folder(store, CODEC, building=True)  # type: ignore[arg-type]
    await folder.load()
    async with aclosing(DirectStream(log).batches(START)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            await folder.take(batch)
            if batch.cursor.position == await log.head():
                break
    await folder.flush()
    return store


def differences(store: MemoryStore, other: MemoryStore) -> list[str]:
    """Return where two inventories differ."""
    found = [] if store.cursor.position == other.cursor.position else ["they are not as far"]
    for name, rows in store.rows.items():
        if name not in _TABLES and name != "events":
            continue
        others = other.rows[name]
        found += [
            f"{name} {key}: {rows.get(key)} and {others.get(key)}"
            for key in sorted(rows.keys() | others.keys())
            if rows.get(key) != others.get(key)
        ]
    return found
