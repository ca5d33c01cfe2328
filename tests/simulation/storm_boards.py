"""Management boards that do as they are told, for storms: how the machines are, they say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from commands.host.add_fence_agent import AddFenceAgent
from commands.host.configure_power import ConfigurePower
from events.types.host_power import FenceAction, FenceAgent, PowerState
from hostagent.power import Told

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedHost
    from tests.simulation.world import World

BMC_S = 3.0
"""What a management board takes to switch."""
KIND = "simulated"


class Boards:
    """The hosts' management boards: they answer whatever becomes of the hosts and their network.

    `turned_off` are the hosts that were on when they were turned off. Of those in `without_mains`
    the board runs on another supply: it answers, and its machine cannot be turned on.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.turned_off: list[str] = []
        self.without_mains: set[str] = set()

    async def attach(self) -> None:
        """Tell the engine of every host's board, whose address is the host's name."""
        for host in self._world.hosts.values():
            await self._world.do(
                AddFenceAgent(id=host.id, agent="board", type=KIND, address=host.name)
            )
            await self._world.do(ConfigurePower(id=host.id, enabled=True))

    def installed(self) -> tuple[str, ...]:
        """See `Power.installed`."""
        return (KIND,)

    async def run(self, agent: FenceAgent, action: FenceAction, timeout_s: float) -> Told:
        """See `Power.run`."""
        del timeout_s
        host = self._host(agent.address)
        await asyncio.sleep(BMC_S)
        if action is FenceAction.OFF and host.powered:
            self.turned_off.append(host.name)
            host.lose_power()
        elif action is FenceAction.ON and not host.powered and host.id not in self.without_mains:
            host.partitioned = False  # whatever hung in it does so no more
            host.boot()
        state = PowerState.ON if host.powered else PowerState.OFF
        return Told(succeeded=True, state=state)

    async def answers(self, address: str, timeout_s: float) -> bool:
        """See `Power.answers`."""
        await asyncio.sleep(min(timeout_s, 1.0))
        assert self._world.engine is not None
        for state in self._world.engine.view.hosts.values():
            abilities, host = state.capabilities, self._world.hosts[state.id]
            if abilities is not None and abilities.migration_address == address:
                return host.powered and not host.partitioned
        return False

    def _host(self, name: str) -> SimulatedHost:
        return next(host for host in self._world.hosts.values() if host.name == name)
