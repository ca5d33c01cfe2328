"""Change a host's fence agent."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id, Name, Secret
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound
from commands.state import lookup
from commands.state.power_fields import (
    Address,
    FenceType,
    OptionText,
    PortNumber,
    Turn,
    Username,
    options_of,
    require_agent,
)
from events.types.host_power import HostFenceAgentSet


@command(
    "host.update_fence_agent",
    method="PATCH",
    path="/v1/hosts/{id}/fence_agents",
    permission="EDIT_HOST_CONFIGURATION",
    verb="host power update-agent",
    refusals=(NotFound, InvalidField),
)
class UpdateFenceAgent(Command, frozen=True, kw_only=True):
    """Change a host's fence agent.

    What is not given stays as it is. Options are replaced as a whole. A password that is replaced
    is forgotten.
    """

    id: Id
    agent: Name
    type: FenceType | None = None
    address: Address | None = None
    port: PortNumber | msgspec.UnsetType | None = msgspec.UNSET
    username: Username | None = None
    password: Secret | None = None
    options: OptionText | None = None
    order: Turn | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Change it; no event where it is so already."""
        del context
        state = lookup.host(world, self.id)
        agent = require_agent(state, self.agent)
        given = {
            name: value
            for name in ("type", "address", "username", "password", "order")
            if (value := getattr(self, name)) is not None
        }
        changed = msgspec.structs.replace(agent, **given)
        if self.port is not msgspec.UNSET:
            changed = msgspec.structs.replace(changed, port=self.port)
        if self.options is not None:
            changed = msgspec.structs.replace(changed, options=options_of(self.options))
        if changed == agent:
            return Decision.of(self.id)
        updated = HostFenceAgentSet(name=state.name, agent=changed)
        return Decision.of(self.id, *on(f"host/{self.id}", updated))
