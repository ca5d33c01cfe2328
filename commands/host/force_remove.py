"""Remove a host whose machine will not come back."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.state import lookup
from commands.state.host import Duty, HostState
from events.types.host import HostRemoved


@command(
    "host.force_remove",
    path="/v1/hosts/{id}/force_remove",
    permission="DELETE_HOST",
    verb="host force-remove",
    refusals=(NotFound, WrongState, InvalidField),
)
class ForceRemoveHost(Command, frozen=True, kw_only=True):
    """Remove a host whose machine will not come back.

    The machine must be proved to be off (`host confirm-off`), or never have joined: what may run
    there stays unknown until then, and no force changes that. The disks that lie there are given
    up: their VMs can only be removed. Type the host's name.
    """

    id: Id
    name: Name

    def decide(self, world: World, context: Context) -> Decision:
        """Remove it, and leave what refers to it to refer to its tombstone."""
        del context
        state = lookup.host(world, self.id)
        lookup.require_no_ssh(state)
        _require_nothing_runs(state)
        if self.name != state.name:
            raise InvalidField(
                f"The name typed is {self.name}, but the host's name is {state.name}.",
                remedy="Type the name of the host whose disks you give up.",
                field="name",
            )
        removed = HostRemoved(name=state.name, cluster=state.cluster, forced=True)
        return Decision.of(self.id, *on(f"host/{self.id}", removed))


def _require_nothing_runs(state: HostState) -> None:
    """Refuse while a VM may be running there, or while an operation looks at the host."""
    if state.duty is Duty.PREPARING:
        raise WrongState(
            f"Host {state.name} is being prepared for maintenance.",
            remedy="Cancel that first: 'host activate'.",
        )
    # After a restore of the log a host may be unknown to have joined; it is silent then.
    never_joined = state.boot is None and not state.silent
    if not never_joined and not state.proved_off:
        raise WrongState(
            f"Host {state.name} has been in service, and its machine is not proved to be off: VMs"
            " may run there.",
            remedy="See that the machine is off, and vouch for it with 'host confirm-off'; a host"
            " in maintenance is activated first. A host that answers is removed with 'host"
            " remove'.",
        )
