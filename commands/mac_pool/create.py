"""Create a MAC pool."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NameTaken
from commands.state.mac_input import Ranges, ranges_of
from events.types.mac_pool import MacPoolCreated


@command(
    "mac_pool.create",
    path="/v1/mac_pools",
    permission="CREATE_MAC_POOL",
    verb="mac-pool create",
    creates=True,
    refusals=(NameTaken, InvalidField),
)
class CreateMacPool(Command, frozen=True, kw_only=True):
    """Create a MAC pool.

    NICs of the clusters that use it get their addresses from its ranges. An address belongs to one
    VM, whichever pool it came from, except where all who have it are of pools with
    allow_duplicates.
    """

    name: Name
    description: Description = ""
    ranges: Ranges
    allow_duplicates: bool = False

    def decide(self, world: World, context: Context) -> Decision:
        """Create it under a new id; the name's claim refuses a second one."""
        del world
        created = MacPoolCreated(
            name=self.name,
            description=self.description,
            ranges=ranges_of(self.ranges),
            allow_duplicates=self.allow_duplicates,
        )
        return Decision.of(context.ids[0], *on(f"mac_pool/{context.ids[0]}", created))
