"""Vouch that a host's machine is off."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.state import lookup
from commands.state.host import HostStatus
from events.types.host import HostConfirmedOff

_ALLOWED = frozenset({HostStatus.UNASSIGNED, HostStatus.DOWN})


@command(
    "host.confirm_off",
    path="/v1/hosts/{id}/confirm_off",
    permission="MANIPULATE_HOST",
    verb="host confirm-off",
    refusals=(NotFound, WrongState, InvalidField),
)
class ConfirmHostOff(Command, frozen=True, kw_only=True):
    """Vouch that a host's machine is off.

    Its VMs are then taken as ended, and may be started elsewhere. If the machine does run, its
    VMs' disks will be destroyed by two copies: look at the machine first, pull its plug, and type
    its name.
    """

    id: Id
    name: Name

    def decide(self, world: World, context: Context) -> Decision:
        """Record who vouched; a policy then ends the VMs that may have run there."""
        del context
        state = lookup.host(world, self.id)
        if state.status is HostStatus.REBOOT:
            raise WrongState(
                f"Host {state.name} was turned on, and boots.",
                remedy="What ran there has ended, as was proved before. 'host power stop' turns it"
                " off again.",
            )
        if not (state.mute or state.status in _ALLOWED):
            raise WrongState(
                f"Host {state.name} is {state.status.replace('_', ' ')}: it answers, so it is on.",
                remedy="Only a host that does not answer can be confirmed off.",
            )
        if self.name != state.name:
            raise InvalidField(
                f"The name typed is {self.name}, but the host's name is {state.name}.",
                remedy="Type the name of the host whose machine you saw to be off.",
                field="name",
            )
        return Decision.of(self.id, *on(f"host/{self.id}", HostConfirmedOff(name=state.name)))
