"""Remove a host."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InUse, NotFound, WrongState
from commands.state import lookup
from commands.state.host import HostStatus
from events.types.host import HostRemoved

_REMOVABLE = frozenset(
    {
        HostStatus.INSTALLING,
        HostStatus.INSTALL_FAILED,
        HostStatus.PENDING_APPROVAL,
        HostStatus.UNASSIGNED,
        HostStatus.DOWN,
    }
)


@command(
    "host.remove",
    method="DELETE",
    path="/v1/hosts/{id}",
    permission="DELETE_HOST",
    verb="host remove",
    refusals=(NotFound, WrongState, InUse),
)
class RemoveHost(Command, frozen=True, kw_only=True):
    """Remove a host.

    It must be in maintenance, or known to be off, or never have come into service, and hold no VM's
    disks. Its certificate counts no more from then on.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Remove it; VMs whose disks lie there refuse that by their claims."""
        del context
        state = lookup.host(world, self.id)
        lookup.require_no_ssh(state)
        lookup.require_out_of_service(state, _REMOVABLE)
        removed = HostRemoved(name=state.name, cluster=state.cluster)
        return Decision.of(self.id, *on(f"host/{self.id}", removed))
