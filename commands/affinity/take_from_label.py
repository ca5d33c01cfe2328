"""Take an affinity label off VMs and hosts."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound
from commands.state.affinity import AffinityConflict, find_label
from commands.state.affinity_change import change_label
from commands.state.affinity_input import Ids, kept


@command(
    "affinity_label.remove_members",
    path="/v1/affinity_labels/{id}/remove_members",
    permission="MANIPULATE_AFFINITY_GROUPS",
    verb="affinity-label remove-members",
    refusals=(NotFound, AffinityConflict),
)
class TakeFromAffinityLabel(Command, frozen=True, kw_only=True):
    """Take an affinity label off VMs and hosts.

    What does not have it is not missed. With fewer hosts, groups may contradict each other.
    """

    id: Id
    vms: Ids = ()
    hosts: Ids = ()

    def decide(self, world: World, context: Context) -> Decision:
        """Take it off those that have it; no event where none does."""
        del context
        state = find_label(world, self.id)
        after = msgspec.structs.replace(
            state, vms=kept(state.vms, self.vms), hosts=kept(state.hosts, self.hosts)
        )
        return change_label(world, state, after)
