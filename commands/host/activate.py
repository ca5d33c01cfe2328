"""Let a host take VMs again."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import fitness, lookup
from commands.state.host import Duty, HostState, HostStatus
from events.types.base import Event
from events.types.host import HostActivated


@command(
    "host.activate",
    path="/v1/hosts/{id}/activate",
    permission="MANIPULATE_HOST",
    verb="host activate",
    refusals=(NotFound, WrongState),
)
class ActivateHost(Command, frozen=True, kw_only=True):
    """Let a host take VMs again.

    Ends maintenance, or calls it off while it is being prepared; or ends the error of a host on
    which starts had failed. VMs do not come back by themselves.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Open the host again."""
        del context
        state = lookup.host(world, self.id)
        cluster = lookup.cluster(world, state.cluster)
        found = fitness.found(state, cluster, state.capabilities)
        if state.duty is Duty.ACTIVE and state.failing.since is None:
            _require_news(state, found)
        events = (HostActivated(name=state.name), *((found,) if found is not None else ()))
        return Decision.of(self.id, *on(f"host/{self.id}", *events))


def _require_news(state: HostState, found: Event | None) -> None:
    """Refuse to activate what is active, unless it is fit by now."""
    if found is not None:
        return
    if state.status is HostStatus.NON_OPERATIONAL:
        why = " ".join(each.reason for each in state.unfit)
        raise WrongState(
            f"Host {state.name} is not fit for its cluster: {why}",
            remedy="Put that right; it is up again by itself once it reports so.",
        )
    raise WrongState(f"Host {state.name} is not in maintenance.", remedy="There is nothing to do.")
