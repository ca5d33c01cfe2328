"""What a cluster's document shows of how its VMs are moved, and of what its hosts give out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from events.envelope import Recorded
from events.types import balancing as e
from events.types.base import Event
from projections.views.parts import Change, Changes, Reference, Time

if TYPE_CHECKING:
    from projections.views.cluster import ClusterDocument


class Plan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Moves that would make things better, and the load of the hosts before and after."""

    time: Time
    moves: tuple[e.PlannedMove, ...]
    hosts: tuple[e.HostFigures, ...]


class RestingHost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A host that is in maintenance, or off, to save power, or on its way back."""

    host: Reference
    rest: e.Rest
    since: Time


def _resources_set(
    document: ClusterDocument, event: e.ClusterResourcesSet, recorded: Recorded
) -> Changes:
    return {"resources": event.resources}


def _balancing_set(
    document: ClusterDocument, event: e.ClusterBalancingSet, recorded: Recorded
) -> Changes:
    return {"balancing": event.balancing}


def _proposed(
    document: ClusterDocument, event: e.ClusterBalanceProposed, recorded: Recorded
) -> Changes:
    if not event.moves:
        return {"proposal": None}
    return {"proposal": Plan(time=recorded.time, moves=event.moves, hosts=event.hosts)}


def _begun(document: ClusterDocument, event: Event, recorded: Recorded) -> Changes:
    return {"proposal": None}


def _rest(document: ClusterDocument, event: e.ClusterHostRest, recorded: Recorded) -> Changes:
    others = tuple(each for each in document.resting_hosts if each.host.id != event.host)
    if event.rest is e.Rest.UP:
        return {"resting_hosts": others}
    host = Reference(id=event.host, name=event.host_name)
    resting = RestingHost(host=host, rest=event.rest, since=recorded.time)
    return {"resting_hosts": (*others, resting)}


def _reservation_lost(
    document: ClusterDocument, event: e.ClusterHaReservationLost, recorded: Recorded
) -> Changes:
    return {"ha_reservation_lost": event.reason}


def _reservation_kept(document: ClusterDocument, event: Event, recorded: Recorded) -> Changes:
    return {"ha_reservation_lost": ""}


CHANGES: dict[type[Event], Change] = {
    e.ClusterResourcesSet: _resources_set,
    e.ClusterBalancingSet: _balancing_set,
    e.ClusterBalanceProposed: _proposed,
    e.ClusterBalanceBegun: _begun,
    e.ClusterHostRest: _rest,
    e.ClusterHaReservationLost: _reservation_lost,
    e.ClusterHaReservationKept: _reservation_kept,
}
