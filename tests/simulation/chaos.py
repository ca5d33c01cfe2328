"""What admins and misfortune do in a run, drawn from the world's dice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from commands.host.activate import ActivateHost
from commands.host.confirm_off import ConfirmHostOff
from commands.host.maintenance import MaintainHost
from commands.kernel.refusal import Refusal
from commands.operation.cancel import CancelOperation
from commands.state.availability_input import HighAvailabilityInput, StartWithHostInput
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm, DiskInput
from commands.vm.reboot import RebootVm
from commands.vm.remove import RemoveVm
from commands.vm.resume import ResumeVm
from commands.vm.shutdown import ShutDownVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from commands.vm.suspend import SuspendVm
from hostagent.simulated_state import Do
from hostagent.simulated_state import Faults as HypervisorFaults
from tests.simulation.machine import SimulatedHost
from tests.simulation.world import Faults, World

VMS_MAX = 6
Happening = Callable[[SimulatedHost], Coroutine[Any, Any, None]]
MIB = 1024 * 1024


class Admins:
    """Admins who give commands at random, whatever the state of things."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made = 0

    async def work(self, mean_pause_s: float) -> None:
        """Give commands for ever."""
        dice = self._world.dice
        while True:
            await asyncio.sleep(dice.expovariate(1 / mean_pause_s))
            await self.give(self._draw())

    async def give(self, command: Any) -> None:
        """Give one command; a refusal is an answer like another."""
        world = self._world
        if command is None:
            return
        try:
            await world.do(command)
            world.note(f"accepted: {command}")
        except Refusal as refusal:
            world.refused += 1
            world.note(f"refused: {command} ({refusal.detail})")

    def _draw(self) -> Any:
        dice, vms = self._world.dice, self._world.vms()
        there = sorted(key for key, vm in vms.items() if vm.status is not VmStatus.REMOVED)
        if len(there) < VMS_MAX and dice.random() < 0.4:
            self._made += 1
            disks = (DiskInput(size_bytes=64 * MIB),) if dice.random() < 0.5 else ()
            return CreateVm(
                name=f"vm{self._made}",
                cluster=self._world.cluster,
                disks=disks,
                high_availability=_priority(dice) if dice.random() < 0.5 else None,
                start_with_host=StartWithHostInput() if dice.random() < 0.3 else None,
            )
        if dice.random() < 0.12:
            return self._draw_host()
        if dice.random() < 0.1 and self._world.accepted:
            return CancelOperation(id=dice.choice(self._world.accepted[-6:]))
        if not there:
            return None
        vm = dice.choice(there)
        choices: list[tuple[Callable[[], Any], float]] = [
            (lambda: StartVm(id=vm, discard_saved_memory=dice.random() < 0.3), 8),
            (lambda: StopVm(id=vm), 3),
            (lambda: ShutDownVm(id=vm, timeout_s=30), 2),
            (lambda: RebootVm(id=vm), 1),
            (lambda: SuspendVm(id=vm), 3),
            (lambda: ResumeVm(id=vm), 3),
            (lambda: RemoveVm(id=vm), 1),
        ]
        (make,) = dice.choices([c for c, _ in choices], [weight for _, weight in choices])
        return make()

    def _draw_host(self) -> Any:
        host = self._world.dice.choice(sorted(self._world.hosts))
        if self._world.dice.random() < 0.6:
            return ActivateHost(id=host)
        return MaintainHost(id=host, reason="because")


def _priority(dice: random.Random) -> HighAvailabilityInput:
    return HighAvailabilityInput(priority=dice.randrange(1, 101))


class Misfortune:
    """All that goes wrong."""

    def __init__(self, world: World, admins: Admins) -> None:
        self._world = world
        self._admins = admins
        self._happenings: list[tuple[Happening, float]] = [
            (self._agent_dies, 5),
            (self._power_fails, 2),
            (self._network_fails, 3),
            (self._hypervisor_fails, 4),
            (self._guest_misbehaves, 4),
            (self._engine_dies, 3),
            (self._policies_die, 3),
            (self._policies_are_doubled, 1),
            (self._messages_suffer, 2),
        ]

    async def work(self, mean_pause_s: float) -> None:
        """Let things happen for ever; they last while others happen."""
        world = self._world
        while True:
            await asyncio.sleep(world.dice.expovariate(1 / mean_pause_s))
            (happen,) = world.dice.choices(
                [happening for happening, _ in self._happenings],
                [weight for _, weight in self._happenings],
            )
            host = world.dice.choice([world.hosts[key] for key in sorted(world.hosts)])
            world.note(f"{happen.__name__} {host.name}")
            world.begin(happen(host))

    def _lasts_s(self, mean_s: float) -> float:
        return 0.01 + self._world.dice.expovariate(1 / mean_s)

    async def _agent_dies(self, host: SimulatedHost) -> None:
        if not host.alive:
            return
        # Anywhere in its work: some turns of the loop from now, or some while.
        for _ in range(self._world.dice.randrange(40)):
            await asyncio.sleep(0)
        if not host.alive:
            return
        host.kill_agent()
        await asyncio.sleep(self._lasts_s(8))
        if host.powered and not host.alive:
            host.boot()

    async def _power_fails(self, host: SimulatedHost) -> None:
        if not host.powered:
            return
        host.lose_power()
        self._world.note(f"{host.name} is off")
        if self._world.dice.random() < 0.5:
            host.held_off = True
            await asyncio.sleep(self._lasts_s(60))
            self._world.note(f"{host.name} is seen to be off")
            await self._admins.give(ConfirmHostOff(id=host.id, name=host.name))
            host.held_off = False
        await asyncio.sleep(6.0 + self._lasts_s(40))
        if not host.powered:
            host.boot()
            self._world.note(f"{host.name} is on again")

    async def _network_fails(self, host: SimulatedHost) -> None:
        host.partitioned = True
        await asyncio.sleep(self._lasts_s(60))
        host.partitioned = False

    async def _hypervisor_fails(self, host: SimulatedHost) -> None:
        dice = self._world.dice
        host.faults(
            HypervisorFaults(
                start_failures=dice.choice([0, 0, 1, 2]),
                hang_starts=dice.random() < 0.1,
                start_s=dice.choice([0.0, 0.5, 5.0]),
                boot_s=dice.choice([0.0, 2.0, 20.0]),
                shutdown_s=dice.choice([0.0, 3.0]),
                save_s=dice.choice([0.0, 3.0]),
                copy_s=dice.choice([0.0, 3.0]),
                deaf=dice.random() < 0.2,
                silent=dice.random() < 0.2,
                away=dice.random() < 0.25,
            )
        )
        await asyncio.sleep(self._lasts_s(40))
        host.faults(HypervisorFaults())

    async def _guest_misbehaves(self, host: SimulatedHost) -> None:
        running = sorted(host.running())
        if running:
            vm, _incarnation = self._world.dice.choice(running)
            do = self._world.dice.choice([Do.CRASH, Do.GUEST_POWER_OFF, Do.RESET, Do.PAUSE])
            self._world.note(f"{do} {vm}")
            host.control(do, vm)

    async def _engine_dies(self, _host: SimulatedHost) -> None:
        world = self._world
        if world.engine is None:
            return
        for _ in range(world.dice.randrange(20)):
            await asyncio.sleep(0)
        world.kill_engine()
        await asyncio.sleep(self._lasts_s(8))
        if world.engine is None:
            world.start_engine()

    async def _policies_die(self, _host: SimulatedHost) -> None:
        world = self._world
        for _ in range(world.dice.randrange(20)):
            await asyncio.sleep(0)
        world.kill_policies()
        await asyncio.sleep(self._lasts_s(8))
        if not world.policies:
            world.start_policies()

    async def _policies_are_doubled(self, _host: SimulatedHost) -> None:
        self._world.start_policies()

    async def _messages_suffer(self, _host: SimulatedHost) -> None:
        dice = self._world.dice
        self._world.faults = Faults(
            lost=dice.choice([0.0, 0.05, 0.3]),
            doubled=dice.choice([0.0, 0.1, 0.5]),
            slow=dice.choice([0.0, 0.3]),
        )
        await asyncio.sleep(self._lasts_s(60))
        self._world.faults = Faults()
