"""Choose whether a cluster's hosts are fenced."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound
from commands.state import lookup
from events.types.host_power import ClusterFencingSet

Percent = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=100,
        description="Of the cluster's hosts, lost at once: from this share on none is fenced, with"
        " skip_if_connectivity_broken.",
    ),
]


@command(
    "cluster.set_fencing",
    method="PATCH",
    path="/v1/clusters/{id}/fencing",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="cluster fencing",
    refusals=(NotFound, InvalidField),
)
class SetClusterFencing(Command, frozen=True, kw_only=True):
    """Choose whether a cluster's hosts are fenced, and when they are not.

    Whatever is chosen here, none is fenced while more than half of a cluster (the setting
    fencing.lost_percent_max) is lost at once. skip_if_storage_lease_live: true is refused: hosts
    hold no leases on storage until there are storage domains. What is not given stays as it is.
    """

    id: Id
    enabled: bool | None = None
    skip_if_connectivity_broken: bool | None = None
    connectivity_broken_percent: Percent | None = None
    skip_if_storage_lease_live: bool | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Set it; no event where it is so already."""
        del context
        state = lookup.cluster(world, self.id)
        if self.skip_if_storage_lease_live:
            raise InvalidField(
                "Whether a host holds a live lease on storage cannot be told: there are no storage"
                " domains yet, and so no leases.",
                remedy="Leave it out. What keeps a cluster's hosts from being fenced where the"
                " network is at fault is skip_if_connectivity_broken.",
                field="skip_if_storage_lease_live",
            )
        given = {
            name: value
            for name in self.__struct_fields__
            if name != "id" and (value := getattr(self, name)) is not None
        }
        wanted = msgspec.structs.replace(state.fencing, **given)
        if wanted == state.fencing:
            return Decision.of(self.id)
        changed = ClusterFencingSet(name=state.name, fencing=wanted)
        return Decision.of(self.id, *on(f"cluster/{self.id}", changed))
