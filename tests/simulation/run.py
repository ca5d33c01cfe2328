"""One run of the simulation, from a seed to what was found."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib

import msgspec

from commands.host.activate import ActivateHost
from commands.kernel.refusal import Refusal
from tests.simulation.chaos import Admins
from tests.simulation.misfortune import Misfortune
from tests.simulation.play import play
from tests.simulation.verdict import (
    consumers,
    history,
    in_the_end,
    operations,
    while_hosts_are_away,
)
from tests.simulation.world import World

CHAOS_S = 900.0
AFTERMATH_S = 150.0
REST_S = 900.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run."""

    seed: int
    events: int
    commands: int
    refused: int
    broken: tuple[str, ...]
    told: tuple[str, ...]
    names: dict[str, int]
    met: dict[str, int]
    digest: str


def simulate(seed: int, hosts: int = 3) -> Result:
    """Run the world of a seed."""
    return play(seed, lambda world: _run(world, hosts))


async def _run(world: World, hosts: int) -> Result:
    fenced = world.dice.random() < 0.5
    if fenced:
        world.give_boards()
    await world.open(hosts, world.dice.choice([1, 2]))
    if fenced:
        await world.attach_boards()
    world.start_consumers()
    admins = Admins(world)
    misfortune = Misfortune(world, admins)
    pace_s = world.dice.choice([3.0, 8.0, 20.0])
    chaos = [
        asyncio.create_task(admins.work(world.dice.choice([2.0, 6.0]))),
        asyncio.create_task(misfortune.work(pace_s)),
    ]
    await asyncio.sleep(CHAOS_S)
    for task in chaos:
        task.cancel()
    await asyncio.gather(*chaos, return_exceptions=True)
    world.note("the chaos is over")
    await _look(world)
    while_hosts_are_away(world)
    await world.mend()
    await asyncio.sleep(REST_S)
    if await _activate_what_is_waited_for(world):
        await asyncio.sleep(REST_S)
    in_the_end(world)
    await consumers(world)
    return Result(
        seed=world.seed,
        events=await world.log.head(),
        commands=world.commands,
        refused=world.refused,
        broken=(*world.broken, *world.loop_errors()),
        told=tuple(world.told),
        digest=digest(world),
        met=dict(world.met),
        names=dict(collections.Counter(stored.name for stored in world.log._events)),
    )


async def _activate_what_is_waited_for(world: World) -> bool:
    """Activate hosts in maintenance where something that waits says that this is what it needs."""
    open_now = [one for one in operations(history(world)).values() if one.open]
    if not any("is in maintenance" in (one.attention or "") for one in open_now):
        return False
    world.note("hosts in maintenance are activated, since something waits for them")
    for host in sorted(world.hosts):
        with contextlib.suppress(Refusal):
            await world.do(ActivateHost(id=host))
    return True


def digest(world: World) -> str:
    """Return the digest of every byte of the log."""
    return hashlib.sha256(msgspec.msgpack.encode(world.log._events)).hexdigest()


async def _look(world: World) -> None:
    """Keep hosts as they are, but the engine and the policies running, for a while."""
    for task in list(world.tasks):
        task.cancel()
    await asyncio.sleep(0)
    world.run_all()
    await asyncio.sleep(AFTERMATH_S)
