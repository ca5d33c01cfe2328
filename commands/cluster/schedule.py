"""Choose how a cluster's VMs are placed on its hosts."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound
from commands.state import lookup
from commands.state.scheduling_input import (
    LeastFree,
    LowPercent,
    Minutes,
    MostFree,
    Percent,
    PowerManagement,
    Ratio,
    Reserve,
    ScaleDown,
    SwapUsage,
    Threshold,
    VmCount,
    given,
    require_limits,
    require_parameters_of,
)
from commands.state.scheduling_policy import effective, find_policy
from events.types.cluster import ClusterSchedulingSet, Scheduling, SchedulingPolicy


@command(
    "cluster.schedule",
    path="/v1/clusters/{id}/scheduling",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="cluster schedule",
    refusals=(NotFound, InvalidField),
)
class ScheduleCluster(Command, frozen=True, kw_only=True):
    """Choose how a cluster's VMs are placed on its hosts.

    Parameters that are not given get the policy's defaults. It counts from the next start on; what
    runs is moved by balancing alone. vcpu_to_physical_cpu_ratio belongs to evenly_distributed, the
    two limits of free memory to it and power_saving; low_utilization_percent,
    automatic_host_power_management and hosts_in_reserve to power_saving; high_vm_count and
    migration_threshold to vm_evenly_distributed. In cluster_maintenance highly available VMs alone
    are started; those that run may move. A policy of your own (scheduling_policy) has the
    parameters of its balancer; those given here take the place of its own in this cluster.
    """

    id: Id
    policy: SchedulingPolicy | None = None
    scheduling_policy: Id | None = None
    high_utilization_percent: Percent | None = None
    vcpu_to_physical_cpu_ratio: Ratio | None = None
    max_free_memory_for_over_utilized_bytes: LeastFree | None = None
    min_free_memory_for_under_utilized_bytes: MostFree | None = None
    low_utilization_percent: LowPercent | None = None
    cpu_over_commit_duration_minutes: Minutes | None = None
    high_vm_count: VmCount | None = None
    migration_threshold: Threshold | None = None
    scale_down: ScaleDown | None = None
    automatic_host_power_management: PowerManagement | None = None
    hosts_in_reserve: Reserve | None = None
    maximum_allowed_swap_usage_percent: SwapUsage | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Set it; no event where it is so already."""
        del context
        state = lookup.cluster(world, self.id)
        if (self.policy is None) is (self.scheduling_policy is None):
            raise InvalidField(
                "A cluster has one policy: a built-in one, or one of your own.",
                remedy="Give either policy or scheduling_policy.",
                field="policy",
            )
        wanted = self._built_in() if self.policy is not None else self._own(world)
        if wanted == state.scheduling:
            return Decision.of(self.id)
        changed = ClusterSchedulingSet(
            name=state.name, scheduling=wanted, previous_custom=state.scheduling.custom
        )
        return Decision.of(self.id, *on(f"cluster/{self.id}", changed))

    def _built_in(self) -> Scheduling:
        assert self.policy is not None  # noqa: S101 - the caller has looked
        parameters = given(self)
        require_parameters_of(self.policy, parameters)
        return require_limits(msgspec.structs.replace(Scheduling(policy=self.policy), **parameters))

    def _own(self, world: World) -> Scheduling:
        assert self.scheduling_policy is not None  # noqa: S101 - the caller has looked
        policy, parameters = find_policy(world, self.scheduling_policy), given(self)
        require_parameters_of(policy.scheduling.policy, parameters)
        wanted = msgspec.structs.replace(
            Scheduling(custom=policy.id, own=tuple(sorted(parameters))), **parameters
        )
        require_limits(effective(wanted, policy))
        return wanted
