"""What a cluster's state says of what its hosts give out, and of how its VMs are moved."""

from __future__ import annotations

import msgspec

from events.types import balancing as e
from events.types.base import Event


class BalanceState(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster's VMs are moved, and what is under way.

    `operation` moves VMs now, by the plan in `moves`. `proposal` is what was proposed last, and has
    not been begun. `reservation_lost`: not all highly available VMs would fit elsewhere.
    """

    settings: e.Balancing = e.Balancing()
    operation: str | None = None
    moves: tuple[e.PlannedMove, ...] = ()
    proposal: tuple[e.PlannedMove, ...] = ()
    reservation_lost: tuple[str, ...] = ()


def after(state: BalanceState, event: Event) -> BalanceState:
    """Return what follows from an event of the cluster's stream."""
    change = msgspec.structs.replace
    match event:
        case e.ClusterBalancingSet():
            return change(state, settings=event.balancing)
        case e.ClusterBalanceProposed():
            return change(state, proposal=event.moves)
        case e.ClusterBalanceBegun():
            return change(state, operation=event.operation, moves=event.moves, proposal=())
        case e.ClusterBalanceEnded():
            return change(state, operation=None, moves=())
        case e.ClusterHaReservationLost():
            return change(state, reservation_lost=event.hosts)
        case e.ClusterHaReservationKept():
            return change(state, reservation_lost=())
        case _:
            return state
