"""A host with its agent, on a simulated machine and a fake engine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hostagent.agent import HostAgent
from hostagent.identity import Identity, read_boot_id
from hostagent.journal import Journal
from hostagent.memory_keeper import MemorySetup
from hostagent.migrations import MigrationSetup
from hostagent.power import Power
from hostagent.simulated import SimulatedDriver
from hostagent.simulated_migration import SimulatedMoves
from hostagent.simulated_state import Control, Do, Faults
from hostagent.tasks import end_tasks
from hostagent.timings import Timings
from tests.harness.memory_line import MemoryNetwork
from tests.unit.hostagent.fake_engine import FakeEngine, FakeGateway

TIMINGS = Timings(
    start_timeout_s=2.0,
    destroy_timeout_s=1.0,
    call_timeout_s=1.0,
    save_timeout_s=2.0,
    disk_timeout_s=5.0,
    boot_timeout_s=0.3,
    shutdown_timeout_s=1.0,
    button_interval_s=0.05,
    guest_poll_s=0.02,
    guest_refresh_s=0.1,
    unknown_retry_s=0.05,
    retry_min_s=0.02,
    retry_max_s=0.1,
    request_timeout_s=0.5,
    poll_pause_s=0.01,
    session_settled_s=1.0,
    fence_poll_s=0.02,
    witness_timeout_s=0.2,
    memory_interval_s=0.02,
)


class Host:
    """A simulated host whose agent can be killed and started again; in a network, it takes part in
    migrations.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "h1",
        network: MemoryNetwork | None = None,
        storage: Path | None = None,
    ) -> None:
        self.folder = folder
        self.name = name
        self.network = network
        self.storage = storage
        self.power: Power | None = None
        self.memory: MemorySetup | None = None
        self.engine = FakeEngine(name if network is not None else "")
        self.agent: HostAgent
        self.driver: SimulatedDriver
        self._task: asyncio.Task[None] | None = None

    async def start(self, faults: Faults | None = None, timings: Timings = TIMINGS) -> None:
        """Start the agent, as a new process would."""
        self.driver = SimulatedDriver(
            self.folder / "machine", name="host01", faults=faults, storage=self.storage
        )
        identity = Identity(
            host=self.name,
            name="host01",
            hardware="hw1",
            boot=read_boot_id(self.driver.boot_id_path),
        )
        self.agent = HostAgent(
            identity,
            self.driver,
            FakeGateway(self.engine),
            Journal.open(self.folder / "state"),
            timings=timings,
            migrations=self._migrations(),
            power=self.power,
            memory=self.memory,
        )
        self._task = asyncio.create_task(self.agent.run())

    def _migrations(self) -> MigrationSetup | None:
        if self.network is None:
            return None
        line = self.network.line(self.name)
        return MigrationSetup(line=line, moves=SimulatedMoves(self.driver))

    async def kill(self) -> None:
        """End the agent's process, as far as that goes within one."""
        if self._task is not None:
            await end_tasks({self._task})
            assert self._task.done()
            self.agent.desk.journal.close()  # where it was killed before its first step
            self._task = None

    async def restart(self, faults: Faults | None = None) -> None:
        await self.kill()
        await self.start(faults)

    def control(self, do: Do, vm: str = "") -> None:
        self.driver.control(Control(do=do, vm=vm))

    def faults(self, **faults: object) -> None:
        self.driver.control(Control(do=Do.FAULTS, faults=Faults(**faults)))  # type: ignore[arg-type]

    async def incarnations(self) -> list[tuple[str, int]]:
        domains = await self.driver.domains()
        return [(domain.vm, domain.incarnation) for domain in domains.managed]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(tmp_path)
    yield host
    await host.kill()
    assert host.engine.violations == []
