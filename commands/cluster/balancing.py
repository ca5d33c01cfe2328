"""Set whether a cluster's VMs are moved by themselves, and how fast."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound
from commands.state import lookup
from events.types.balancing import BalancingMode, ClusterBalancingSet

Interval = Annotated[
    float,
    msgspec.Meta(ge=1, le=86_400, description="Seconds from one look to the next; at first 60."),
]
MovesMax = Annotated[
    int,
    msgspec.Meta(ge=1, le=1_000, description="So many VMs are moved by one plan; at first 20."),
]
AtOnce = Annotated[
    int,
    msgspec.Meta(ge=1, le=100, description="So many of them are moved at a time; at first 2."),
]


@command(
    "cluster.balancing",
    path="/v1/clusters/{id}/balancing",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="cluster balancing",
    refusals=(NotFound,),
)
class SetClusterBalancing(Command, frozen=True, kw_only=True):
    """Set whether a cluster's VMs are moved by themselves, and how fast.

    What makes a host over- or under-used is the scheduling policy's affair. With mode propose the
    moves are shown at the cluster and in the audit log, with automatic they are made. Enforcing
    affinity groups that are broken come first, under every policy.
    """

    id: Id
    mode: BalancingMode | None = None
    interval_s: Interval | None = None
    moves_max: MovesMax | None = None
    moves_at_once: AtOnce | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Set what differs; no event where nothing does."""
        del context
        state = lookup.cluster(world, self.id)
        now = state.balance.settings
        given = {
            name: getattr(self, name)
            for name in now.__struct_fields__
            if getattr(self, name) is not None
        }
        wanted = msgspec.structs.replace(now, **given)
        if wanted == now:
            return Decision.of(self.id)
        changed = ClusterBalancingSet(name=state.name, balancing=wanted)
        return Decision.of(self.id, *on(f"cluster/{self.id}", changed))
