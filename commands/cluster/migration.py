"""Choose how a cluster's VMs are moved while they run."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound
from commands.state import lookup
from commands.state.migration_input import Bandwidth, PerHost
from events.types.migration import ClusterMigrationSettings, MigrationPolicy
from events.types.migration_settings import ClusterMigrationSet


@command(
    "cluster.migration",
    path="/v1/clusters/{id}/migration",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="cluster migration",
    refusals=(NotFound,),
)
class SetClusterMigration(Command, frozen=True, kw_only=True):
    """Choose how a cluster's VMs are moved while they run.

    What is not given is as by default again: policy minimal_down_time, no limit of bandwidth, two
    VMs at a time that a host sends, and two that it takes in. A VM may have another policy, and a
    lower bandwidth. Others wait for their turn, by priority.
    """

    id: Id
    policy: MigrationPolicy = MigrationPolicy.MINIMAL_DOWN_TIME
    bandwidth_bytes_per_s: Bandwidth | None = None
    outgoing_max: PerHost = 2
    incoming_max: PerHost = 2

    def decide(self, world: World, context: Context) -> Decision:
        """Set it; no event where it is so already."""
        del context
        state = lookup.cluster(world, self.id)
        wanted = ClusterMigrationSettings(
            policy=self.policy,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
            outgoing_max=self.outgoing_max,
            incoming_max=self.incoming_max,
        )
        if wanted == state.migration:
            return Decision.of(self.id)
        changed = ClusterMigrationSet(name=state.name, migration=wanted)
        return Decision.of(self.id, *on(f"cluster/{self.id}", changed))
