"""Change a MAC pool."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NameTaken, NotFound, PreconditionFailed
from commands.state import lookup
from commands.state.mac_input import Ranges, ranges_of
from commands.state.mac_pool import find, left_in, level_of
from events.types.mac_pool import MacPoolUpdated


@command(
    "mac_pool.update",
    method="PATCH",
    path="/v1/mac_pools/{id}",
    permission="EDIT_MAC_POOL",
    verb="mac-pool update",
    refusals=(NotFound, NameTaken, InvalidField, PreconditionFailed),
)
class UpdateMacPool(Command, frozen=True, kw_only=True):
    """Change a MAC pool.

    Fields that are not given stay as they are; ranges are replaced as a whole. NICs that are there
    keep their addresses, also those outside of the ranges. VMs that share an address when
    allow_duplicates ends keep it, and no other gets it.
    """

    id: Id
    name: Name | None = None
    description: Description | None = None
    ranges: Ranges | None = None
    allow_duplicates: bool | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Change what differs; no event where nothing does."""
        state = find(world, self.id)
        lookup.require_version(context.if_match, state.configuration_version)
        given = {
            "name": self.name,
            "description": self.description,
            "ranges": ranges_of(self.ranges) if self.ranges is not None else None,
            "allow_duplicates": self.allow_duplicates,
        }
        wanted = msgspec.structs.replace(
            state, **{name: value for name, value in given.items() if value is not None}
        )
        if wanted == state:
            return Decision.of(self.id)
        changed = MacPoolUpdated(
            name=wanted.name,
            previous_name=state.name,
            description=wanted.description,
            ranges=wanted.ranges,
            allow_duplicates=wanted.allow_duplicates,
        )
        level = level_of(wanted, left_in(wanted, context)) if wanted.ranges != state.ranges else ()
        return Decision.of(self.id, *on(f"mac_pool/{self.id}", changed, *level))
