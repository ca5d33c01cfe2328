"""Remove a MAC pool."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InUse, NotFound, WrongState
from commands.state.mac_pool import find
from events.types.mac_pool import DEFAULT_POOL, MacPoolRemoved


@command(
    "mac_pool.remove",
    method="DELETE",
    path="/v1/mac_pools/{id}",
    permission="DELETE_MAC_POOL",
    verb="mac-pool remove",
    refusals=(NotFound, InUse, WrongState),
)
class RemoveMacPool(Command, frozen=True, kw_only=True):
    """Remove a MAC pool.

    No cluster may use it any more. NICs keep the addresses that they got from it. The default pool
    stays.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Remove it; clusters that use it refuse that by their claims."""
        del context
        state = find(world, self.id)
        if self.id == DEFAULT_POOL:
            raise WrongState(
                f"MAC pool {state.name} is the default: clusters that name no pool use it.",
                remedy="Change its ranges instead ('mac-pool update').",
            )
        return Decision.of(self.id, *on(f"mac_pool/{self.id}", MacPoolRemoved(name=state.name)))
