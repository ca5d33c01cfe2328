"""Let a host in."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from events.types.host import HostApproved


@command(
    "host.approve",
    path="/v1/hosts/{id}/approve",
    permission="CREATE_HOST",
    verb="host approve",
    refusals=(NotFound, WrongState),
)
class ApproveHost(Command, frozen=True, kw_only=True):
    """Let a host in.

    Its key and machine identity are pinned from here on. Approving a host whose identity was used
    by two machines lets it in again: see that one of them is gone first.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Approve a host that waits for it."""
        del context
        state = lookup.host(world, self.id)
        if state.approved and not state.duplicate:
            raise WrongState(
                f"Host {state.name} is approved already.", remedy="There is nothing to do."
            )
        return Decision.of(self.id, *on(f"host/{self.id}", HostApproved(name=state.name)))
