"""Remove a scheduling policy."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InUse, NotFound
from commands.state.scheduling_policy import find_policy
from events.types.scheduling_policy import SchedulingPolicyRemoved


@command(
    "scheduling_policy.remove",
    method="DELETE",
    path="/v1/scheduling_policies/{id}",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="scheduling-policy remove",
    refusals=(NotFound, InUse),
)
class RemoveSchedulingPolicy(Command, frozen=True, kw_only=True):
    """Remove a scheduling policy.

    No cluster may use it any more.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Remove it; clusters that use it refuse that by their claims."""
        del context
        state = find_policy(world, self.id)
        removed = SchedulingPolicyRemoved(name=state.name)
        return Decision.of(self.id, *on(f"scheduling_policy/{self.id}", removed))
