"""Storms against fencing: hosts are cut off, and run on; power management is what proves them off.

`python -m tests.simulation.storm_fencing [--hosts 200] [--lost 50] [--then 150]`. Few at once are
turned off, a bounded number at a time, and their VMs start elsewhere; too many at once are left
alone, which is said once; when the cut ends, everything runs where it did.
"""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING

from commands.host.add_fence_agent import AddFenceAgent
from commands.host.configure_power import ConfigurePower
from commands.state.host import HostStatus
from events.types.host_power import FenceAction, FenceAgent, PowerState
from hostagent.power import Told
from tests.simulation.engine import TIMEOUTS
from tests.simulation.storm import PER_HOST, Scene, Storm, check_bounds, check_order, main, tell
from tests.simulation.verdict import history, in_the_end, operations
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedHost

BMC_S = 3.0
"""What a management board takes to switch."""


class Boards:
    """The hosts' management boards: they answer whatever becomes of the hosts' network."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.turned_off: list[str] = []

    def installed(self) -> tuple[str, ...]:
        """See `Power.installed`."""
        return ("simulated",)

    async def run(self, agent: FenceAgent, action: FenceAction, timeout_s: float) -> Told:
        """See `Power.run`: the board's address is the host's name."""
        del timeout_s
        host = self._host(agent.address)
        await asyncio.sleep(BMC_S)
        if action is FenceAction.OFF and host.powered:
            self.turned_off.append(host.name)
            host.lose_power()
        elif action is FenceAction.ON and not host.powered:
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


async def storm(world: World, hosts: int, lost: int, then: int) -> Storm:
    """Cut some hosts off, then many, then end the cut; return what was found."""
    boards = world.power = Boards(world)
    scene, found = Scene(world), Storm(broken=world.broken)
    await scene.open(hosts)
    for host in world.hosts.values():
        await world.do(
            AddFenceAgent(id=host.id, agent="board", type="simulated", address=host.name)
        )
        await world.do(ConfigurePower(id=host.id, enabled=True))
    tell(found, scene, f"{hosts} hosts with {len(scene.vms)} VMs are up, and can be fenced")
    await _few_are_cut_off(scene, found, boards, lost)
    await _many_are_cut_off(scene, found, boards, then)
    in_the_end(world)
    return found


async def _few_are_cut_off(scene: Scene, found: Storm, boards: Boards, lost: int) -> None:
    """Under the limit: each is turned off, and on; its VMs run elsewhere, or there again."""
    world, head = scene.world, await scene.world.log.head()
    gone = sorted(world.hosts)[:lost]
    for host in gone:
        world.hosts[host].partitioned = True
    lost_vms = lost * PER_HOST

    def all_run_again() -> bool:
        placed = sum(stored.name == "vm.placed" for stored in world.log._events[head:])
        return placed == lost_vms and scene.up() == len(scene.vms)

    took_s = await scene.until(all_run_again, 3_000, "all VMs to run again")
    await scene.rest()
    recorded = history(world)
    if sorted(boards.turned_off) != sorted(world.hosts[host].name for host in gone):
        world.break_promise(f"turned off were {boards.turned_off}")
    names = collections.Counter(one.name for one in recorded[head:])
    if names["vm.placed"] != lost_vms:
        world.break_promise(f"{names['vm.placed']} VMs were placed, {lost_vms} were lost")
    at_once = _at_once_max(scene, head)
    if at_once > TIMEOUTS.fencing.at_once_max:
        world.break_promise(f"{at_once} hosts were fenced at a time")
    check_bounds(world, recorded, head)
    check_order(world, recorded, head)
    tell(
        found,
        scene,
        f"{lost} hosts were cut off and turned off, at most {at_once} at a time: all"
        f" {lost_vms} VMs run again after {took_s:g} s",
    )


async def _many_are_cut_off(scene: Scene, found: Storm, boards: Boards, then: int) -> None:
    """Over the limit: nobody is turned off, nothing is started, and it is said once."""
    world, head = scene.world, await scene.world.log.head()
    boards.turned_off.clear()
    for host in sorted(world.hosts)[:then]:
        world.hosts[host].partitioned = True
    await scene.rest()
    names = collections.Counter(one.name for one in history(world)[head:])
    if boards.turned_off or names["host.fence_ordered"] or names["vm.placed"]:
        world.break_promise(f"{then} hosts are cut off, and something was done about it: {names}")
    if names["cluster.fencing_held"] != 1:
        world.break_promise(
            f"that too many are lost was said {names['cluster.fencing_held']} times"
        )
    for machine in world.hosts.values():
        machine.partitioned = False
    await scene.until(lambda: _up(world) == len(world.hosts), 600, "all hosts to be up")
    await scene.rest()
    names = collections.Counter(one.name for one in history(world)[head:])
    if boards.turned_off or names["vm.placed"] or names["vm.down"]:
        world.break_promise(f"the cut is over, and something was done about it: {names}")
    tell(
        found,
        scene,
        f"{then} hosts were cut off, which was said once: nobody was turned off, and all"
        f" {scene.up()} VMs ran on",
    )


def _up(world: World) -> int:
    assert world.engine is not None
    return sum(host.status is HostStatus.UP for host in world.engine.view.hosts.values())


def _at_once_max(scene: Scene, head: int) -> int:
    """Return how many hosts were being fenced at a time, at most."""
    now, most = set(), 0
    recorded = history(scene.world)
    fencing = {key for key, one in operations(recorded).items() if one.kind == "host.fence"}
    for one in recorded[head:]:
        if one.object_id in fencing and one.name == "operation.started":
            now.add(one.object_id)
        elif one.name == "operation.ended":
            now.discard(one.object_id)
        most = max(most, len(now))
    return most


if __name__ == "__main__":
    main(storm)
