"""Folding batches into a store: what a batch needs is loaded, folded in memory, and written once.

Hosts, clusters, data centers and affinity stay in memory, since they are few and every VM refers to
them; VMs and operations are kept as long as there is room, the ones that changed last.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from events.codec import Codec, UnknownEventError
from events.envelope import Recorded, Stored
from events.stream.port import START, Batch, Cursor
from events.types import cluster as cluster_events
from events.types import operation as operation_events
from events.types.base import Event
from projections.store import Changes, Store, audits_of, changes_of
from projections.views import host
from projections.views.inventory import Inventory
from projections.views.small_tables import (
    AFFINITY_GROUPS,
    AFFINITY_LABELS,
    MAC_POOLS,
    SCHEDULING_POLICIES,
)
from projections.views.tables import CLUSTERS, DATA_CENTERS, HOSTS, OPERATIONS, VMS
from projections.views.telling import is_mute

CACHED_MAX = 20_000
"""How many VMs, and how many operations, are kept in memory between batches."""

BUILD_OPERATIONS_MAX = 50_000
BUILD_VMS_MAX = 200_000
"""The same while an inventory is built (some 6 kB a VM). As long as all VMs fit, each is written
once, at the end, however often it changed. Operations come and go, and change no more once they
have ended: those that changed last stay, the others are written and let go.
"""

UNWRITTEN_MAX = 50_000
"""How many changed operations a build keeps before it writes them."""

EVENTS_AT_ONCE = 500
"""How many events are folded before others on the event loop have their turn."""

RELAXED_OBJECTS = 200_000
"""How many objects are made between two looks of the collector during a build."""


def renamed(event: Event) -> bool:
    """Tell whether an event gives a cluster another name, which all of its VMs show."""
    return isinstance(event, cluster_events.ClusterUpdated) and event.previous_name is not None


def _shrink(documents: dict[str, Any], most: int) -> bool:
    """Let go of the documents that changed the longest ago; tell whether any went."""
    too_many = len(documents) - most
    for _ in range(too_many):
        documents.pop(next(iter(documents)))
    return too_many > 0


@contextlib.contextmanager
def collector_relaxed() -> Iterator[None]:
    """Let the collector of reference cycles look around seldom within the block (a build)."""
    before = gc.get_threshold()
    gc.set_threshold(RELAXED_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's collector of reference cycles from running within the block.

    Folding makes very many objects and no cycles: the collector would look through all of them
    again and again, for nearly half of the time. There is no await within such a block.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


class BrokenStreamError(Exception):
    """The stream left events out, which it promises not to: nothing after them may be folded."""


class Folder:
    """Folds a stream's batches into a store, from where the store is.

    Without `building`, `take` returns when the batch is written. With it, for a store that nobody
    reads yet and that is empty, the audit records of a batch are being written while the next one
    is folded, operations once there are many, and all else with `flush`. `cached_max` is how many
    VMs, and how many operations, are kept; `vms_max` how many VMs, where that is another number.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec,
        *,
        building: bool = False,
        cached_max: int | None = None,
        vms_max: int | None = None,
        unwritten_max: int = UNWRITTEN_MAX,
    ) -> None:
        self.store = store
        self.cursor: Cursor = START
        """Up to where events are folded; `written` follows once they are in the database."""
        self.written: Cursor = START
        self._codec = codec
        self._building = building
        # Nothing there is, but what is at hand: none need be loaded.
        self._all_vms = self._all_operations = building
        self._unwritten_max = unwritten_max if building else 0
        self._last_command: uuid.UUID | None = None
        vms, operations = (
            (BUILD_VMS_MAX, BUILD_OPERATIONS_MAX) if building else (CACHED_MAX, CACHED_MAX)
        )
        self._operations_max = operations if cached_max is None else cached_max
        self._vms_max = vms_max or (vms if cached_max is None else cached_max)
        self._inventory = Inventory()
        self._writing: asyncio.Task[None] | None = None

    async def load(self) -> str:
        """Take up the store's place and what is kept in memory; return the views' schema hash."""
        self.cursor, schema_hash = await self.store.place()
        self.written = self.cursor
        for table, shelf in (
            (DATA_CENTERS, self._inventory.data_centers),
            (CLUSTERS, self._inventory.clusters),
            (HOSTS, self._inventory.hosts),
            (AFFINITY_GROUPS, self._inventory.affinity_groups),
            (AFFINITY_LABELS, self._inventory.affinity_labels),
            (MAC_POOLS, self._inventory.mac_pools),
            (SCHEDULING_POLICIES, self._inventory.scheduling_policies),
        ):
            for document in await self.store.load_all(table):
                shelf.documents[document.id] = document
        return schema_hash

    async def take(self, batch: Batch) -> None:
        """Fold a batch and write it; what is up to the cursor already is left out.

        Raises UnknownEventError once all before the unknown event is written.
        """
        stored = [event for event in batch.events if event.position > self.cursor.position]
        if not stored:
            return
        if stored[0].position != self.cursor.position + 1:
            raise BrokenStreamError(
                f"event {self.cursor.position + 1} was expected, {stored[0].position} came"
            )
        recorded, unknown = self._decode(stored)
        if recorded:
            after = batch.cursor
            if unknown is not None:
                after = Cursor(batch.cursor.log_id, recorded[-1].position)
            await self._fold(recorded, after)
        if unknown is not None:
            await self.flush()
            raise unknown

    async def flush(self) -> None:
        """Return when everything folded is written: the end of what is folded while a store is
        made, so that the database has something to do while documents are rendered.
        """
        await self._settle()
        if self._building:
            await self.store.complete_audits()
        if self._inventory.unwritten:
            await self._write(self._render(), self.cursor, self.cursor)

    async def _settle(self) -> None:
        """Return when the write that is under way is done."""
        if self._writing is not None:
            await self._writing
            self._writing = None

    async def close(self) -> None:
        """End a write that is under way."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            self._writing = None

    def _decode(self, stored: Sequence[Stored]) -> tuple[list[Recorded], UnknownEventError | None]:
        recorded: list[Recorded] = []
        decode = self._codec.decode
        with collector_paused():
            try:
                recorded.extend(map(decode, stored))  # keeps those before one that fails
            except UnknownEventError as error:
                error.add_note(f"at position {stored[len(recorded)].position}")
                return recorded, error
        return recorded, None

    async def _fold(self, recorded: list[Recorded], after: Cursor) -> None:
        inventory = self._inventory
        await self._load_for(recorded)
        for first in range(0, len(recorded), EVENTS_AT_ONCE):
            if first:
                await asyncio.sleep(0)
            with collector_paused():
                for event in recorded[first : first + EVENTS_AT_ONCE]:
                    inventory.apply(event)
        with collector_paused():
            inventory.finish()
            if not self._building or self._has_many_vms():
                changes = self._render()
            elif self._has_many_operations():
                changes = self._render_operations()
            else:
                changes = audits_of(inventory)
                inventory.audits.clear()
        await self._settle()
        before, self.cursor = self.cursor, after
        self._last_command = recorded[-1].command
        if self._building:
            self._writing = asyncio.create_task(self._write(changes, before, after))
        else:
            await self._write(changes, before, after)

    def _has_many_vms(self) -> bool:
        vms = self._inventory.vms
        if len(vms.removed) > self._unwritten_max:
            return True
        return len(vms.documents) > self._vms_max and len(vms.changed) > self._unwritten_max

    def _has_many_operations(self) -> bool:
        return len(self._inventory.operations.changed) > self._unwritten_max

    def _render(self) -> list[Changes]:
        """Return all that changed, rendered; what is kept in memory is within its bound again."""
        inventory = self._inventory
        changes = changes_of(inventory)
        inventory.written(places_known=self._all_vms)
        if _shrink(inventory.vms.documents, self._vms_max):
            self._all_vms = False
        if _shrink(inventory.operations.documents, self._operations_max):
            self._all_operations = False
        return changes

    def _render_operations(self) -> list[Changes]:
        """Return the operations that changed, and audit records, rendered; most are let go."""
        operations = self._inventory.operations
        changes = changes_of(self._inventory, (operations,))
        operations.written()
        self._inventory.audits.clear()
        if _shrink(operations.documents, self._operations_max):
            self._all_operations = False
        return changes

    async def _write(self, changes: list[Changes], before: Cursor, after: Cursor) -> None:
        await self.store.write(changes, before, after)
        self.written = after

    async def _load_for(self, recorded: list[Recorded]) -> None:
        """Load the documents that the events need and that are not at hand."""
        if self._all_vms and self._all_operations:
            return
        vms: set[str] = set()
        operations: set[str] = set()
        hosts: dict[str, list[Recorded]] = {}
        clusters: set[str] = set()
        targets: set[str] = set()
        made: set[str] = set()
        cut = recorded[0].command if self._last_command in {None, recorded[0].command} else None
        for event in recorded:
            stream = event.stream
            if stream.startswith("host/"):
                hosts.setdefault(event.object_id, []).append(event)
            if event.version == 1:
                made.add(event.object_id)
                if stream.startswith("operation/"):
                    if isinstance(event.event, operation_events.OperationStarted):
                        targets.add(event.event.target)
                elif event.command == cut:
                    # The operation that made the object may have begun before it, in the same
                    # append; it is not among these events where the batch began amid that append.
                    operations.add(str(event.command))
            elif stream.startswith("vm/"):
                vms.add(stream[3:])
            elif stream.startswith("operation/"):
                operations.add(stream[10:])
            elif renamed(event.event):
                clusters.add(event.object_id)
        known = self._inventory.operations.documents
        missing = operations - known.keys() - made
        if missing:
            await self._settle()
            for document in await self.store.load(OPERATIONS, missing):
                known[document.id] = document
        for object_id in operations:
            found = known.get(object_id)
            if found is not None and found.target.kind == "vm":
                vms.add(found.target.id)
        vms |= {target[3:] for target in targets if target.startswith("vm/")}
        turned = {host_id for host_id, events in hosts.items() if self._turns(host_id, events)}
        await self._load_vms(vms - made, turned, clusters)

    def _turns(self, host_id: str, events: list[Recorded]) -> bool:
        """Tell whether events make a host silent or heard of, so that the VMs on it are needed."""
        document = self._inventory.hosts.get(host_id)
        was = document is not None and is_mute(document)
        for recorded in events:
            document = host.evolve(document, recorded)
            if (document is not None and is_mute(document)) is not was:
                return True
        return False

    async def _load_vms(self, vms: set[str], hosts: set[str], clusters: set[str]) -> None:
        if self._all_vms:
            return
        shelf = self._inventory.vms
        vms -= shelf.documents.keys()
        if vms or hosts or clusters:
            await self._settle()
        # What was removed lies in the store until that is written, in a build for a long time.
        for found in await self.store.load(VMS, vms - shelf.removed.keys()):
            shelf.documents[found.id] = found
        for found in await self.store.vms_on(hosts):
            if found.id not in shelf.removed:
                shelf.documents.setdefault(found.id, found)
                self._inventory.on_host(found.host.id, found.id)
        for found in await self.store.vms_in(clusters):
            if found.id not in shelf.removed:
                shelf.documents.setdefault(found.id, found)
