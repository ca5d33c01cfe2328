"""Put an affinity label on VMs and hosts."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound
from commands.state.affinity import AffinityConflict, find_label
from commands.state.affinity_change import change_label
from commands.state.affinity_input import Ids, added_hosts, added_vms


@command(
    "affinity_label.add_members",
    path="/v1/affinity_labels/{id}/add_members",
    permission="MANIPULATE_AFFINITY_GROUPS",
    verb="affinity-label add-members",
    refusals=(NotFound, InvalidField, AffinityConflict),
)
class AddToAffinityLabel(Command, frozen=True, kw_only=True):
    """Put an affinity label on VMs and hosts.

    Members that have it already keep it. Refused where groups that speak of it would contradict
    each other.
    """

    id: Id
    vms: Ids = ()
    hosts: Ids = ()

    def decide(self, world: World, context: Context) -> Decision:
        """Add those that do not have it; no event where all do."""
        del context
        state = find_label(world, self.id)
        after = msgspec.structs.replace(
            state,
            vms=added_vms(world, state.vms, self.vms),
            hosts=added_hosts(world, state.hosts, self.hosts),
        )
        return change_label(world, state, after)
