"""Set what a cluster's hosts give out."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound
from commands.state import lookup
from events.types.balancing import ClusterResourcesSet

MemoryPercent = Annotated[
    int,
    msgspec.Meta(
        ge=100,
        le=1_000,
        description="So much of a host's memory VMs may have in all: 100, or 150 for servers and"
        " 200 for desktops that share much of it.",
    ),
]


@command(
    "cluster.resources",
    path="/v1/clusters/{id}/resources",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="cluster resources",
    refusals=(NotFound,),
)
class SetClusterResources(Command, frozen=True, kw_only=True):
    """Set what a cluster's hosts give out.

    With a memory_percent above 100 VMs get more memory than a host has: it must have swap, or VMs
    must not use all of theirs. Without threads_as_cores a host has as many CPUs as cores, where its
    agent tells how many these are. With ha_reservation it is checked that the highly available VMs
    of any one host fit on the others; an alert says when they do not. Hosts on which less than a
    fifth of the memory is free merge equal pages of VMs, if ksm says so (across NUMA nodes unless
    ksm_merge_across_nodes is false), and with ballooning take back what guests do not use, down to
    what each VM is guaranteed; of that a host gives out no more than it has. Fields that are not
    given stay as they are.
    """

    id: Id
    memory_percent: MemoryPercent | None = None
    threads_as_cores: bool | None = None
    ha_reservation: bool | None = None
    ksm: bool | None = None
    ksm_merge_across_nodes: bool | None = None
    ballooning: bool | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Set what differs; no event where nothing does."""
        del context
        state = lookup.cluster(world, self.id)
        given = {
            name: getattr(self, name)
            for name in state.resources.__struct_fields__
            if getattr(self, name) is not None
        }
        wanted = msgspec.structs.replace(state.resources, **given)
        if wanted == state.resources:
            return Decision.of(self.id)
        changed = ClusterResourcesSet(name=state.name, resources=wanted)
        return Decision.of(self.id, *on(f"cluster/{self.id}", changed))
