"""Remove an affinity group."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound
from commands.state import lookup
from commands.state.affinity import find_group
from events.types.affinity import AffinityGroupRemoved
from events.types.cluster import ClusterAffinityGroupsListed


@command(
    "affinity_group.remove",
    method="DELETE",
    path="/v1/affinity_groups/{id}",
    permission="MANIPULATE_AFFINITY_GROUPS",
    verb="affinity-group remove",
    refusals=(NotFound,),
)
class RemoveAffinityGroup(Command, frozen=True, kw_only=True):
    """Remove an affinity group.

    Its VMs stay where they are.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Remove it, and take it off its cluster's list."""
        del context
        state = find_group(world, self.id)
        cluster = lookup.cluster(world, state.cluster)
        removed = AffinityGroupRemoved(
            name=state.name, cluster=state.cluster, labels=state.affinity.labels
        )
        left = tuple(key for key in cluster.affinity_groups if key != self.id)
        listed = ClusterAffinityGroupsListed(name=cluster.name, groups=left)
        return Decision.of(
            self.id,
            *on(f"affinity_group/{self.id}", removed),
            *on(f"cluster/{cluster.id}", listed),
        )
