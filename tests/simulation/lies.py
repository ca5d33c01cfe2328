"""Each lie of a board, on a host that is dead, alive but not heard, or reached by nothing.

`python -m tests.simulation.lies`. A highly available VM runs on the host; a person never says
anything. Told is what became of the host and the VM before the host was back, and checked against
what contract D says; then all is mended, and must come to rest.

Each lie is tested, too, on a host in maintenance that no proxy sees (`host power test-off`): only
where the host really was off may the test succeed.
"""

from __future__ import annotations

import asyncio
import collections
import enum
import functools
import sys

from commands.host.maintenance import MaintainHost
from commands.host.power_test_off import TestPowerOff
from commands.state.vm import VmStatus
from events.types.operation import Outcome
from tests.simulation.boards import Lie
from tests.simulation.every_step import REST_S, SEED
from tests.simulation.play import play
from tests.simulation.scenes import highly_available
from tests.simulation.verdict import consumers, history, in_the_end, operations
from tests.simulation.world import World

LOOK_S = 400.0
FEW_S = 10.0
TEST_S = 1_200.0
RESTARTED = "the VM runs elsewhere"
WAITS = "the VM waits, and why is said"


class Plight(enum.StrEnum):
    """What is the matter with the host."""

    DEAD = "dead"
    UNHEARD = "alive, not heard"
    ISOLATED = "alive, reached by nothing"


BELIEVED = {Lie.SAYS_OFF, Lie.PRETENDS}
"""What contract D cannot notice where nothing reaches the host."""
NEVER_PROVED = {Lie.SAYS_ON, Lie.IDLE, Lie.SILENT}
SOUND = {Lie.NONE, Lie.LOSES_ANSWERS}
"""Boards that do what they are told, and can be asked."""
UNSOUND = NEVER_PROVED | BELIEVED
"""Boards of which the test must find out."""


def expected(lie: Lie, plight: Plight) -> set[str]:
    """Return what may have become of the VM after `LOOK_S`."""
    if lie is Lie.FLICKERS or lie is Lie.LATE:
        return {RESTARTED, WAITS}  # it is off some time, and seen to be, some time
    if lie in BELIEVED:
        return {WAITS} if plight is Plight.UNHEARD else {RESTARTED}
    if lie is Lie.IDLE and plight is Plight.DEAD:
        return {RESTARTED}  # it is off already, and the board says so
    return {WAITS} if lie in NEVER_PROVED else {RESTARTED}


async def lied(world: World, lie: Lie, plight: Plight) -> tuple[str, list[str]]:
    """Return what became of the VM, and the promises that broke."""
    world.share_storage()
    boards = world.give_boards()
    await world.open(3)
    for machine in world.hosts.values():
        await boards.attach(machine)
    vm = await highly_available(world)
    run = world.vms()[vm].run
    assert run is not None
    host = world.hosts[run.host]
    boards.lie(host, lie)
    if plight is Plight.DEAD:
        host.lose_power()
    else:
        host.partitioned, host.isolated = True, plight is Plight.ISOLATED
        world.network.break_lines(host.id)
        world.network.cut.add(host.id)
    await asyncio.sleep(LOOK_S)
    state = world.vms()[vm]
    elsewhere = state.status is VmStatus.UP and state.run is not None and state.incarnation > 1
    fencings = [one for one in operations(history(world)).values() if one.kind == "host.fence"]
    said = any(one.open and one.attention for one in fencings)
    became = RESTARTED if elsewhere else WAITS
    if not elsewhere and not said:
        world.break_promise(f"the VM is {state.status}, and nobody says why")
    if became not in expected(lie, plight):
        world.break_promise(f"{became}")
    misleading = (*BELIEVED, Lie.FLICKERS)
    if boards.believed and not (lie in misleading and plight is Plight.ISOLATED):
        world.break_promise("a proof rests on a lie, though the host can be reached")
    if lie not in misleading and world.copies.doubled:
        world.break_promise("the VM ran twice")
    await world.mend()
    await asyncio.sleep(REST_S)
    in_the_end(world)
    await consumers(world)
    return became, [*world.broken, *world.loop_errors()]


async def tested(world: World, lie: Lie) -> tuple[str, list[str]]:
    """Return how the test of a host's power ended, and the promises that broke."""
    boards = world.give_boards()
    boards.firewalled = True
    await world.open(3)
    host = world.hosts[min(world.hosts)]
    await boards.attach(host)
    await world.do(MaintainHost(id=host.id, reason="its power is tested"))
    await asyncio.sleep(FEW_S)
    boards.lie(host, lie)
    await world.do(TestPowerOff(id=host.id))
    await asyncio.sleep(TEST_S)
    test = next(
        one for one in operations(history(world)).values() if one.kind == "host.power_test_off"
    )
    passed = test.outcome is Outcome.SUCCEEDED
    if test.open or not test.reason:
        world.break_promise(f"the test has not ended: {test.steps}")
    if passed and host.name not in boards.turned_off:
        world.break_promise("the test succeeded, and the host was never off")
    if passed != (lie in SOUND) and lie in SOUND | UNSOUND:
        world.break_promise(f"the test of a board that {lie} ended: {test.reason}")
    if boards.believed:
        world.break_promise("a proof rests on a lie, though the host was heard")
    await world.mend()
    await asyncio.sleep(REST_S)
    in_the_end(world)
    await consumers(world)
    return "passes" if passed else "fails", [*world.broken, *world.loop_errors()]


def main() -> int:
    """Play every lie in every plight; the exit status tells whether all promises held."""
    failed = False
    for lie in Lie:
        became: dict[str, list[str]] = collections.defaultdict(list)
        for plight in Plight:
            what, broken = play(SEED, functools.partial(lied, lie=lie, plight=plight))
            became[what].append(str(plight))
            failed = failed or bool(broken)
            for text in broken:
                sys.stdout.write(f"  BROKEN ({lie}, {plight}): {text}\n")
        words = "; ".join(f"{what} ({', '.join(plights)})" for what, plights in became.items())
        what, broken = play(SEED, functools.partial(tested, lie=lie))
        failed = failed or bool(broken)
        words += f"; the test of its power {what}"
        for text in broken:
            sys.stdout.write(f"  BROKEN ({lie}, tested): {text}\n")
        sys.stdout.write(f"{lie.value}: {words}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
