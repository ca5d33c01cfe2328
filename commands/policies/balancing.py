"""Watches that balance clusters: one begins the moves of a plan, the other makes plans by itself.

The second looks at each cluster that wants it every so often. A host must have been over- or
under-used for as long as the cluster's policy says before VMs are moved for that; affinity groups
are kept at once. How long is counted from when this process first saw it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

from commands.cluster.balance import begin_balance
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.refusal import Refusal, WrongState
from commands.policies.balance_moves import cause_of, plan_of, standing, to_begin
from commands.policies.facts import Facts
from commands.policies.saga import Timeouts
from commands.policies.watch import Beginning, Watch
from commands.scheduler.plans import Plan
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import HostState
from commands.state.operation import OperationState
from commands.state.vm import VmState
from commands.vm.migrate import request
from events.types.balancing import (
    BalancingMode,
    ClusterBalanceMoveSettled,
    ClusterBalanceProposed,
    PlannedMove,
)
from events.types.vm_migration import MigrationCause

KIND = "cluster.balance"


class Moves(Watch):
    """Begins the migrations of plans that are being carried out, a few at a time."""

    def __init__(self, timeouts: Timeouts) -> None:
        del timeouts
        self._clusters: dict[str, ClusterState] = {}
        self._changed = False
        self._wakes: set[str] = set()

    def cluster(self, before: ClusterState | None, after: ClusterState | None) -> None:
        """Note which clusters have a plan that is being carried out."""
        if before is not None:
            self._clusters.pop(before.id, None)
        if after is not None and after.balance.operation is not None:
            self._clusters[after.id] = after
            self._changed = True

    def vm(self, before: VmState | None, after: VmState | None) -> None:
        """Note that a VM of such a plan changed."""
        state = after or before
        cluster = self._clusters.get(state.cluster) if state is not None else None
        if state is None or cluster is None:
            return
        if any(move.vm == state.id for move in cluster.balance.moves):
            self._wakes.add(cluster.id)
            self._changed = True

    def host(self, before: HostState | None, after: HostState | None) -> None:
        """Note that a host of such a plan fell silent, or is heard again."""
        state = after or before
        if state is not None and state.cluster in self._clusters and _mute(before) != _mute(after):
            self._wakes.add(state.cluster)

    def operation(self, before: OperationState | None, after: OperationState | None) -> None:
        """Note that an operation that moves VMs changed: it may have been cancelled."""
        del before
        if after is not None and after.kind == KIND:
            self._changed = True

    def due(self, facts: Facts, now: dt.datetime) -> Sequence[Beginning]:
        """Return the migrations to be begun."""
        del now
        if not self._changed:
            return ()
        wanted = [each for cluster in self._clusters.values() for each in _due(facts, cluster)]
        self._changed = bool(wanted)
        return wanted

    def woken(self, facts: Facts, now: dt.datetime) -> Sequence[str]:
        """Return the operations whose VMs changed."""
        del facts, now
        woken = [self._clusters[key].balance.operation for key in self._wakes & set(self._clusters)]
        self._wakes.clear()
        return [operation for operation in woken if operation is not None]


def _mute(host: HostState | None) -> bool:
    return host is not None and host.mute


def _due(facts: Facts, cluster: ClusterState) -> list[Beginning]:
    operation = facts.operations.get(cluster.balance.operation or "")
    if operation is None or operation.cancel_requested:
        return []
    found = [standing(operation.id, move, facts.vms.get(move.vm)) for move in cluster.balance.moves]
    return [
        Beginning(
            cause=cause_of(operation.id),
            target=f"vm/{move.vm}",
            decide=_moving(cluster.id, operation.id, move),
        )
        for move in to_begin(found, cluster.balance.settings.moves_at_once)
    ]


def _moving(
    cluster_id: str, operation: str, move: PlannedMove
) -> Callable[[World, Context], Decision]:
    """Return the decision to move a VM; where that is refused, to let it stay."""

    def decide(world: World, context: Context) -> Decision:
        cluster = lookup.cluster(world, cluster_id)
        if cluster.balance.operation != operation:
            raise WrongState("The plan is not carried out any more.")
        cause = MigrationCause.AFFINITY if move.affinity else MigrationCause.BALANCING
        try:
            return request(world, context, move.vm, cause=cause, host=move.destination)
        except Refusal as refusal:
            stays = ClusterBalanceMoveSettled(
                name=cluster.name,
                operation=operation,
                vm=move.vm,
                vm_name=move.vm_name,
                moved=False,
                reason=refusal.detail,
            )
            return Decision.of(cluster_id, *on(f"cluster/{cluster_id}", stays))

    return decide


class Balancing(Watch):
    """Proposes plans, or begins them, for the clusters that want it."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._scale = timeouts.balance.scale
        self._clusters: dict[str, ClusterState] = {}
        self._looked: dict[str, dt.datetime] = {}
        self._since: dict[tuple[str, str], dt.datetime] = {}

    def cluster(self, before: ClusterState | None, after: ClusterState | None) -> None:
        """Note which clusters want it."""
        state = after or before
        if state is None:
            return
        if after is None or after.removed or after.balance.settings.mode is BalancingMode.OFF:
            self._clusters.pop(state.id, None)
            self._looked.pop(state.id, None)
            self._since = {pair: at for pair, at in self._since.items() if pair[0] != state.id}
            return
        self._clusters[after.id] = after

    def due(self, facts: Facts, now: dt.datetime) -> Sequence[Beginning]:
        """Return the plans to be proposed or begun."""
        wanted = []
        for cluster in list(self._clusters.values()):
            if self._due_at(cluster, now) > now or cluster.balance.operation is not None:
                continue
            self._looked[cluster.id] = now
            plan = self._lasting(cluster, plan_of(facts, cluster.id), now)
            beginning = _beginning(cluster, plan, now)
            if beginning is not None:
                wanted.append(beginning)
        return wanted

    def next_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return when the next cluster is to be looked at."""
        idle = (c for c in self._clusters.values() if c.balance.operation is None)
        return min((self._due_at(cluster, now) for cluster in idle), default=None)

    def _due_at(self, cluster: ClusterState, now: dt.datetime) -> dt.datetime:
        looked = self._looked.get(cluster.id)
        if looked is None:
            return now
        interval = cluster.balance.settings.interval_s * self._scale
        return looked + dt.timedelta(seconds=interval)

    def _lasting(self, cluster: ClusterState, plan: Plan, now: dt.datetime) -> Plan:
        """Return the part of a plan whose reasons have lasted for long enough."""
        minutes = cluster.scheduling.cpu_over_commit_duration_minutes * self._scale
        sources = {move.source for move in plan.moves if not move.affinity}
        for pair in [pair for pair in self._since if pair[0] == cluster.id]:
            if pair[1] not in sources:
                del self._since[pair]
        for source in sources:
            self._since.setdefault((cluster.id, source), now)
        ripe = now - dt.timedelta(minutes=minutes)
        moves = tuple(
            move
            for move in plan.moves
            if move.affinity or self._since[cluster.id, move.source] <= ripe
        )
        touched = {host for move in moves for host in (move.source, move.destination)}
        return Plan(moves=moves, hosts=tuple(each for each in plan.hosts if each.host in touched))


def _beginning(cluster: ClusterState, plan: Plan, now: dt.datetime) -> Beginning | None:
    """Return what is to be done with a plan; None where that is nothing, or was done before."""
    if cluster.balance.settings.mode is BalancingMode.PROPOSE:
        if _places(plan.moves) == _places(cluster.balance.proposal):
            return None
        decide = _proposing(cluster.id, plan)
    elif not plan.moves:
        return None
    else:
        decide = _balancing(cluster.id, plan)
    return Beginning(
        cause=f"balancing/{now.isoformat()}", target=f"cluster/{cluster.id}", decide=decide
    )


def _places(moves: Sequence[PlannedMove]) -> set[tuple[str, str]]:
    return {(move.vm, move.destination) for move in moves}


def _proposing(cluster_id: str, plan: Plan) -> Callable[[World, Context], Decision]:
    def decide(world: World, context: Context) -> Decision:
        del context
        cluster = lookup.cluster(world, cluster_id)
        proposed = ClusterBalanceProposed(name=cluster.name, moves=plan.moves, hosts=plan.hosts)
        return Decision.of(cluster_id, *on(f"cluster/{cluster_id}", proposed))

    return decide


def _balancing(cluster_id: str, plan: Plan) -> Callable[[World, Context], Decision]:
    return lambda world, context: begin_balance(world, context, cluster_id, plan.moves)
