"""Many hosts in one process: each has its own agent, state folder, session and certificate.

A real host is a fleet of one. An agent that fails is started again, later each time; the others
are not disturbed. Simulated machines can be told things by files (`control`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from hostagent.agent import HostAgent
from hostagent.backoff import Backoff
from hostagent.client import HttpsGateway, agent_context
from hostagent.control import ControlFolder
from hostagent.cpu_keeper import CpuSetup
from hostagent.driver import Driver
from hostagent.gateway import Gateway
from hostagent.identity import BOOT_ID_PATH, Identity, read_boot_id
from hostagent.join import CERTIFICATE_NAME, KEY_NAME, TRUST_NAME, load_joined
from hostagent.journal import Journal
from hostagent.libvirt_host import HostDriver
from hostagent.memory_files import MemoryFiles
from hostagent.memory_keeper import MemorySetup
from hostagent.metrics import Metrics
from hostagent.migration_line import Line, TlsFiles, TlsLine
from hostagent.migration_port import PORT_NAME, SharedPort
from hostagent.migration_relay import RelayedMoves
from hostagent.migrations import MigrationSetup
from hostagent.power import Power
from hostagent.qemu_threads import QemuThreads
from hostagent.renewal import Renewal, RenewalGateway
from hostagent.simulated import BOOT_ID_NAME, SimulatedDriver
from hostagent.simulated_migration import SimulatedMoves
from hostagent.simulated_state import Control, Do
from hostagent.tasks import end_tasks, run_together
from hostagent.timings import Timings

MACHINE_FOLDER = "machine"
JOURNAL_FOLDER = "journal"
KSM_NAME = "ksm"
CPUS_NAME = "cpus"
STARTED_AT_ONCE_MAX = 50
CONTROL_POLL_S = 0.1

_log = structlog.get_logger(__name__)


class HostGateway(Gateway, RenewalGateway, Protocol):
    """All that a host asks of the engine."""


class Connect(Protocol):
    """Makes one host's connections to the gateway at an address."""

    def __call__(
        self, address: str, context: ssl.SSLContext, *, request_timeout_s: float
    ) -> HostGateway:
        """Connect when something is asked first; `request_timeout_s` bounds every request."""
        ...


class NotJoinedError(Exception):
    """The state folder holds no identity: the machine has to join first."""


class HostSetup(msgspec.Struct, frozen=True, kw_only=True):
    """One host of a fleet: its state folder (see `join`), its driver, and what identifies it.

    `migration_address` (ADDRESS:PORT) is where it takes VMs in; "" if it takes no part. Simulated
    hosts take VMs in at one port of their process. `power` is how it switches other machines off;
    without it the host is no proxy. Under `memory_root` lie the kernel's files on memory and CPUs.
    """

    folder: Path
    make_driver: Callable[[], Driver]
    hardware: str
    boot_id_path: Path = BOOT_ID_PATH
    migration_address: str = ""
    shares_port: bool = False
    power: Power | None = None
    memory_root: Path = Path("/")


class HostHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How one host's agent is."""

    host: str
    name: str
    running: bool
    connected: bool
    hypervisor_known: bool
    domains: int
    session: str
    waiting_items: int


def simulated_host(
    folder: Path, *, name: str, hardware: str, storage: Path | None = None
) -> HostSetup:
    """Return the setup of a simulated host whose machine lies in the state folder.

    Its volumes lie in `storage`, if that is given, where other hosts see them as well.
    """
    machine = folder / MACHINE_FOLDER
    return HostSetup(
        folder=folder,
        make_driver=lambda: SimulatedDriver(machine, name=name, storage=storage),
        hardware=hardware,
        boot_id_path=machine / BOOT_ID_NAME,
        shares_port=True,
    )


def _files(setup: HostSetup) -> TlsFiles:
    folder = setup.folder
    return TlsFiles(
        certificate=folder / CERTIFICATE_NAME, key=folder / KEY_NAME, trust=folder / TRUST_NAME
    )


class Fleet:
    """Runs the agents of several hosts until cancelled."""

    def __init__(
        self,
        hosts: Sequence[HostSetup],
        *,
        timings: Timings | None = None,
        control: Path | None = None,
        connect: Connect = HttpsGateway,
    ) -> None:
        self.metrics = Metrics()
        self._hosts = tuple(hosts)
        self._timings = timings or Timings()
        self._control = control
        self._connect = connect
        self._agents: dict[Path, HostAgent] = {}
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        self._starting = asyncio.Semaphore(STARTED_AT_ONCE_MAX)
        self._off_s: dict[Path, float] = {}
        sharing = [setup.folder for setup in self._hosts if setup.shares_port]
        self._port = SharedPort(sharing[0] / PORT_NAME) if sharing else None

    async def run(self) -> None:
        """Be the agent of all hosts; VMs run on when this ends, in whatever way."""
        works = [self._keep(setup) for setup in self._hosts]
        if self._port is not None and await self._open_port(self._port):
            works.append(self._port.run())
        if self._control is not None:
            works.append(self._listen(ControlFolder(self._control)))
        await run_together(works)

    def health(self) -> list[HostHealth]:
        """Return how each host's agent is."""
        return [self._health_of(setup) for setup in self._hosts]

    def measure(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        health = self.health()
        self.metrics.hosts.set(len(health))
        self.metrics.connected.set(sum(one.connected for one in health))
        self.metrics.unknown.set(sum(not one.hypervisor_known for one in health))
        self.metrics.domains.set(sum(one.domains for one in health))
        return self.metrics.text()

    async def _open_port(self, port: SharedPort) -> bool:
        """Open the port of simulated hosts; one that has joined knows the authority of all."""
        trusts = [_files(setup).trust for setup in self._hosts if setup.shares_port]
        trust = next((path for path in trusts if path.exists()), None)
        if trust is None:
            return False
        try:
            await port.open(trust)
        except OSError as error:
            _log.error("simulated hosts cannot take VMs in", error=str(error))
            return False
        return True

    async def _keep(self, setup: HostSetup) -> None:
        """Keep one host's agent running."""
        backoff = Backoff(self._timings.retry_min_s, self._timings.retry_max_s)
        while True:
            task = asyncio.create_task(self._run_one(setup))
            self._tasks[setup.folder] = task
            try:
                await asyncio.wait({task})
            finally:
                await end_tasks({task})
                self._agents.pop(setup.folder, None)
            if setup.folder in self._off_s:
                await asyncio.sleep(self._off_s.pop(setup.folder))
                backoff.reset()
                continue
            error = None if task.cancelled() else task.exception()
            delay_s = backoff.next_s()
            _log.error(
                "agent ended, to be started again",
                folder=str(setup.folder),
                error=str(error) or repr(error),
                delay_s=round(delay_s, 2),
            )
            await asyncio.sleep(delay_s)

    async def _run_one(self, setup: HostSetup) -> None:
        async with self._starting:
            identity, gateway = await asyncio.to_thread(self._prepare, setup)
            agent = self._assemble(setup, identity, gateway)
            renewal = Renewal(setup.folder, gateway, self._timings)
        self._agents[setup.folder] = agent
        await run_together((agent.run(), renewal.run()))

    def _prepare(self, setup: HostSetup) -> tuple[Identity, HostGateway]:
        """Read what lies on disk; in a thread, since many hosts start at once."""
        joined = load_joined(setup.folder)
        if joined is None:
            raise NotJoinedError(f"{setup.folder} holds no identity; run 'chronovisor agent join'")
        context = agent_context(
            setup.folder / CERTIFICATE_NAME, setup.folder / KEY_NAME, setup.folder / TRUST_NAME
        )
        gateway = self._connect(
            joined.gateway, context, request_timeout_s=self._timings.request_timeout_s
        )
        identity = Identity(host=joined.host, name=joined.name, hardware=setup.hardware, boot="")
        return identity, gateway

    def _assemble(self, setup: HostSetup, identity: Identity, gateway: Gateway) -> HostAgent:
        # The driver first: a simulated machine makes its boot id when it is switched on.
        driver = setup.make_driver()
        return HostAgent(
            msgspec.structs.replace(identity, boot=read_boot_id(setup.boot_id_path)),
            driver,
            gateway,
            Journal.open(setup.folder / JOURNAL_FOLDER),
            timings=self._timings,
            metrics=self.metrics,
            migrations=self._migrations(setup, identity.host, driver),
            power=setup.power,
            memory=(
                MemorySetup(
                    driver.balloons, MemoryFiles(setup.memory_root), setup.folder / KSM_NAME
                )
                if isinstance(driver, HostDriver)
                else None
            ),
            cpus=(
                CpuSetup(QemuThreads(driver.processes), setup.memory_root, setup.folder / CPUS_NAME)
                if isinstance(driver, HostDriver)
                else None
            ),
        )

    def _migrations(self, setup: HostSetup, host: str, driver: Driver) -> MigrationSetup | None:
        """Return how a host takes part in migrations; None where it does not."""
        line: Line | None = None
        if setup.migration_address:
            line = TlsLine(setup.migration_address, _files(setup))
        elif self._port is not None and self._port.address and setup.shares_port:
            line = self._port.line(host, _files(setup))
        if line is None:
            return None
        if isinstance(driver, SimulatedDriver):
            return MigrationSetup(line=line, moves=SimulatedMoves(driver))
        if isinstance(driver, HostDriver):
            return MigrationSetup(line=line, moves=RelayedMoves(driver))
        return None

    def _health_of(self, setup: HostSetup) -> HostHealth:
        agent = self._agents.get(setup.folder)
        if agent is None:
            return HostHealth(
                host="",
                name=setup.folder.name,
                running=False,
                connected=False,
                hypervisor_known=False,
                domains=0,
                session="",
                waiting_items=0,
            )
        return HostHealth(
            host=agent.identity.host,
            name=agent.identity.name,
            running=True,
            connected=agent.link.connected,
            hypervisor_known=agent.desk.known,
            domains=len(agent.desk.domains),
            session=agent.desk.session,
            waiting_items=len(agent.desk.outbox),
        )

    async def _listen(self, folder: ControlFolder) -> None:
        while True:
            for name, word in await asyncio.to_thread(folder.take):
                self._tell(name, word)
            await asyncio.sleep(CONTROL_POLL_S)

    def _tell(self, name: str, word: Control) -> None:
        """Pass a word to the simulated machine of a host, by its name or id."""
        for folder, agent in list(self._agents.items()):
            driver = agent.desk.driver
            if name not in {agent.identity.name, agent.identity.host, folder.name}:
                continue
            if not isinstance(driver, SimulatedDriver):
                _log.warning("not a simulated host", host=name)
                continue
            _log.info("told", host=name, do=word.do, vm=word.vm)
            driver.control(word)
            if word.do is Do.POWER_OFF:
                # The agent loses its power too, and comes back with the machine.
                self._off_s[folder] = word.off_s
                self._tasks[folder].cancel()
