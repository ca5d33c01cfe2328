"""Storms against fencing: hosts are cut off, and run on; power management is what proves them off.

`python -m tests.simulation.storm_fencing [--hosts 200] [--lost 50] [--then 150]`. Few at once are
turned off, a bounded number at a time, and their VMs start elsewhere; too many at once are left
alone, which is said once; when the cut ends, everything runs where it did.
"""

from __future__ import annotations

import collections

from commands.state.host import HostStatus
from tests.simulation.engine import TIMEOUTS
from tests.simulation.storm import PER_HOST, Scene, Storm, main, tell
from tests.simulation.storm_boards import Boards
from tests.simulation.storm_checks import (
    check_bounds,
    check_fenced_at_once,
    check_hellos,
    check_order,
)
from tests.simulation.verdict import history, in_the_end
from tests.simulation.world import World


async def storm(world: World, hosts: int, lost: int, then: int) -> Storm:
    """Cut some hosts off, then many, then end the cut; return what was found."""
    boards = world.power = Boards(world)
    scene, found = Scene(world), Storm(broken=world.broken)
    await scene.open(hosts)
    await boards.attach()
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
    at_once = check_fenced_at_once(world, recorded, head, TIMEOUTS.fencing.at_once_max)
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
    returned = world.loop.time()
    for machine in world.hosts.values():
        machine.partitioned = False
    await scene.until(lambda: _up(world) == len(world.hosts), 600, "all hosts to be up")
    await scene.rest()
    hellos = check_hellos(world, returned)
    names = collections.Counter(one.name for one in history(world)[head:])
    if boards.turned_off or names["vm.placed"] or names["vm.down"]:
        world.break_promise(f"the cut is over, and something was done about it: {names}")
    tell(
        found,
        scene,
        f"{then} hosts were cut off, which was said once: nobody was turned off, and all"
        f" {scene.up()} VMs ran on; at most {hellos} hellos in a second were said then",
    )


def _up(world: World) -> int:
    assert world.engine is not None
    return sum(host.status is HostStatus.UP for host in world.engine.view.hosts.values())


if __name__ == "__main__":
    main(storm)
