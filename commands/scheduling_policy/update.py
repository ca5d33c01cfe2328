"""Change a scheduling policy."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NameTaken, NotFound
from commands.state.scheduling_input import (
    Balancer,
    Filters,
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
    Weights,
    given,
    with_units,
)
from commands.state.scheduling_policy import find_policy
from events.types.scheduling_policy import SchedulingPolicyUpdated
from events.types.scheduling_units import Selector


@command(
    "scheduling_policy.update",
    method="PATCH",
    path="/v1/scheduling_policies/{id}",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="scheduling-policy update",
    refusals=(NotFound, NameTaken, InvalidField),
)
class UpdateSchedulingPolicy(Command, frozen=True, kw_only=True):
    """Change a scheduling policy.

    What is not given stays as it is; filters and weights are given whole. With another balancer the
    parameters of the former one go. It counts at once in all clusters that use it.
    """

    id: Id
    name: Name | None = None
    description: Description | None = None
    balancer: Balancer | None = None
    filters: Filters | None = None
    weights: Weights | None = None
    selector: Selector | None = None
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
        """Change what differs; no event where nothing does."""
        del context
        state = find_policy(world, self.id)
        updated = SchedulingPolicyUpdated(
            name=state.name if self.name is None else self.name,
            former_name=state.name,
            description=state.description if self.description is None else self.description,
            scheduling=with_units(
                state.scheduling,
                self.balancer,
                self.filters,
                self.weights,
                self.selector,
                given(self),
            ),
        )
        before = (state.name, state.description, state.scheduling)
        if (updated.name, updated.description, updated.scheduling) == before:
            return Decision.of(self.id)
        return Decision.of(self.id, *on(f"scheduling_policy/{self.id}", updated))
