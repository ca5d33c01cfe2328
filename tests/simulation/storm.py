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
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec

from commands.host.confirm_off import ConfirmHostOff
from commands.policies.facts import STARTING
from commands.state.availability_input import HighAvailabilityInput
from commands.state.host import HostStatus
from commands.state.vm import VM, VmState, VmStatus
from commands.vm.create import CreateVm
from commands.vm.start import StartVm
from events.envelope import Recorded
from hostagent.simulated_state import Faults as HypervisorFaults
from tests.simulation.engine import PATIENCE, TIMEOUTS
from tests.simulation.play import play
from tests.simulation.verdict import history, in_the_end, operations
from tests.simulation.world import World

GIB = 1024**3
VM_BYTES = 3 * GIB
PER_HOST = 4
"""So many such VMs are on each host, which has room for one more."""
BOOT_S = 20.0
PRIORITIES = 100
TIMERS = frozenset({"operation.timer_set", "operation.timer_fired"})
"""Hosts that cannot be turned off are looked at again and again, whatever else rests."""
RESTARTS_MAX = TIMEOUTS.restarts.starts_per_host


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
        """Wait until nothing has happened for a while but that somebody looked."""
        began = self.world.loop.time()
        head, since = -1, began
        while self.world.loop.time() - since < quiet_s:
            now = await self.world.log.head()
            if now != head:
                new = history(self.world)[max(0, head) :]
                head = now
                if any(one.name not in TIMERS for one in new):
                    since = self.world.loop.time()
            if self.world.loop.time() - began > limit_s:
                self.world.break_promise("the storm never comes to rest")
                return
            await asyncio.sleep(5.0)


async def storm(world: World, hosts: int, lost: int, then: int) -> Storm:
    """Lose some hosts, then more, then give power to all; return what was found."""
    scene = Scene(world)
    found = Storm(broken=world.broken)
    await scene.open(hosts)
    tell(found, scene, f"{hosts} hosts with {len(scene.vms)} VMs are up")
    await _first_blow(scene, found, lost)
    await _second_blow(scene, found, then)
    await _power_is_back(scene, found)
    in_the_end(world)
    return found


async def _first_blow(scene: Scene, found: Storm, lost: int) -> None:
    """Under the cluster's limit: what is lost is proved off, and restarts elsewhere."""
    world, head = scene.world, await scene.world.log.head()
    gone = sorted(world.hosts)[:lost]
    for host in gone:
        world.hosts[host].lose_power()
    silent_s = await scene.until(
        lambda: _silent(world) >= set(gone), PATIENCE.timeout_s * 3, "hosts to be silent"
    )
    placed = [one for one in history(world)[head:] if one.name == "vm.placed"]
    if placed:
        world.break_promise(f"{len(placed)} VMs were placed before any proof")
    for host in gone:
        await world.do(ConfirmHostOff(id=host, name=world.hosts[host].name))
    await scene.rest()
    fallen = lost * PER_HOST
    room = (len(world.hosts) - lost) * 1
    recorded = history(world)
    restarted = _restarts(world, recorded, head)
    if len(restarted) != min(fallen, room):
        world.break_promise(f"{len(restarted)} VMs were restarted, there was room for {room}")
    check_order(world, recorded, head)
    check_bounds(world, recorded, head)
    _check_words(world, recorded, fallen - len(restarted))
    tell(
        found,
        scene,
        f"{lost} hosts were lost, silent after {silent_s:g} s: {len(restarted)} of {fallen} VMs run"
        f" elsewhere, {fallen - len(restarted)} wait with an explanation",
    )


async def _second_blow(scene: Scene, found: Storm, then: int) -> None:
    """Too many at once: nothing may be proved by machines, and nothing is started."""
    world, head = scene.world, await scene.world.log.head()
    on = [key for key in sorted(world.hosts) if world.hosts[key].powered]
    off = len(world.hosts) - len(on)
    gone = set(on[: then - off])
    for host in gone:
        world.hosts[host].lose_power()
    limit_s = PATIENCE.timeout_s * 3
    await scene.until(lambda: _silent(world) >= gone, limit_s, "hosts to be silent")
    await scene.rest()
    names = collections.Counter(one.name for one in history(world)[head:])
    if names["vm.placed"] or names["host.confirmed_off"]:
        world.break_promise(f"{then} hosts are away, and something was done about it: {names}")
    tell(found, scene, f"{then} hosts are away: nothing was started")


async def _power_is_back(scene: Scene, found: Storm) -> None:
    """All boot at once: what ran there is lost, and starts again without any fencing."""
    world, head = scene.world, await scene.world.log.head()
    for host in world.hosts.values():
        if not host.powered:
            host.boot()
            host.faults(HypervisorFaults(start_s=2.0, boot_s=BOOT_S))
    took_s = await scene.until(lambda: scene.up() == len(scene.vms), 3_000, "all VMs to be up")
    await scene.rest()
    recorded = history(world)
    check_bounds(world, recorded, head)
    check_order(world, recorded, head)
    names = collections.Counter(one.name for one in recorded[head:])
    if names["host.confirmed_off"]:
        world.break_promise("hosts were confirmed off though their power was back")
    tell(
        found,
        scene,
        f"power is back: all {len(scene.vms)} VMs are up after {took_s:g} s, with"
        f" {names['vm.placed']} starts and {sum(names.values())} events",
    )


def _silent(world: World) -> set[str]:
    assert world.engine is not None
    hosts = world.engine.view.hosts.values()
    return {host.id for host in hosts if host.status is HostStatus.NON_RESPONSIVE}


def _restarts(world: World, recorded: list[Recorded], head: int) -> list[str]:
    """Return the VMs that were placed since, in that order."""
    return [one.object_id for one in recorded[head:] if one.name == "vm.placed"]


def _states(recorded: list[Recorded]) -> Iterator[tuple[Recorded, dict[str, VmState]]]:
    """Yield each event of a VM with all VMs as they are after it."""
    states: dict[str, VmState] = {}
    for one in recorded:
        if one.kind == "vm":
            after = VM.evolve(states.get(one.object_id), one)
            if after is not None:
                states[one.object_id] = after
            yield one, states


def check_bounds(world: World, recorded: list[Recorded], head: int) -> None:
    """No host starts more VMs at a time than the rules allow."""
    starting: dict[str, set[str]] = collections.defaultdict(set)
    where: dict[str, str] = {}
    for one, states in _states(recorded):
        vm = states[one.object_id]
        starting[where.pop(vm.id, "")].discard(vm.id)
        if vm.run is not None and vm.status in STARTING:
            where[vm.id] = vm.run.host
            starting[vm.run.host].add(vm.id)
            if one.position > head and len(starting[vm.run.host]) > RESTARTS_MAX:
                name = world.hosts[vm.run.host].name
                world.break_promise(f"{name} starts {len(starting[vm.run.host])} VMs at a time")


def check_order(world: World, recorded: list[Recorded], head: int) -> None:
    """Nobody is placed while one that is more urgent, and began to wait before, still waits.

    All VMs are alike, and any host will do.
    """
    begun: dict[str, int] = {}
    late = 0
    for one, states in _states(recorded):
        vm = states[one.object_id]
        if one.name == "vm.restart_decided":
            begun[vm.id] = one.position
        elif one.name == "vm.start_abandoned":
            begun.pop(vm.id, None)
        elif one.name == "vm.placed" and (since := begun.pop(vm.id, 0)) and one.position > head:
            late += any(
                position < since and states[other].availability.priority > vm.availability.priority
                for other, position in begun.items()
            )
    if late:
        world.break_promise(f"{late} VMs were placed before others that were more urgent")


def _check_words(world: World, recorded: list[Recorded], expected: int) -> None:
    """Each VM that could not be placed has an explanation."""
    waiting = [
        operation
        for operation in operations(recorded).values()
        if operation.open and operation.kind == "vm.restart"
    ]
    if len(waiting) != expected:
        world.break_promise(f"{len(waiting)} restarts wait, not {expected}")
    for operation in waiting:
        if not operation.attention or "MiB of memory free" not in operation.attention:
            world.break_promise(f"{operation.name} waits without the reason: {operation.attention}")


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
