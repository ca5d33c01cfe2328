"""Have a host say anew what it can do."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.host import HostStatus
from commands.state.operation import begin
from events.envelope import NewEvent
from events.types.host_refresh import HostRefreshRequested

_ALLOWED = frozenset({HostStatus.UP, HostStatus.NON_OPERATIONAL, HostStatus.MAINTENANCE})


@command(
    "host.refresh",
    path="/v1/hosts/{id}/refresh",
    permission="MANIPULATE_HOST",
    verb="host refresh",
    long=True,
    refusals=(NotFound, WrongState),
)
class RefreshHost(Command, frozen=True, kw_only=True):
    """Have a host say anew what it can do.

    Agents report changes by themselves within a minute; this asks for it now, after a disk or a
    card was added, say. The agent opens another session; VMs are not touched.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Ask for it; the operation waits for the agent's word."""
        state = lookup.host(world, self.id)
        if state.status not in _ALLOWED:
            raise WrongState(
                f"Host {state.name} is {state.status.replace('_', ' ')}.",
                remedy="Only a host that answers can be asked.",
            )
        stream = f"host/{self.id}"
        requested = NewEvent(stream, HostRefreshRequested(name=state.name), self.id)
        operation = begin(
            context,
            "host.refresh",
            stream,
            state.name,
            "report",
        )
        return Decision.of(self.id, requested, operation, operation=str(context.command))
