"""Time travel: an object as it was, folded from the log by the same views.

The object's own stream is folded together with those that its document speaks of (its cluster, the
hosts that may have run it, the operations on it), in the log's order up to the position of that
time. What would take every VM's stream, the counts, is left out of such an answer (null).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import msgspec

from events.codec import CODEC
from events.envelope import Recorded
from events.log.port import UnavailableError
from events.types import affinity as affinity_events
from events.types import cluster as cluster_events
from events.types import host as host_events
from events.types import vm as vm_events
from projections.reads.context import Reads
from projections.reads.problems import InventoryUnreachable
from projections.views.inventory import Inventory
from projections.views.tables import shelves

OPERATIONS_MAX = 100
"""How many operations on an object are looked at: those open at the time, the newest first."""

_COUNTED = frozenset({"data_center", "cluster", "host"})
"""Kinds whose documents count others; what an affinity group has of that name is its own."""

_OPERATIONS = b"""
    SELECT id FROM inventory.operations
    WHERE target_id = %s AND started_at <= %s AND (ended_at IS NULL OR ended_at > %s)
    ORDER BY started_at DESC LIMIT %s
"""


async def document_at(
    reads: Reads, kind: str, object_id: str, time: dt.datetime
) -> tuple[int, bytes | None, int | None]:
    """Return the position of a time, the document then, and its configuration version.

    The document is None where the object was not there at that time.
    """
    try:
        position = await reads.log.position_at(time)
        own = await _load(reads, [f"{kind}/{object_id}"], position)
        others = _spoken_of(own)
        if kind != "operation" and own:
            rows = await reads.query(_OPERATIONS, [object_id, time, time, OPERATIONS_MAX])
            others |= {f"operation/{row[0]}" for row in rows}
        recorded = own + await _load(reads, sorted(others), position)
    except (UnavailableError, OSError, TimeoutError) as error:
        raise InventoryUnreachable(
            "The log did not answer in time.", "Try again in a moment."
        ) from error
    return (position, *_fold(recorded, kind, object_id))


async def _load(reads: Reads, streams: list[str], position: int) -> list[Recorded]:
    if not streams:
        return []
    found = await reads.log.load_many(dict.fromkeys(streams, 0))
    return [
        CODEC.decode(event)
        for events in found.values()
        for event in events
        if event.position <= position
    ]


def _spoken_of(own: Iterable[Recorded]) -> set[str]:
    """Return the streams that the document's other fields come from."""
    streams: set[str] = set()
    for recorded in own:
        match recorded.event:
            case vm_events.VmCreated(cluster=cluster):
                streams.add(f"cluster/{cluster}")
            case vm_events.VmPlaced(host=host):
                streams.add(f"host/{host}")
            case affinity_events.AffinityGroupCreated(cluster=cluster):
                streams.add(f"cluster/{cluster}")
            case host_events.HostAdded(cluster=cluster, data_center=center):
                streams |= {f"cluster/{cluster}", f"data_center/{center}"}
            case cluster_events.ClusterCreated(data_center=center):
                streams.add(f"data_center/{center}")
    return streams


def _fold(recorded: list[Recorded], kind: str, object_id: str) -> tuple[bytes | None, int | None]:
    inventory = Inventory()
    for event in sorted(recorded, key=lambda event: event.position):
        inventory.apply(event)
    for table, shelf in shelves(inventory):
        document = shelf.get(object_id)
        if table.kind == kind and document is not None:
            fields = type(document).__struct_fields__ if kind in _COUNTED else ()
            uncounted = {name: None for name in ("vms", "hosts", "clusters") if name in fields}
            document = msgspec.structs.replace(document, **uncounted)
            rendered: bytes = table.row(document, 0)[-1]
            return rendered, getattr(document, "configuration_version", None)
    return None, None
