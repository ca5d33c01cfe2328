"""Let a host take VMs again."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.host import Duty
from events.types.host import HostActivated


@command(
    "host.activate",
    path="/v1/hosts/{id}/activate",
    permission="MANIPULATE_HOST",
    verb="host activate",
    refusals=(NotFound, WrongState),
)
class ActivateHost(Command, frozen=True, kw_only=True):
    """Let a host take VMs again.

    Ends maintenance, or calls it off while it is being prepared. VMs do not come back by
    themselves.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Open the host again."""
        del context
        state = lookup.host(world, self.id)
        if state.duty is Duty.ACTIVE:
            raise WrongState(
                f"Host {state.name} is not in maintenance.", remedy="There is nothing to do."
            )
        return Decision.of(self.id, *on(f"host/{self.id}", HostActivated(name=state.name)))
