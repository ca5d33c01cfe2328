"""Tell of a device that switches a host's power."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id, Name, Secret
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.state import lookup
from commands.state.power_fields import (
    AGENTS_MAX,
    Address,
    FenceType,
    OptionText,
    PortNumber,
    Turn,
    Username,
    options_of,
)
from events.types.host_power import FenceAgent, HostFenceAgentSet


@command(
    "host.add_fence_agent",
    path="/v1/hosts/{id}/fence_agents",
    permission="EDIT_HOST_CONFIGURATION",
    verb="host power add-agent",
    refusals=(NotFound, WrongState, InvalidField),
)
class AddFenceAgent(Command, frozen=True, kw_only=True):
    """Tell of a device that switches a host's power.

    Other hosts talk to it with a program of the fence-agents. Try it with 'host power test' before
    it is needed, and enable power management with 'host power configure --enabled'.
    """

    id: Id
    agent: Name
    type: FenceType
    address: Address
    port: PortNumber | None = None
    username: Username = ""
    password: Secret | None = None
    options: OptionText = ""
    order: Turn = 1

    def decide(self, world: World, context: Context) -> Decision:
        """Add it, under a name that the host's other agents do not have."""
        del context
        state = lookup.host(world, self.id)
        if state.power.agent(self.agent) is not None:
            raise WrongState(
                f"Host {state.name} has a fence agent {self.agent} already.",
                remedy="Choose another name, or change it with 'host power update-agent'.",
            )
        if len(state.power.agents) >= AGENTS_MAX:
            raise WrongState(
                f"Host {state.name} has {AGENTS_MAX} fence agents already.",
                remedy="Remove one first.",
            )
        agent = FenceAgent(
            name=self.agent,
            type=self.type,
            address=self.address,
            port=self.port,
            username=self.username,
            password=self.password or "",
            options=options_of(self.options),
            order=self.order,
        )
        added = HostFenceAgentSet(name=state.name, agent=agent)
        return Decision.of(self.id, *on(f"host/{self.id}", added))
