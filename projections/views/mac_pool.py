"""The inventory's view of MAC pools."""

from __future__ import annotations

import msgspec

from events.envelope import Recorded
from events.types import mac_pool as e
from events.types.base import Event
from projections.views.parts import Changes, Time, View


class MacPoolDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A MAC pool as the API shows it. `addresses` is how many its ranges hold.

    `level` says how full it was when a NIC last got an address of it, or its ranges changed.
    Clusters without a pool of their own use the `default` one.
    """

    id: str
    name: str
    description: str
    ranges: tuple[e.MacRange, ...]
    addresses: int
    allow_duplicates: bool
    default: bool
    level: e.PoolLevel = e.PoolLevel.ENOUGH
    configuration_version: int = 1
    version: int
    created_at: Time
    created_by: str
    updated_at: Time
    updated_by: str


def _create(event: e.MacPoolCreated, recorded: Recorded) -> MacPoolDocument:
    return MacPoolDocument(
        id=recorded.object_id,
        name=event.name,
        description=event.description,
        ranges=event.ranges,
        addresses=e.size_of(event.ranges),
        allow_duplicates=event.allow_duplicates,
        default=recorded.object_id == e.DEFAULT_POOL,
        version=recorded.version,
        created_at=recorded.time,
        created_by=recorded.actor,
        updated_at=recorded.time,
        updated_by=recorded.actor,
    )


def _updated(document: MacPoolDocument, event: e.MacPoolUpdated, recorded: Recorded) -> Changes:
    return {
        "name": event.name,
        "description": event.description,
        "ranges": event.ranges,
        "addresses": e.size_of(event.ranges),
        "allow_duplicates": event.allow_duplicates,
        "configuration_version": document.configuration_version + 1,
    }


def _almost_empty(document: MacPoolDocument, event: Event, recorded: Recorded) -> Changes:
    return {"level": e.PoolLevel.ALMOST_EMPTY}


def _empty(document: MacPoolDocument, event: Event, recorded: Recorded) -> Changes:
    return {"level": e.PoolLevel.EMPTY}


def _refilled(document: MacPoolDocument, event: Event, recorded: Recorded) -> Changes:
    return {"level": e.PoolLevel.ENOUGH}


VIEW: View[MacPoolDocument] = View(
    "mac_pool",
    MacPoolDocument,
    created=e.MacPoolCreated,
    create=_create,
    changes={
        e.MacPoolUpdated: _updated,
        e.MacPoolAlmostEmpty: _almost_empty,
        e.MacPoolEmpty: _empty,
        e.MacPoolRefilled: _refilled,
    },
    removed=e.MacPoolRemoved,
)
