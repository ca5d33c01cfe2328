"""A host of the simulation: a machine that may lose its power, and an agent that may be killed."""

from __future__ import annotations

import asyncio
import uuid
from contextvars import copy_context
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
from hostagent.tasks import run_together
from tests.simulation.certificates import HostRenewal
from tests.simulation.line import Line
from tests.simulation.loop import PROCESS, Freezer
from tests.simulation.process import Process
from tests.unit.policies.stage import CAPABILITIES

if TYPE_CHECKING:
    from tests.simulation.world import World


class WatchedDriver(SimulatedDriver):
    """A simulated hypervisor that shows the world every change, until its agent is dead."""

    def __init__(self, world: World, host: SimulatedHost, capabilities: Capabilities) -> None:
        self.dead = False
        self._world = world
        self._host = host
        self._specs: dict[tuple[str, int], RunSpec] = {}
        self.running: set[tuple[str, int]] = set()
        self.executing: set[tuple[str, int]] = set()
        super().__init__(
            host.folder / "machine",
            name=host.id,
            capabilities=capabilities,
            storage=world.storage,
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
        domains = self._machine.domains.values()
        now = {(d.vm, d.incarnation) for d in domains}
        begun = now - self.running
        self.running = now
        for key in sorted(begun & self._specs.keys()):
            self._world.copies.began(self._host, self._specs[key])
        executing = {
            (d.vm, d.incarnation)
            for d in domains
            if d.announced and not d.held and not d.coming and d.paused is None
        }
        goes_on, self.executing = executing - self.executing, executing
        for key in sorted(goes_on):
            self._world.copies.executes(self._host, key)
        for domain in domains:
            if domain.announced and not domain.coming:
                spec = self._specs.pop((domain.vm, domain.incarnation), None)
                if spec is not None:
                    self._world.copies.ran(self._host, spec)


class SimulatedHost:
    """One machine, the agent on it, and the lines to the engine and to other hosts.

    `vouched`: somebody said that it is off, while it was on; so it is until it is welcome again.
    `partitioned`: the engine does not hear it; `isolated`: nothing reaches it. `unplugged`: there
    is no power, for its board neither.
    """

    def __init__(self, world: World, host: str, name: str, folder: Path) -> None:
        self.world = world
        self.id = host
        self.name = name
        self.folder = folder
        self.powered = False
        self.held_off = False
        self.partitioned = False
        self.isolated = False
        self.unplugged = False
        self.vouched = False
        self.certificate = f"{host} 1".encode()
        self.welcome_by: uuid.UUID | None = None
        self.driver: WatchedDriver | None = None
        self.process = Process(Freezer())
        self._line = Line(world, self)
        self._journal: Journal | None = None
        self._task: asyncio.Task[None] | None = None
        self.failures: list[BaseException] = []

    def boot(self) -> None:
        """Give the machine power, or start the agent's process anew."""
        self.powered, self.unplugged = True, False
        self.process = Process(Freezer())
        context = copy_context()
        context.run(PROCESS.set, self.process.freezer)
        agent = context.run(self._make)
        renewal = HostRenewal(
            self, self._line, self.world.ending, seed=self.world.dice.getrandbits(32)
        )
        self._task = self.process.spawn(run_together((agent.run(), renewal.run())))
        self._task.add_done_callback(self._ended)
        self.world.on_boot(self)

    def shown(self) -> tuple[object, ...]:
        """Return what the agent's death would leave on the machine: its journal, and domains."""
        written = self._journal._bytes_in_file if self._journal is not None else 0
        return written, *sorted(self.running()), *sorted(self.executing())

    def certificate_nears_its_end(self) -> None:
        """Let the certificate near its end, and the agent look after it now."""
        self.world.ending.add(self.certificate.decode())
        self._line.refused.set()

    def _make(self) -> HostAgent:
        self._line = Line(self.world, self)
        self.driver = WatchedDriver(self.world, self, CAPABILITIES)
        identity = Identity(
            host=self.id,
            name=self.name,
            hardware=self.name,
            boot=read_boot_id(self.driver.boot_id_path),
        )
        self._journal = Journal.open(self.folder / "state")
        return HostAgent(
            identity,
            self.driver,
            self._line,
            self._journal,
            migrations=MigrationSetup(
                line=self.world.network.line(self.id), moves=SimulatedMoves(self.driver)
            ),
            power=self.world.power,
        )

    def kill_agent(self) -> None:
        """End the agent's process where it stands: nothing that it still does has an effect."""
        if self.driver is not None:
            self.driver.dead = True
        if self._journal is not None:
            self._journal.close()
        self._task = None
        self.world.network.break_lines(self.id)
        self.process.kill()

    def lose_power(self) -> None:
        """Lose everything but the disks."""
        for key in sorted(self.running()):
            self.world.copies.ends_by_itself(self, key)
        if self.driver is not None:
            self.driver.dead = False  # the machine goes off, whether or not its agent lives
            self.driver.power_off()
        self.kill_agent()
        self.powered = False

    def freeze(self) -> None:
        """Stop the machine's processes where they are."""
        assert self.process.freezer is not None
        self.process.freezer.freeze()

    def thaw(self) -> None:
        """Let them go on, as if no time had passed."""
        assert self.process.freezer is not None
        self.process.freezer.thaw()

    @property
    def frozen(self) -> bool:
        """Whether the processes stand still."""
        return self.process.freezer is not None and self.process.freezer.frozen

    def is_welcome(self, log_id: uuid.UUID) -> None:
        """Take note that the engine knows the host again, by this log."""
        self.world.look_at_proofs()
        self.welcome_by = log_id
        self.vouched = False

    @property
    def away(self) -> bool:
        """Whether the engine cannot hear it."""
        return not self.powered or self.partitioned or self.frozen

    @property
    def runs_unheard(self) -> bool:
        """Whether it only seems to be off."""
        return self.powered and self.away

    @property
    def alive(self) -> bool:
        """Whether an agent runs."""
        return self._task is not None

    def running(self) -> set[tuple[str, int]]:
        """Return the VMs, with their incarnations, of which there are domains."""
        return set(self.driver.running) if self.driver is not None and self.powered else set()

    def halves(self) -> list[tuple[str, int]]:
        """Return those of which only a part of the memory is here."""
        if self.driver is None or not self.powered:
            return []
        domains = self.driver.machine.domains.values()
        return sorted((d.vm, d.incarnation) for d in domains if d.half)

    def executing(self) -> set[tuple[str, int]]:
        """Return those whose guests do something."""
        return set(self.driver.executing) if self.driver is not None and self.powered else set()

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
