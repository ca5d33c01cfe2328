"""Add members to an affinity group."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound
from commands.state.affinity import AffinityConflict, find_group
from commands.state.affinity_change import change_group
from commands.state.affinity_input import Ids, Names, with_members


@command(
    "affinity_group.add_members",
    path="/v1/affinity_groups/{id}/add_members",
    permission="MANIPULATE_AFFINITY_GROUPS",
    verb="affinity-group add-members",
    refusals=(NotFound, InvalidField, AffinityConflict),
)
class AddToAffinityGroup(Command, frozen=True, kw_only=True):
    """Add VMs, hosts or labels to an affinity group.

    VMs and hosts must be of the group's cluster. Members that are in it already stay in it.
    """

    id: Id
    vms: Ids = ()
    hosts: Ids = ()
    vm_labels: Ids = ()
    host_labels: Ids = ()

    def decide(self, world: World, context: Context) -> Decision:
        """Add those that are not in it; no event where all are."""
        del context
        state = find_group(world, self.id)
        names = Names(
            vms=self.vms,
            hosts=self.hosts,
            vm_labels=self.vm_labels,
            host_labels=self.host_labels,
        )
        affinity = with_members(world, state.affinity, names, state.cluster)
        return change_group(world, state, msgspec.structs.replace(state, affinity=affinity))
