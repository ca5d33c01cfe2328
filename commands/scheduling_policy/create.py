"""Create a scheduling policy."""

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
from commands.state.scheduling_policy import built_in, find_policy
from events.types.cluster import SchedulingPolicy
from events.types.scheduling_policy import SchedulingPolicyCreated
from events.types.scheduling_units import Selector


@command(
    "scheduling_policy.create",
    path="/v1/scheduling_policies",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="scheduling-policy create",
    creates=True,
    refusals=(NotFound, NameTaken, InvalidField),
)
class CreateSchedulingPolicy(Command, frozen=True, kw_only=True):
    """Create a scheduling policy.

    It begins as a copy of a built-in policy (like; none if not given) or of another of your own
    (copy_of); what is given takes the place of what that has. The balancer is that of the built-in
    policy of its name, and so are the parameters that it has. The selector RankSelector, which the
    built-in policies have, ranks hosts by each weight; BasicWeighting adds the weights up.
    """

    name: Name
    description: Description = ""
    like: SchedulingPolicy | None = None
    copy_of: Id | None = None
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
        """Create it; no cluster uses it yet."""
        if self.like is not None and self.copy_of is not None:
            raise InvalidField(
                "It cannot begin as a copy of two.",
                remedy="Give either like or copy_of.",
                field="copy_of",
            )
        if self.copy_of is not None:
            model = find_policy(world, self.copy_of).scheduling
        else:
            model = built_in(self.like or SchedulingPolicy.NONE)
        created = SchedulingPolicyCreated(
            name=self.name,
            description=self.description,
            scheduling=with_units(
                model, self.balancer, self.filters, self.weights, self.selector, given(self)
            ),
        )
        return Decision.of(context.ids[0], *on(f"scheduling_policy/{context.ids[0]}", created))
