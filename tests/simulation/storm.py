"""Storms: many hosts lose their power at once, and all get it back; what must hold of the restarts.

`python -m tests.simulation.storm [--hosts 200] [--lost 50] [--then 150]`. The same parts as in the
other simulation, without small misfortunes: what is looked at here is order, bounds and words.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec

from commands.state.availability_input import HighAvailabilityInput
from commands.state.host import HostStatus
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm
from commands.vm.start import StartVm
from events.envelope import Recorded
from hostagent.simulated_state import Faults as HypervisorFaults
from tests.simulation.engine import PATIENCE, TIMEOUTS
from tests.simulation.machine import SimulatedHost
from tests.simulation.play import play
from tests.simulation.storm_boards import Boards
from tests.simulation.storm_checks import (
    check_bounds,
    check_documents,
    check_fenced_at_once,
    check_hellos,
    check_order,
    check_proofs,
    check_words,
)
from tests.simulation.verdict import history, in_the_end
from tests.simulation.world import World

GIB = 1024**3
VM_BYTES = 3 * GIB
PER_HOST = 4
"""So many such VMs are on each host, which has room for one more."""
BOOT_S = 20.0
PRIORITIES = 100
SNAPSHOT_EVENTS = 5_000
"""What lies between two snapshots: here each is of a thousand VMs and hosts."""
HELD_S = 300.0
"""For so long it is watched that nothing is done."""
POWER_RETURNS_S = 1.5
MACHINE_BOOTS_S = 45.0
"""Power is back within so long for each host, here sooner and there later; then a machine takes so
long to boot, in which it is on and says nothing."""
LOOKS = frozenset({"operation.timer_set", "operation.timer_fired", "operation.timer_cleared"})
"""Hosts that cannot be turned off are looked at again and again, whatever else rests."""


class Storm(msgspec.Struct, kw_only=True):
    """What came of a storm, for people and for the test."""

    broken: list[str] = []
    told: list[str] = []


class Scene:
    """A data center of many hosts, each with as many highly available VMs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.vms: list[str] = []
        self.began = 0.0

    async def open(self, hosts: int) -> None:
        """Make the hosts, and VMs that are up on them."""
        self.began = time.monotonic()
        world = self.world
        world.snapshot_events = SNAPSHOT_EVENTS
        await world.open(hosts)
        for host in world.hosts.values():
            host.faults(HypervisorFaults(start_s=2.0, boot_s=BOOT_S))
        for number in range(hosts * PER_HOST):
            priority = 1 + number * 37 % PRIORITIES
            self.vms.append(
                await world.do(
                    CreateVm(
                        name=f"vm{number:04}",
                        cluster=world.cluster,
                        memory_bytes=VM_BYTES,
                        high_availability=HighAvailabilityInput(priority=priority),
                    )
                )
            )
        for vm in self.vms:
            await world.do(StartVm(id=vm))
        await self.until(lambda: self.up() == len(self.vms), 600, "all VMs to be up")

    def up(self) -> int:
        """Return how many VMs are up."""
        return sum(vm.status is VmStatus.UP for vm in self.world.vms().values())

    async def until(self, met: object, limit_s: float, what: str) -> float:
        """Wait until something holds; return how long that took."""
        assert callable(met)
        began = self.world.loop.time()
        while not met():
            if self.world.loop.time() - began > limit_s:
                self.world.break_promise(f"{what}: not after {limit_s:g} s")
                break
            await asyncio.sleep(1.0)
        return self.world.loop.time() - began

    async def rest(self, quiet_s: float = 60.0, limit_s: float = 3_000.0) -> None:
        """Wait until nothing has happened for a while but that somebody looked, or tried again."""
        began = self.world.loop.time()
        head, since = -1, began
        while self.world.loop.time() - since < quiet_s:
            now = await self.world.log.head()
            if now != head:
                new = history(self.world)[max(0, head) :]
                head = now
                if any(not _is_a_look(one) for one in new):
                    since = self.world.loop.time()
            if self.world.loop.time() - began > limit_s:
                self.world.break_promise("the storm never comes to rest")
                return
            await asyncio.sleep(5.0)


async def storm(world: World, hosts: int, lost: int, then: int) -> Storm:
    """Take the power from some hosts, then from more, then give it to all; return what was found.

    All have boards, which answer throughout: those whose power is gone say off.
    """
    boards = world.power = Boards(world)
    scene, found = Scene(world), Storm(broken=world.broken)
    await scene.open(hosts)
    await boards.attach()
    tell(found, scene, f"{hosts} hosts with {len(scene.vms)} VMs are up, and can be fenced")
    await _few_lose_power(scene, found, boards, lost)
    await _many_lose_power(scene, found, boards, then)
    await _power_is_back(scene, found, boards)
    in_the_end(world)
    return found


def _lose_power(world: World, boards: Boards, hosts: Iterable[str]) -> None:
    for host in hosts:
        boards.without_mains.add(host)
        world.hosts[host].lose_power()


async def _few_lose_power(scene: Scene, found: Storm, boards: Boards, lost: int) -> None:
    """Under the cluster's limit: each is proved off, and what ran there restarts elsewhere."""
    world, head = scene.world, await scene.world.log.head()
    gone = sorted(world.hosts)[:lost]
    _lose_power(world, boards, gone)

    def all_are_proved_off() -> bool:
        assert world.engine is not None
        return all(world.engine.view.hosts[host].proved_off for host in gone)

    took_s = await scene.until(all_are_proved_off, 3_000, "all hosts to be proved off")
    await scene.rest()
    recorded = history(world)
    at_once = check_fenced_at_once(world, recorded, head, TIMEOUTS.fencing.at_once_max)
    check_proofs(world, recorded, head, gone)
    fallen, room = lost * PER_HOST, len(world.hosts) - lost
    restarted = sum(one.name == "vm.placed" for one in recorded[head:])
    if restarted != min(fallen, room):
        world.break_promise(f"{restarted} VMs were restarted, there was room for {room}")
    check_order(world, recorded, head)
    check_bounds(world, recorded, head)
    check_words(world, recorded, fallen - restarted)
    check_documents(world)
    tell(
        found,
        scene,
        f"{lost} hosts lost their power, and are proved off after {took_s:g} s, at most {at_once}"
        f" at a time: {restarted} of {fallen} VMs run elsewhere, {fallen - restarted} wait with an"
        " explanation",
    )


async def _many_lose_power(scene: Scene, found: Storm, boards: Boards, then: int) -> None:
    """Too many at once: nobody is turned off, nothing is started, and it is said once."""
    world, head = scene.world, await scene.world.log.head()
    on = [key for key in sorted(world.hosts) if world.hosts[key].powered]
    gone = on[: then - (len(world.hosts) - len(on))]
    _lose_power(world, boards, gone)
    await scene.until(
        lambda: _silent(world) >= set(gone), PATIENCE.timeout_s * 3, "hosts to be silent"
    )
    await scene.rest(quiet_s=HELD_S)
    recorded = history(world)
    names = collections.Counter(one.name for one in recorded[head:])
    proved = [one.object_id for one in recorded[head:] if one.name == "host.fenced_off"]
    if proved or names["host.fencing_begun"] or names["vm.placed"]:
        world.break_promise(f"{then} hosts are away, and something was done about it: {names}")
    if names["cluster.fencing_held"] != 1:
        world.break_promise(f"too many are lost: said {names['cluster.fencing_held']} times")
    check_documents(world)
    tell(found, scene, f"{then} hosts are away, which was said once: nothing was started")


async def _power_is_back(scene: Scene, found: Storm, boards: Boards) -> None:
    """All boot, one after the other: what ran there starts again, and nobody is turned off."""
    world, head = scene.world, await scene.world.log.head()
    began = world.loop.time()
    off = [host for host in world.hosts.values() if not host.powered]
    for host in off:
        world.begin(_boot(boards, host, world.dice.uniform(0.0, POWER_RETURNS_S * len(off))))
    took_s = await scene.until(lambda: scene.up() == len(scene.vms), 3_000, "all VMs to be up")
    await scene.rest()
    recorded = history(world)
    check_bounds(world, recorded, head)
    check_order(world, recorded, head)
    hellos = check_hellos(world, began)
    names = collections.Counter(one.name for one in recorded[head:])
    if boards.turned_off:
        world.break_promise(f"their power was back, and they were turned off: {boards.turned_off}")
    tell(
        found,
        scene,
        f"power is back: all {len(scene.vms)} VMs are up after {took_s:g} s, with"
        f" {names['vm.placed']} starts, {names['host.fenced_off']} hosts proved off meanwhile, none"
        f" turned off; at most {hellos} hellos in a second",
    )


async def _boot(boards: Boards, host: SimulatedHost, after_s: float) -> None:
    """Give a host its power back after a while: its board says on, its agent speaks once it can."""
    await asyncio.sleep(after_s)
    boards.without_mains.discard(host.id)
    if host.powered:
        return  # its board was told to turn it on just then
    host.powered = True
    await asyncio.sleep(MACHINE_BOOTS_S)
    if host.alive or not host.powered:
        return  # it was turned off, or on, while it booted
    host.boot()
    host.faults(HypervisorFaults(start_s=2.0, boot_s=BOOT_S))


def _is_a_look(one: Recorded) -> bool:
    """Tell whether an event is of what is tried again and again: to turn on what has no power."""
    return one.name in LOOKS or one.name.startswith("host.fence_") or one.kind == "operation"


def _silent(world: World) -> set[str]:
    assert world.engine is not None
    hosts = world.engine.view.hosts.values()
    return {host.id for host in hosts if host.status is HostStatus.NON_RESPONSIVE}


def tell(found: Storm, scene: Scene, text: str) -> None:
    """Tell of something that came to its end."""
    world = scene.world
    real_s, position = time.monotonic() - scene.began, len(world.log._events)
    when = f"{world.loop.time():6.0f} s, event {position:6}, after {real_s:5.1f} real s"
    found.told.append(f"{when}: {text}")


Script = Callable[[World, int, int, int], Coroutine[Any, Any, Storm]]


def main(script: Script) -> None:
    """Run a storm and tell of it; the exit status tells whether all promises held."""
    parser = argparse.ArgumentParser(description="See the module's description.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--lost", type=int, default=50)
    parser.add_argument("--then", type=int, default=150)
    arguments = parser.parse_args()
    found = play(
        arguments.seed,
        lambda world: script(world, arguments.hosts, arguments.lost, arguments.then),
    )
    for line in (*found.told, *(f"BROKEN: {broken}" for broken in found.broken[:20])):
        sys.stdout.write(f"{line}\n")
    sys.exit(1 if found.broken else 0)


if __name__ == "__main__":
    main(storm)
