"""Try whether a host can really be turned off."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state.host import HostStatus
from commands.state.operation import begin
from commands.state.power_fields import require_power

_ALLOWED = frozenset({HostStatus.MAINTENANCE})


@command(
    "host.power_test_off",
    path="/v1/hosts/{id}/power_test_off",
    permission="MANIPULATE_HOST",
    verb="host power test-off",
    long=True,
    refusals=(NotFound, WrongState),
)
class TestPowerOff(Command, frozen=True, kw_only=True):
    """Try whether a host can really be turned off.

    The host must be in maintenance. It is turned off as a fencing would do it, that it is off is
    verified by the status of every agent and by its silence, and it is turned on again.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Begin with the status."""
        state = require_power(world, self.id, _ALLOWED, "turned off for a test")
        operation = begin(
            context,
            "host.power_test_off",
            f"host/{self.id}",
            state.name,
            "status",
            "off",
            "on",
            cancellable=True,
        )
        return Decision.of(self.id, operation, operation=str(context.command))
