"""Remove a data center."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InUse, NotFound
from commands.state import lookup
from events.types.data_center import DataCenterRemoved


@command(
    "data_center.remove",
    method="DELETE",
    path="/v1/data_centers/{id}",
    permission="DELETE_STORAGE_POOL",
    verb="data-center remove",
    refusals=(NotFound, InUse),
)
class RemoveDataCenter(Command, frozen=True, kw_only=True):
    """Remove a data center.

    It must not hold a cluster any more.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Remove it; clusters that refer to it refuse that by their claims."""
        del context
        state = lookup.data_center(world, self.id)
        return Decision.of(
            self.id, *on(f"data_center/{self.id}", DataCenterRemoved(name=state.name))
        )
