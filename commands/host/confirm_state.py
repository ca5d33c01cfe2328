"""Vouch for what a host runs, after a restore."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.state import lookup
from events.types.host import HostStateConfirmed


@command(
    "host.confirm_state",
    path="/v1/hosts/{id}/confirm_state",
    permission="MANIPULATE_HOST",
    verb="host confirm-state",
    refusals=(NotFound, WrongState, InvalidField),
)
class ConfirmHostState(Command, frozen=True, kw_only=True):
    """Vouch for what a host runs, after a restore.

    After Chronovisor was restored from a backup, nothing is started that a host might be running
    already, until the host has reported. Where it cannot report, this says that it runs no VM that
    was started after the backup: look at the machine first, and type its name. If it does run one,
    that VM may be started a second time, and two copies destroy its disks.
    """

    id: Id
    name: Name

    def decide(self, world: World, context: Context) -> Decision:
        """Record who vouched."""
        del context
        state = lookup.host(world, self.id)
        if not state.unconfirmed:
            raise WrongState(
                f"What host {state.name} runs is known.", remedy="There is nothing to confirm."
            )
        if self.name != state.name:
            raise InvalidField(
                f"The name typed is {self.name}, but the host's name is {state.name}.",
                remedy="Type the name of the host that you looked at.",
                field="name",
            )
        confirmed = HostStateConfirmed(name=state.name, reported=False)
        return Decision.of(self.id, *on(f"host/{self.id}", confirmed))
