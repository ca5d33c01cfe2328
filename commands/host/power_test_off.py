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

    The host must be in maintenance, on, and heard. It is turned off as a fencing would do it. Once
    its fence agents say that it is off, nothing may be heard of it any more, until it was turned on
    again and has booted: the test succeeds only when it says hello with another boot.
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
            "heard",
            "off",
            "silent",
            "on",
            "back",
            cancellable=True,
        )
        return Decision.of(self.id, operation, operation=str(context.command))
