"""Create an affinity label."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NameTaken, NotFound
from commands.state.affinity_input import Ids, added_hosts, added_vms
from events.types.affinity import AffinityLabelCreated


@command(
    "affinity_label.create",
    path="/v1/affinity_labels",
    permission="MANIPULATE_AFFINITY_GROUPS",
    verb="affinity-label create",
    creates=True,
    refusals=(NotFound, NameTaken, InvalidField),
)
class CreateAffinityLabel(Command, frozen=True, kw_only=True):
    """Create an affinity label.

    It names a set of VMs and hosts, of any clusters. By itself it does nothing: affinity groups
    speak of it.
    """

    name: Name
    description: Description = ""
    vms: Ids = ()
    hosts: Ids = ()

    def decide(self, world: World, context: Context) -> Decision:
        """Create it; no group speaks of it yet."""
        created = AffinityLabelCreated(
            name=self.name,
            description=self.description,
            vms=added_vms(world, (), self.vms),
            hosts=added_hosts(world, (), self.hosts),
        )
        return Decision.of(context.ids[0], *on(f"affinity_label/{context.ids[0]}", created))
