"""Put a host into maintenance."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.host import Duty, HostStatus
from commands.state.operation import begin
from events.types.host import HostMaintenanceRequested

_ALLOWED = frozenset({HostStatus.UP, HostStatus.UNASSIGNED, HostStatus.NON_RESPONSIVE})


@command(
    "host.maintenance",
    path="/v1/hosts/{id}/maintenance",
    permission="MANIPULATE_HOST",
    verb="host maintenance",
    long=True,
    refusals=(NotFound, WrongState),
)
class MaintainHost(Command, frozen=True, kw_only=True):
    """Put a host into maintenance.

    The host takes no more VMs at once, and is in maintenance as soon as the last one is gone. The
    operation shows which VMs it waits for; cancel it, or activate the host, to call it off.
    """

    id: Id
    reason: Description = ""

    def decide(self, world: World, context: Context) -> Decision:
        """Close the host; the operation waits for its VMs."""
        state = lookup.host(world, self.id)
        if state.duty is not Duty.ACTIVE or state.status not in _ALLOWED:
            raise WrongState(
                f"Host {state.name} is {state.status.replace('_', ' ')}.",
                remedy="Only a host that takes VMs can be put into maintenance.",
            )
        stream = f"host/{self.id}"
        requested = HostMaintenanceRequested(name=state.name, reason=self.reason)
        operation = begin(
            context, "host.maintenance", stream, state.name, "drain", cancellable=True
        )
        return Decision.of(
            self.id, *on(stream, requested), operation, operation=str(context.command)
        )
