"""Rename an affinity label, or change its description."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Description, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import NameTaken, NotFound
from commands.state.affinity import AffinityConflict, find_label
from commands.state.affinity_change import change_label


@command(
    "affinity_label.update",
    method="PATCH",
    path="/v1/affinity_labels/{id}",
    permission="MANIPULATE_AFFINITY_GROUPS",
    verb="affinity-label update",
    refusals=(NotFound, NameTaken, AffinityConflict),
)
class UpdateAffinityLabel(Command, frozen=True, kw_only=True):
    """Rename an affinity label, or change its description.

    Fields that are not given stay as they are.
    """

    id: Id
    name: Name | None = None
    description: Description | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Change what differs; no event where nothing does."""
        del context
        state = find_label(world, self.id)
        after = msgspec.structs.replace(
            state,
            name=state.name if self.name is None else self.name,
            description=state.description if self.description is None else self.description,
        )
        return change_label(world, state, after)
