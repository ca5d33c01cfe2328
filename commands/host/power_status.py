"""Ask a host's fence agents whether it is on."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state.operation import begin
from commands.state.power_fields import require_power


@command(
    "host.power_status",
    path="/v1/hosts/{id}/power_status",
    permission="MANIPULATE_HOST",
    verb="host power status",
    long=True,
    refusals=(NotFound, WrongState),
)
class AskPowerStatus(Command, frozen=True, kw_only=True):
    """Ask a host's fence agents whether it is on.

    A proxy asks them, each order in turn until one answers. The operation ends with what they say;
    --wait shows it.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Begin to ask; nothing is changed."""
        state = require_power(world, self.id, None, "asked")
        operation = begin(
            context,
            "host.power_status",
            f"host/{self.id}",
            state.name,
            "status",
            cancellable=True,
        )
        return Decision.of(self.id, operation, operation=str(context.command))
