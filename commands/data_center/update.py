"""Rename a data center, or change its description."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import NameTaken, NotFound, PreconditionFailed
from commands.state import lookup
from events.types.data_center import DataCenterRenamed


@command(
    "data_center.update",
    method="PATCH",
    path="/v1/data_centers/{id}",
    permission="EDIT_STORAGE_POOL_CONFIGURATION",
    verb="data-center update",
    refusals=(NotFound, NameTaken, PreconditionFailed),
)
class UpdateDataCenter(Command, frozen=True, kw_only=True):
    """Rename a data center, or change its description.

    Fields that are not given stay as they are.
    """

    id: Id
    name: Name | None = None
    description: Description | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Change what differs; no event where nothing does."""
        state = lookup.data_center(world, self.id)
        lookup.require_version(context.if_match, state.configuration_version)
        changed = DataCenterRenamed(
            name=state.name if self.name is None else self.name,
            previous_name=state.name,
            description=state.description if self.description is None else self.description,
        )
        if (changed.name, changed.description) == (state.name, state.description):
            return Decision.of(self.id)
        return Decision.of(self.id, *on(f"data_center/{self.id}", changed))
