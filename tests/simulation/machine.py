"""A host of the simulation: a machine that may lose its power, and an agent that may be killed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from events.types.host import Capabilities
from events.types.run_spec import RunSpec
from hostagent.agent import HostAgent
from hostagent.driver import UnknownStateError
from hostagent.identity import Identity, read_boot_id
from hostagent.journal import Journal
from hostagent.migrations import MigrationSetup
from hostagent.simulated import SimulatedDriver
from hostagent.simulated_migration import SimulatedMoves
from hostagent.simulated_state import Control, Do, Faults
from hostagent.simulated_storage import make_shared_storage
from tests.simulation.line import Line
from tests.unit.policies.stage import CAPABILITIES

if TYPE_CHECKING:
    from tests.simulation.world import World


class WatchedDriver(SimulatedDriver):
    """A simulated hypervisor that shows the world every change, until its agent is dead."""

    def __init__(self, world: World, host: str, folder: Path, capabilities: Capabilities) -> None:
        self.dead = False
        self._world = world
        self._host = host
        self._specs: dict[tuple[str, int], RunSpec] = {}
        self.running: set[tuple[str, int]] = set()
        self.going: set[str] = set()
        super().__init__(
            folder,
            name=host,
            capabilities=capabilities,
            storage=make_shared_storage(world.storage, "one"),
            clock=asyncio.get_running_loop().time,
        )
        self._show()

    async def start(self, spec: RunSpec) -> None:
        self._specs[spec.vm, spec.incarnation] = spec
        await super().start(spec)

    def _look(self) -> None:
        if self.dead:
            raise UnknownStateError("this agent's process is dead")
        super()._look()

    def _save(self) -> None:
        if not self.dead:
            super()._save()
            self._show()

    def _on_timer(self) -> None:
        if not self.dead:
            super()._on_timer()

    def _show(self) -> None:
        now = {(d.vm, d.incarnation) for d in self._machine.domains.values()}
        begun, self.running = now - self.running, now
        going = {d.vm for d in self._machine.domains.values() if d.announced and d.paused is None}
        gone_on, self.going = going - self.going, going
        if gone_on:
            self._world.goes(self._host, gone_on)
        for key in sorted(begun & self._specs.keys()):
            self._world.began(self._host, self._specs[key])
        for domain in self._machine.domains.values():
            if domain.announced:
                spec = self._specs.pop((domain.vm, domain.incarnation), None)
                if spec is not None:
                    self._world.ran(self._host, spec)


class SimulatedHost:
    """One machine, the agent on it, and the line between it and the engine."""

    def __init__(self, world: World, host: str, name: str, folder: Path) -> None:
        self.world = world
        self.id = host
        self.name = name
        self.folder = folder
        self.powered = False
        self.held_off = False
        self.partitioned = False
        self.driver: WatchedDriver | None = None
        self._journal: Journal | None = None
        self._task: asyncio.Task[None] | None = None
        self.failures: list[BaseException] = []

    def boot(self) -> None:
        """Give the machine power, or start the agent's process anew."""
        self.powered = True
        self.driver = WatchedDriver(self.world, self.id, self.folder / "machine", CAPABILITIES)
        identity = Identity(
            host=self.id,
            name=self.name,
            hardware=self.name,
            boot=read_boot_id(self.driver.boot_id_path),
        )
        self._journal = Journal.open(self.folder / "state")
        line = Line(self.world, self)
        moves = MigrationSetup(
            line=self.world.network.line(self.id), moves=SimulatedMoves(self.driver)
        )
        agent = HostAgent(
            identity,
            self.driver,
            line,
            self._journal,
            migrations=moves,
            power=self.world.power,
        )
        self._task = asyncio.create_task(agent.run())
        self._task.add_done_callback(self._ended)

    def kill_agent(self) -> None:
        """End the agent's process where it stands: nothing that it still does has an effect."""
        if self.driver is not None:
            self.driver.dead = True
        if self._journal is not None:
            self._journal.close()
        if self._task is not None:
            self._task.cancel()
        self._task = None
        self.world.network.break_lines(self.id)

    def lose_power(self) -> None:
        """Lose everything but the disks."""
        if self.driver is not None:
            self.driver.power_off()
        self.kill_agent()
        self.powered = False

    @property
    def alive(self) -> bool:
        """Whether an agent runs."""
        return self._task is not None

    def running(self) -> set[tuple[str, int]]:
        """Return the VMs, with their incarnations, of which there are domains."""
        return set(self.driver.running) if self.driver is not None and self.powered else set()

    def going(self) -> set[str]:
        """Return the VMs whose CPUs run."""
        return set(self.driver.going) if self.driver is not None and self.powered else set()

    def faults(self, faults: Faults) -> None:
        """Set what is wrong with the hypervisor."""
        if self.driver is not None and self.alive:
            self.driver.control(Control(do=Do.FAULTS, faults=faults))

    def control(self, do: Do, vm: str) -> None:
        """Have something happen to a VM."""
        if self.driver is not None and self.alive:
            self.driver.control(Control(do=do, vm=vm))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and task is self._task:
            self.failures.append(task.exception() or Exception())
