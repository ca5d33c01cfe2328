"""Turn a host off."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state.operation import begin
from commands.state.power_fields import MAY_BE_OFF, require_power


@command(
    "host.power_stop",
    path="/v1/hosts/{id}/power_stop",
    permission="MANIPULATE_HOST",
    verb="host power stop",
    long=True,
    refusals=(NotFound, WrongState),
)
class PowerStop(Command, frozen=True, kw_only=True):
    """Turn a host off.

    At once, as a pulled plug does it. The host must be in maintenance, or not answer. That it is
    off is verified; then what ran there is taken as ended, and can start elsewhere.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Begin to turn it off."""
        state = require_power(world, self.id, MAY_BE_OFF, "turned off")
        operation = begin(
            context,
            "host.power_stop",
            f"host/{self.id}",
            state.name,
            "off",
            cancellable=True,
        )
        return Decision.of(self.id, operation, operation=str(context.command))
