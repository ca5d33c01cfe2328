"""Try a host's power management without changing anything."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state.operation import begin
from commands.state.power_fields import require_power


@command(
    "host.power_test",
    path="/v1/hosts/{id}/power_test",
    permission="MANIPULATE_HOST",
    verb="host power test",
    long=True,
    refusals=(NotFound, WrongState),
)
class TestPower(Command, frozen=True, kw_only=True):
    """Try a host's power management without changing anything.

    Every fence agent is asked for its status, by a proxy that would do the fencing. The operation
    fails where one does not answer, or where they disagree, and says what turning the host off
    would need. Whether off is really off only 'host power test-off' can tell.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Begin to ask; nothing is changed."""
        state = require_power(world, self.id, None, "tested")
        operation = begin(
            context,
            "host.power_test",
            f"host/{self.id}",
            state.name,
            "status",
            cancellable=True,
        )
        return Decision.of(self.id, operation, operation=str(context.command))
