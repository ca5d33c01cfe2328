"""Processes that stand still for 15 minutes, in full: nobody may be turned off for that.

`python -m tests.simulation.standstill`. Engine, policies and both are frozen while all is well;
then while a host that was cut off is being looked after, at each point before its silence is
confirmed, with the cut ending meanwhile. The clock is the simulation's.
"""

from __future__ import annotations

import asyncio

from commands.state.host import HostStatus
from tests.simulation.engine import PATIENCE
from tests.simulation.loop import Freezer
from tests.simulation.storm import Scene, Storm, main, tell
from tests.simulation.storm_boards import Boards
from tests.simulation.verdict import history, in_the_end
from tests.simulation.world import World

FROZEN_S = 900.0
LOOK_S = 0.005
WHO = (("engine",), ("policies",), ("engine", "policies"))
WHEN = ("host.silent", "host.fencing_begun", "host.silence_questioned")
"""How far a fencing may have come when all stands still.

Once the silence is confirmed, the order is out: the proxy, which does not stand still, turns the
host off within seconds, while it is silent.
"""


async def standstill(world: World, hosts: int, lost: int, then: int) -> Storm:
    """Freeze whom there is, at every point; return what was found."""
    del lost, then
    boards = world.power = Boards(world)
    scene, found = Scene(world), Storm(broken=world.broken)
    await scene.open(min(hosts, 6))
    await boards.attach()
    for who in WHO:
        await _stand_still(world, who, FROZEN_S)
        await scene.rest()
        _require_nobody(world, boards, f"{' and '.join(who)} stood still")
    for when in WHEN:
        await _return_in_a_standstill(scene, boards, when)
    tell(found, scene, f"{len(WHO) + len(WHEN)} times 15 minutes: nobody was turned off")
    in_the_end(world)
    return found


async def _return_in_a_standstill(scene: Scene, boards: Boards, when: str) -> None:
    """Cut a host off; freeze engine and policies at some point; let it be back when they wake."""
    world, head = scene.world, await scene.world.log.head()
    host = world.hosts[min(world.hosts)]
    host.partitioned = True
    began = world.loop.time()
    while not any(one.name == when for one in history(world)[head:]):
        if world.loop.time() - began > PATIENCE.timeout_s + PATIENCE.grace_s + 120:
            world.break_promise(f"no {when} came")
            break
        await asyncio.sleep(LOOK_S)
    freezers = _freezers(world, ("engine", "policies"))
    for freezer in freezers:
        freezer.freeze()
    await asyncio.sleep(FROZEN_S / 2)
    host.partitioned = False
    await asyncio.sleep(FROZEN_S / 2)
    for freezer in freezers:
        freezer.thaw()
    await scene.rest()
    _require_nobody(world, boards, f"all stood still at {when}")


async def _stand_still(world: World, who: tuple[str, ...], seconds: float) -> None:
    freezers = _freezers(world, who)
    for freezer in freezers:
        freezer.freeze()
    await asyncio.sleep(seconds)
    for freezer in freezers:
        freezer.thaw()


def _freezers(world: World, who: tuple[str, ...]) -> list[Freezer]:
    processes = {"engine": world.engine, "policies": world.policies[-1]}
    found = [process.freezer for name in who if (process := processes[name]) is not None]
    return [freezer for freezer in found if freezer is not None]


def _require_nobody(world: World, boards: Boards, what: str) -> None:
    """Require that no host was turned off, and that all are up with their VMs."""
    if boards.turned_off:
        world.break_promise(f"{what}, and {boards.turned_off} were turned off")
        boards.turned_off.clear()
    assert world.engine is not None
    for host in world.engine.view.hosts.values():
        if host.status is not HostStatus.UP:
            world.break_promise(f"{what}, and host {host.name} is {host.status}")


if __name__ == "__main__":
    main(standstill)
