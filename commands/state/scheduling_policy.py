"""The state of scheduling policies of one's own, and what they come to in a cluster."""

from __future__ import annotations

import msgspec

from commands.kernel.fold import Fold, World
from commands.state import lookup
from commands.state.cluster import ClusterState
from events.envelope import Recorded
from events.types import scheduling_policy as e
from events.types.cluster import Scheduling, SchedulingPolicy
from events.types.scheduling_units import FilterUnit, WeightFactor, WeightUnit

_OF_ALL = {
    WeightUnit.PREFERRED_HOSTS: 99,
    WeightUnit.HA_RESERVATION: 1,
    WeightUnit.VM_AFFINITY_GROUPS: 1,
    WeightUnit.VM_TO_HOSTS_AFFINITY_GROUPS: 20,
    WeightUnit.HIGH_PERFORMANCE: 4,
    WeightUnit.PINNING: 5,
}
_EVEN = {WeightUnit.EVEN_CPU: 2, WeightUnit.EVEN_MEMORY: 1, **_OF_ALL}
_SAVING = {WeightUnit.SAVING_CPU: 2, WeightUnit.SAVING_MEMORY: 1, **_OF_ALL}
_GUESTS = {WeightUnit.EVEN_GUESTS: 2, **_OF_ALL}
_FACTORS = {
    SchedulingPolicy.NONE: _EVEN,
    SchedulingPolicy.CLUSTER_MAINTENANCE: _EVEN,
    SchedulingPolicy.EVENLY_DISTRIBUTED: _EVEN,
    SchedulingPolicy.POWER_SAVING: _SAVING,
    SchedulingPolicy.VM_EVENLY_DISTRIBUTED: _GUESTS,
}
WEIGHTS: dict[SchedulingPolicy, tuple[WeightFactor, ...]] = {
    policy: tuple(WeightFactor(unit=unit, factor=factor) for unit, factor in factors.items())
    for policy, factors in _FACTORS.items()
}
"""The weights of each built-in policy, with oVirt's factors."""
USUAL_FILTERS = tuple(
    unit
    for unit in sorted(FilterUnit, key=lambda unit: unit.value)
    if unit is not FilterUnit.CLUSTER_IN_MAINTENANCE
)
"""The filters of each built-in policy, but for cluster_maintenance, which has that one too."""


def built_in(policy: SchedulingPolicy) -> Scheduling:
    """Return a built-in policy with its units told, as one of somebody's own begins with."""
    kept = policy is SchedulingPolicy.CLUSTER_MAINTENANCE
    return Scheduling(
        policy=SchedulingPolicy.NONE if kept else policy,
        filters=(FilterUnit.CLUSTER_IN_MAINTENANCE, *USUAL_FILTERS) if kept else USUAL_FILTERS,
        weights=tuple(sorted(WEIGHTS[policy], key=lambda each: each.unit.value)),
    )


class SchedulingPolicyState(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduling policy, as decisions see it."""

    id: str
    name: str
    description: str
    scheduling: Scheduling
    removed: bool = False


def evolve(state: SchedulingPolicyState | None, recorded: Recorded) -> SchedulingPolicyState | None:
    """Fold one event of a scheduling policy's stream."""
    event = recorded.event
    match event:
        case e.SchedulingPolicyCreated():
            return SchedulingPolicyState(
                id=recorded.object_id,
                name=event.name,
                description=event.description,
                scheduling=event.scheduling,
            )
        case e.SchedulingPolicyUpdated() if state is not None:
            return msgspec.structs.replace(
                state,
                name=event.name,
                description=event.description,
                scheduling=event.scheduling,
            )
        case e.SchedulingPolicyRemoved() if state is not None:
            return msgspec.structs.replace(state, removed=True)
    return state


SCHEDULING_POLICY: Fold[SchedulingPolicyState] = Fold(
    "scheduling_policy", SchedulingPolicyState, evolve
)


def find_policy(world: World, object_id: str) -> SchedulingPolicyState:
    """Return a scheduling policy; raises NotFound."""
    state = world.get(SCHEDULING_POLICY, object_id)
    if state is None or state.removed:
        raise lookup.missing("scheduling policy", object_id)
    return state


def effective(scheduling: Scheduling, policy: SchedulingPolicyState) -> Scheduling:
    """Return how a cluster with a policy places its VMs; its own parameters come first."""
    own = {name: getattr(scheduling, name) for name in scheduling.own}
    return msgspec.structs.replace(policy.scheduling, custom=policy.id, own=scheduling.own, **own)


def resolved(cluster: ClusterState, policy: SchedulingPolicyState | None) -> ClusterState:
    """Return a cluster with what its policy comes to, as the scheduler takes it."""
    if policy is None or policy.id != cluster.scheduling.custom:
        return cluster
    return msgspec.structs.replace(cluster, scheduling=effective(cluster.scheduling, policy))
