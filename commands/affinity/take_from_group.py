"""Take members out of an affinity group."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound
from commands.state.affinity import AffinityConflict, find_group
from commands.state.affinity_change import change_group
from commands.state.affinity_input import Ids, Names, without_members


@command(
    "affinity_group.remove_members",
    path="/v1/affinity_groups/{id}/remove_members",
    permission="MANIPULATE_AFFINITY_GROUPS",
    verb="affinity-group remove-members",
    refusals=(NotFound, AffinityConflict),
)
class TakeFromAffinityGroup(Command, frozen=True, kw_only=True):
    """Take VMs, hosts or labels out of an affinity group.

    What is not in it is not missed. With fewer hosts, an enforcing rule may contradict another.
    """

    id: Id
    vms: Ids = ()
    hosts: Ids = ()
    vm_labels: Ids = ()
    host_labels: Ids = ()

    def decide(self, world: World, context: Context) -> Decision:
        """Take out those that are in it; no event where none is."""
        del context
        state = find_group(world, self.id)
        names = Names(
            vms=self.vms,
            hosts=self.hosts,
            vm_labels=self.vm_labels,
            host_labels=self.host_labels,
        )
        left = without_members(state.affinity, names)
        return change_group(world, state, msgspec.structs.replace(state, affinity=left))
