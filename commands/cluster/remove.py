"""Remove a cluster."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InUse, NotFound
from commands.state import lookup
from events.types.cluster import ClusterRemoved


@command(
    "cluster.remove",
    method="DELETE",
    path="/v1/clusters/{id}",
    permission="DELETE_CLUSTER",
    verb="cluster remove",
    refusals=(NotFound, InUse),
)
class RemoveCluster(Command, frozen=True, kw_only=True):
    """Remove a cluster.

    It must not hold a host or a VM any more.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Remove it; hosts and VMs that refer to it refuse that by their claims."""
        del context
        state = lookup.cluster(world, self.id)
        removed = ClusterRemoved(
            name=state.name,
            data_center=state.data_center,
            mac_pool=state.mac_pool,
            scheduling_policy=state.scheduling.custom,
        )
        return Decision.of(self.id, *on(f"cluster/{self.id}", removed))
