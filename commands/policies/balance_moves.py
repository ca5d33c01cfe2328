"""A cluster's plan, and how its moves stand, read off from the VMs' own states."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from commands.policies.facts import Facts
from commands.policies.watch import operation_of
from commands.scheduler.balance import plan
from commands.scheduler.plans import Plan
from commands.state.vm import VmState, VmStatus
from events.types.balancing import PlannedMove


class Standing(enum.Enum):
    """How far a move is."""

    WAITS = "waits"
    UNDER_WAY = "under way"
    ARRIVED = "arrived"
    STAYED = "stayed"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A move, how it stands, and why the VM stayed, if it did."""

    move: PlannedMove
    standing: Standing
    reason: str = ""


def plan_of(facts: Facts, cluster: str) -> Plan:
    """Return which VMs of a cluster would be better off elsewhere.

    Hosts that VMs leave or come to now are left out.
    """
    state, traffic = facts.clusters[cluster], facts.traffic
    return plan(
        facts.fleet,
        state,
        (vm for vm in facts.vms.values() if vm.cluster == cluster),
        busy=frozenset(host for each in (traffic.incoming, traffic.outgoing) for host in each),
        moves_max=state.balance.settings.moves_max,
    )


def cause_of(operation: str) -> str:
    """Return the cause of the migrations that an operation begins."""
    return f"balance/{operation}"


def migration_of(operation: str, vm: str) -> str:
    """Return the id of the migration that an operation begins for a VM."""
    return str(operation_of(cause_of(operation), f"vm/{vm}"))


def standing(operation: str, move: PlannedMove, vm: VmState | None) -> Found:
    """Return how a move stands."""
    if vm is None or vm.run is None:
        return Found(move=move, standing=Standing.STAYED, reason="It does not run any more.")
    own = migration_of(operation, move.vm)
    for failed in vm.leaving.failed:
        if failed.operation == own:
            return Found(move=move, standing=Standing.STAYED, reason=failed.reason)
    if vm.status is VmStatus.MIGRATING and vm.operation == own:
        return Found(move=move, standing=Standing.UNDER_WAY)
    if vm.run.host == move.destination:
        return Found(move=move, standing=Standing.ARRIVED)
    if vm.operation == own:
        return Found(move=move, standing=Standing.STAYED, reason="It was moved elsewhere.")
    return Found(move=move, standing=Standing.WAITS)


def to_begin(found: Sequence[Found], at_once: int) -> list[PlannedMove]:
    """Return the moves that are to be begun, so that so many are under way."""
    room = at_once - sum(each.standing is Standing.UNDER_WAY for each in found)
    waiting = [each.move for each in found if each.standing is Standing.WAITS]
    return waiting[: max(0, room)]
