"""What goes wrong in a run, drawn from the world's dice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from commands.host.confirm_off import ConfirmHostOff
from commands.vm.migrate import MigrateVm
from hostagent.simulated_state import Do, MigrationFault
from hostagent.simulated_state import Faults as HypervisorFaults
from tests.simulation.boards import Lie
from tests.simulation.chaos import Admins
from tests.simulation.connection import Outage
from tests.simulation.machine import SimulatedHost
from tests.simulation.restore import last_command
from tests.simulation.world import Faults, World

Happening = Callable[[SimulatedHost], Coroutine[Any, Any, None]]
RARE = 0.3
NOTICE_S = 12.0
"""So late a hypervisor notices that a line broke: a silent one is noticed within 15 s."""


class Misfortune:
    """All that goes wrong."""

    def __init__(self, world: World, admins: Admins) -> None:
        self._world = world
        self._admins = admins
        self._broken_off = 0
        self._happenings: list[tuple[Happening, float]] = [
            (self._agent_dies, 5),
            (self._power_fails, 2),
            (self._network_fails, 3),
            (self._hypervisor_fails, 4),
            (self._post_copy_breaks, 2),
            (self._guest_misbehaves, 4),
            (self._engine_dies, 3),
            (self._policies_die, 3),
            (self._policies_are_doubled, 1),
            (self._messages_suffer, 2),
            (self._machine_freezes, 2),
            (self._engine_freezes, 2),
            (self._policies_freeze, 2),
            (self._roads_fail, 2),
            (self._certificate_nears_its_end, 1),
            (self._projection_suffers, 2),
            (self._database_suffers, 2),
            (self._consumers_suffer, 3),
        ]
        # What costs a promise its ground happens in some runs only.
        if world.boards is not None:
            self._happenings += [(self._boards_fail, 4), (self._host_is_cut_off, 4)]
        if world.dice.random() < RARE:
            self._happenings.append((self._someone_vouches_falsely, 2))
        if world.dice.random() < RARE:
            self._happenings.append((self._backup_is_restored, 0.5))

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
        host.unplugged = self._world.dice.random() < 0.5
        if self._world.dice.random() < 0.5:
            host.held_off = host.unplugged = True
            await asyncio.sleep(self._lasts_s(60))
            self._world.note(f"{host.name} is seen to be off")
            await self._admins.give(ConfirmHostOff(id=host.id, name=host.name))
            host.held_off = False
        await asyncio.sleep(6.0 + self._lasts_s(40))
        host.unplugged = False
        if not host.powered:
            self._turn_on(host)
            self._world.note(f"{host.name} is on again")

    def _turn_on(self, host: SimulatedHost) -> None:
        if self._world.boards is not None:
            self._world.boards.power_is_back(host)
        host.boot()

    async def _network_fails(self, host: SimulatedHost) -> None:
        host.partitioned = True
        await asyncio.sleep(self._lasts_s(60))
        host.partitioned = False

    async def _host_is_cut_off(self, host: SimulatedHost) -> None:
        """Nothing reaches a host, or the engine alone does not, for as long as fencing takes."""
        world = self._world
        host.partitioned = True
        host.isolated = world.dice.random() < 0.5
        if host.isolated:
            world.network.break_lines(host.id)
            world.network.cut.add(host.id)
        world.note(f"{host.name} {'is isolated' if host.isolated else 'is not heard'}")
        await asyncio.sleep(60 + self._lasts_s(120))
        host.partitioned = host.isolated = False
        world.network.cut.discard(host.id)

    async def _boards_fail(self, host: SimulatedHost) -> None:
        boards = self._world.boards
        assert boards is not None
        for address in boards.of(host):
            boards.lies[address] = self._world.dice.choice(list(Lie))
        self._world.note(f"{[boards.lies[address].value for address in boards.of(host)]}")
        await asyncio.sleep(self._lasts_s(300))
        boards.lie(host, Lie.NONE)

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
                migration_s=dice.choice([0.0, 2.0, 20.0]),
                migration_busy=dice.random() < 0.2,
                migration_fault=dice.choice([*[MigrationFault.NONE] * 3, *MigrationFault]),
                deaf=dice.random() < 0.2,
                silent=dice.random() < 0.2,
                away=dice.random() < 0.25,
            )
        )
        await asyncio.sleep(self._lasts_s(40))
        host.faults(HypervisorFaults())

    async def _post_copy_breaks(self, host: SimulatedHost) -> None:
        """Have a VM's migration break off in post-copy, and, at times, lose half of the VM."""
        dice, running = self._world.dice, sorted(host.running())
        if not running:
            return
        # Every other time it is noticed late: not by the dice, so that seeds play as they did.
        self._broken_off += 1
        notice_s = NOTICE_S if self._broken_off % 2 == 0 else 0.0
        host.faults(HypervisorFaults(migration_fault=MigrationFault.BREAK, notice_s=notice_s))
        await self._admins.give(MigrateVm(id=dice.choice(running)[0]))
        await asyncio.sleep(5 + self._lasts_s(10))
        hosts = [self._world.hosts[key] for key in sorted(self._world.hosts)]
        halves = [one for one in hosts if one.halves()]
        self._world.note(f"halves are on {[one.name for one in halves]}")
        if halves and dice.random() < 0.7:
            loses = dice.choice(halves)
            if dice.random() < 0.5:
                await self._power_fails(loses)
            else:
                vm, incarnation = dice.choice(loses.halves())
                self._world.copies.ends_by_itself(loses, (vm, incarnation))
                loses.control(Do.CRASH, vm)
                await asyncio.sleep(self._lasts_s(40))
        host.faults(HypervisorFaults())

    async def _guest_misbehaves(self, host: SimulatedHost) -> None:
        running = sorted(host.running())
        if running:
            vm, incarnation = self._world.dice.choice(running)
            do = self._world.dice.choice([Do.CRASH, Do.GUEST_POWER_OFF, Do.RESET, Do.PAUSE])
            self._world.note(f"{do} {vm}")
            if do in {Do.CRASH, Do.GUEST_POWER_OFF}:
                self._world.copies.ends_by_itself(host, (vm, incarnation))
            host.control(do, vm)

    async def _engine_dies(self, _host: SimulatedHost) -> None:
        world = self._world
        place = world.dice.randrange(len(world.engines))
        if world.engines[place] is None:
            return
        for _ in range(world.dice.randrange(20)):
            await asyncio.sleep(0)
        world.kill_engine(place)
        await asyncio.sleep(self._lasts_s(8))
        if world.engines[place] is None:
            world.start_engine(place)

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

    async def _database_suffers(self, _host: SimulatedHost) -> None:
        dice = self._world.dice
        self._world.outage = Outage(
            away=dice.random() < 0.4,
            full=dice.choice([0.0, 0.3]),
            broken=dice.choice([0.0, 0.1, 0.3]),
            unheard=dice.choice([0.0, 0.1, 0.5]),
            late=dice.choice([0.0, 0.1, 0.3]),
        )
        self._world.note(f"{self._world.outage}")
        await asyncio.sleep(self._lasts_s(dice.choice([3, 20, 60])))
        self._world.outage = Outage()

    async def _machine_freezes(self, host: SimulatedHost) -> None:
        """Let all processes of a host stand still: what they were told is done arbitrarily late."""
        host.freeze()
        await asyncio.sleep(self._lasts_s(self._world.dice.choice([5, 60, 300])))
        host.thaw()
        self._world.note(f"{host.name} is awake")

    async def _engine_freezes(self, _host: SimulatedHost) -> None:
        world = self._world
        place = world.dice.randrange(len(world.engines))
        engine = world.engines[place]
        if engine is None or engine.freezer is None:
            return
        engine.freezer.freeze()
        if world.dice.random() < 0.5:
            await asyncio.sleep(self._lasts_s(5))
            if world.engines[place] is engine:
                world.replace_engine(place)
        await asyncio.sleep(self._lasts_s(20))
        engine.freezer.thaw()
        await asyncio.sleep(self._lasts_s(20))
        if world.engines[place] is not engine:
            engine.kill()

    async def _policies_freeze(self, _host: SimulatedHost) -> None:
        world = self._world
        if not world.policies:
            return
        process = world.policies[-1]
        assert process.freezer is not None
        process.freezer.freeze()
        await asyncio.sleep(self._lasts_s(20))
        if world.dice.random() < 0.7:
            world.start_policies()
        await asyncio.sleep(self._lasts_s(20))
        process.freezer.thaw()

    async def _roads_fail(self, host: SimulatedHost) -> None:
        network = self._world.network
        network.break_lines(host.id)
        if self._world.dice.random() < 0.5:
            network.cut.add(host.id)
        await asyncio.sleep(self._lasts_s(30))
        network.cut.discard(host.id)

    async def _certificate_nears_its_end(self, host: SimulatedHost) -> None:
        host.certificate_nears_its_end()

    async def _projection_suffers(self, _host: SimulatedHost) -> None:
        world = self._world
        projection, freezer = world.projection, world.projection.freezer
        assert freezer is not None
        for _ in range(world.dice.randrange(20)):
            await asyncio.sleep(0)
        match world.dice.randrange(3):
            case 0:
                projection.kill()
                projection.start()
            case 1:
                freezer.freeze()
                await asyncio.sleep(self._lasts_s(30))
                freezer.thaw()
            case _:
                projection.start()
                await asyncio.sleep(self._lasts_s(5))
                projection.kill()
                projection.start()

    async def _consumers_suffer(self, _host: SimulatedHost) -> None:
        if self._world.consumers is not None:
            await self._world.consumers.suffer(self._lasts_s(20))

    async def _someone_vouches_falsely(self, host: SimulatedHost) -> None:
        """A host that runs is said to be off: by a person, or by a fence that lies."""
        world = self._world
        if not host.powered or host.partitioned or host.frozen:
            return
        if world.dice.random() < 0.5:
            host.partitioned = True
        else:
            host.freeze()
        await asyncio.sleep(80 + self._lasts_s(30))
        if host.runs_unheard and await self._admins.give(
            ConfirmHostOff(id=host.id, name=host.name)
        ):
            world.copies.vouched(host)
            world.note(f"{host.name} was falsely said to be off")
        await asyncio.sleep(self._lasts_s(60))
        host.partitioned = False
        host.thaw()

    async def _backup_is_restored(self, _host: SimulatedHost) -> None:
        world = self._world
        head = await world.log.head()
        position = last_command(world.log, max(world.opened, head - world.dice.randrange(150)))
        world.note(f"a backup is restored: up to {position} of {head}")
        await world.restore(position)
        await asyncio.sleep(self._lasts_s(10))
        world.start_engines()
        world.start_policies()
