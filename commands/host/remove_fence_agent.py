"""Forget a host's fence agent."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound
from commands.state import lookup
from commands.state.power_fields import require_agent
from events.types.host_power import HostFenceAgentRemoved


@command(
    "host.remove_fence_agent",
    path="/v1/hosts/{id}/remove_fence_agent",
    permission="EDIT_HOST_CONFIGURATION",
    verb="host power remove-agent",
    refusals=(NotFound, InvalidField),
)
class RemoveFenceAgent(Command, frozen=True, kw_only=True):
    """Forget a host's fence agent, and its password.

    A host without fence agents is not fenced: while it does not answer, its VMs wait for a person.
    """

    id: Id
    agent: Name

    def decide(self, world: World, context: Context) -> Decision:
        """Remove it."""
        del context
        state = lookup.host(world, self.id)
        require_agent(state, self.agent)
        removed = HostFenceAgentRemoved(name=state.name, agent=self.agent)
        return Decision.of(self.id, *on(f"host/{self.id}", removed))
