"""Remove an affinity label."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InUse, NotFound
from commands.state.affinity import find_label
from events.types.affinity import AffinityLabelRemoved


@command(
    "affinity_label.remove",
    method="DELETE",
    path="/v1/affinity_labels/{id}",
    permission="MANIPULATE_AFFINITY_GROUPS",
    verb="affinity-label remove",
    refusals=(NotFound, InUse),
)
class RemoveAffinityLabel(Command, frozen=True, kw_only=True):
    """Remove an affinity label.

    No affinity group may speak of it any more.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Remove it; groups that speak of it refuse that by their claims."""
        del context
        state = find_label(world, self.id)
        removed = AffinityLabelRemoved(name=state.name)
        return Decision.of(self.id, *on(f"affinity_label/{self.id}", removed))
