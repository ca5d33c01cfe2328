"""What a cluster's state says of what its hosts give out, and of how its VMs are moved."""

from __future__ import annotations

import msgspec

from events.types import balancing as e
from events.types.base import Event


class BalanceState(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster's VMs are moved, and what is under way.

    `operation` moves VMs now: those in `moves` are left, of `total`; `stay` are the first of those
    that could not be moved, with the reasons, of `stayed`. `proposal` is what was proposed last,
    and has not been begun. `reservation_lost`: hosts whose highly available VMs would not all fit
    elsewhere. `resting` are the hosts that are in maintenance, or off, to save power.
    """

    settings: e.Balancing = e.Balancing()
    operation: str | None = None
    moves: tuple[e.PlannedMove, ...] = ()
    total: int = 0
    stayed: int = 0
    stay: tuple[str, ...] = ()
    proposal: tuple[e.PlannedMove, ...] = ()
    reservation_lost: tuple[str, ...] = ()
    resting: dict[str, e.Rest] = {}


STAY_TOLD_MAX = 5
"""Of so many VMs that stay it is told why, where an operation ends."""


def _settled(state: BalanceState, event: e.ClusterBalanceMoveSettled) -> BalanceState:
    left = tuple(move for move in state.moves if move.vm != event.vm)
    if event.moved:
        return msgspec.structs.replace(state, moves=left)
    stay = (*state.stay, f"{event.vm_name}: {event.reason}")[:STAY_TOLD_MAX]
    return msgspec.structs.replace(state, moves=left, stayed=state.stayed + 1, stay=stay)


def after(state: BalanceState, event: Event) -> BalanceState:
    """Return what follows from an event of the cluster's stream."""
    change = msgspec.structs.replace
    match event:
        case e.ClusterBalancingSet():
            return change(state, settings=event.balancing)
        case e.ClusterBalanceProposed():
            return change(state, proposal=event.moves)
        case e.ClusterBalanceBegun():
            return change(
                state,
                operation=event.operation,
                moves=event.moves,
                total=len(event.moves),
                stayed=0,
                stay=(),
                proposal=(),
            )
        case e.ClusterBalanceMoveSettled():
            return _settled(state, event)
        case e.ClusterBalanceEnded():
            return change(state, operation=None, moves=(), total=0, stayed=0, stay=())
        case e.ClusterHostRest(rest=e.Rest.UP):
            left = {host: rest for host, rest in state.resting.items() if host != event.host}
            return change(state, resting=left)
        case e.ClusterHostRest():
            return change(state, resting=state.resting | {event.host: event.rest})
        case e.ClusterHaReservationLost():
            return change(state, reservation_lost=event.hosts)
        case e.ClusterHaReservationKept():
            return change(state, reservation_lost=())
        case _:
            return state
