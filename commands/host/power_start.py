"""Turn a host on."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state.host import HostStatus
from commands.state.operation import begin
from commands.state.power_fields import require_power

_HEARD = frozenset(
    {HostStatus.UP, HostStatus.NON_OPERATIONAL, HostStatus.PREPARING_FOR_MAINTENANCE}
)
"""In these a host is heard, so that it is on; in maintenance it may be off."""


@command(
    "host.power_start",
    path="/v1/hosts/{id}/power_start",
    permission="MANIPULATE_HOST",
    verb="host power start",
    long=True,
    refusals=(NotFound, WrongState),
)
class PowerStart(Command, frozen=True, kw_only=True):
    """Turn a host on.

    It ends once the fence agents say that the host is on; the host is up once its agent says hello.
    A host that is heard is on, and refused, but for one in maintenance.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Begin to turn it on; no harm in maintenance where it is on."""
        state = require_power(world, self.id, None, "turned on")
        if state.status in _HEARD:
            raise WrongState(
                f"Host {state.name} is {state.status.replace('_', ' ')}: it was heard a moment ago,"
                " so that it is on.",
                remedy="To turn it off and on again, put it into maintenance, and use 'host power"
                " restart'.",
            )
        operation = begin(
            context,
            "host.power_start",
            f"host/{self.id}",
            state.name,
            "on",
            cancellable=True,
        )
        return Decision.of(self.id, operation, operation=str(context.command))
