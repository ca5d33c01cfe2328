"""The simulated world: a log, an engine, policies, hosts, admins, and everything that goes wrong.

A run has two parts. In the first, admins give commands while faults happen at random. In the second
all faults are mended, and everything must come to rest as the model says.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Any

import msgspec

from commands.cluster.create import CreateCluster
from commands.data_center.create import CreateDataCenter
from commands.gateway.contacts import MemoryContacts
from commands.host.add import AddHost
from commands.kernel.handler import Handler
from commands.state.vm import VM, VmState
from events.codec import CODEC
from events.envelope import NewEvent, Recorded
from events.log.memory import MemoryLog
from events.log.port import Append
from events.types.base import Event
from events.types.host import HostCertificateIssued, HostJoinRequested
from events.types.run_spec import RunSpec
from hostagent.power import Power
from hostagent.simulated_state import Faults as HypervisorFaults
from tests.harness.memory_line import MemoryNetwork
from tests.simulation.engine import EngineProcess, PoliciesProcess, Process, Sources
from tests.simulation.machine import SimulatedHost
from tests.simulation.patches import EPOCH


class BrokenPromiseError(AssertionError):
    """What must hold did not."""


class Faults(msgspec.Struct, kw_only=True):
    """How often messages suffer; probabilities."""

    lost: float = 0.0
    doubled: float = 0.0
    slow: float = 0.0


class World(Process):
    """Everything there is."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__()
        self.seed = seed
        self.dice = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.log = MemoryLog()
        self.contacts = MemoryContacts()
        self.sources = Sources(self.loop.time)
        self.handler = Handler(self.log)
        self.faults = Faults()
        self.power: Power | None = None
        self.network = MemoryNetwork()
        self.engine: EngineProcess | None = None
        self.policies: list[PoliciesProcess] = []
        self.hosts: dict[str, SimulatedHost] = {}
        self.cluster = ""
        self.broken: list[str] = []
        self.told: list[str] = []
        self.commands = 0
        self.refused = 0
        self.accepted: list[str] = []
        self._folder = folder
        self.storage = folder / "storage"
        self._policies_started = 0
        self._restored: dict[str, tuple[str, int]] = {}
        self._vms: dict[str, VmState] = {}
        self._folded = 0

    # ------------------------------------------------------------------ processes

    def start_engine(self) -> None:
        """Start the engine's process."""
        self.engine = EngineProcess(self.log, self.contacts, self.sources)

    def kill_engine(self) -> None:
        """Kill the engine's process."""
        if self.engine is not None:
            self.engine.kill()
        self.engine = None

    def start_policies(self) -> None:
        """Start a policies' process; one that runs is superseded, as a zombie would be."""
        self._policies_started += 1
        name = f"policies-{self._policies_started}"
        self.policies.append(PoliciesProcess(self.log, self.sources, name))

    def kill_policies(self) -> None:
        """Kill all policies' processes."""
        for process in self.policies:
            process.kill()
        self.policies.clear()

    def note(self, text: str) -> None:
        """Write down what happened, for whoever looks into a failure."""
        self.told.append(f"{self.loop.time():10.3f} @{len(self.log._events):<5} {text}")

    def break_promise(self, text: str) -> None:
        """Note that something happened that must not."""
        self.note(f"BROKEN: {text}")
        self.broken.append(text)

    # ------------------------------------------------------------------ set-up

    async def open(self, hosts: int) -> None:
        """Make a cluster with hosts that are up, an engine and policies."""
        data_center = await self.do(CreateDataCenter(name="Default"))
        self.cluster = await self.do(CreateCluster(name="Default", data_center=data_center))
        for number in range(hosts):
            name = f"host{number + 1}"
            host = await self.do(AddHost(name=name, cluster=self.cluster, approved=True))
            await self._join(host, name)
            folder = self._folder / name
            folder.mkdir(parents=True)
            self.hosts[host] = SimulatedHost(self, host, name, folder)
        self.start_engine()
        self.start_policies()
        for machine in self.hosts.values():
            machine.boot()
        await asyncio.sleep(5)

    async def do(self, command: Any) -> str:
        """Run an admin's command; return the object's id. Raises its refusal."""
        self.commands += 1
        accepted = await self.handler.handle(
            command.decide, self.sources.source_for("admin"), principal="admin"
        )
        answer = msgspec.json.decode(accepted.answer)
        if "operation" in answer:
            self.accepted.append(str(answer["operation"]))
        return str(answer["id"])

    async def _join(self, host: str, name: str) -> None:
        fingerprint = hashlib.sha256(host.encode()).hexdigest()
        events: tuple[Event, ...] = (
            HostJoinRequested(
                name=name, token="t", public_key_sha256="k", hardware=name, signing_request="r"
            ),
            HostCertificateIssued(
                name=name, fingerprint=fingerprint, serial="1", certificate="c", expires=EPOCH
            ),
        )
        context = self.sources.context("set-up")
        stream = f"host/{host}"
        await self.log.append(
            Append(
                command=context.command,
                principal="set-up",
                actor="set-up",
                reads={stream: 1},
                events=tuple(NewEvent(stream, event) for event in events),
                time=context.time,
            )
        )

    # ------------------------------------------------------------------ what must hold always

    def vms(self) -> dict[str, VmState]:
        """Return the model: every VM as the log has it."""
        for stored in self.log._events[self._folded :]:
            self._folded = stored.position
            if stored.stream.startswith("vm/"):
                recorded: Recorded = CODEC.decode(stored)
                after = VM.evolve(self._vms.get(recorded.object_id), recorded)
                if after is not None:
                    self._vms[recorded.object_id] = after
        return self._vms

    def began(self, host: str, spec: RunSpec) -> None:
        """Check what must hold when a domain comes to be on a host."""
        what = f"VM {spec.name} incarnation {spec.incarnation}"
        name = self.hosts[host].name
        self.note(f"{what} begins on {name}")
        for other in self.hosts.values():
            twice = {key for key in other.running() if key[0] == spec.vm}
            if other.id != host and twice:
                self.break_promise(f"{what} begins on {name} and runs on {other.name}: {twice}")
        vm = self.vms().get(spec.vm)
        run = vm.run if vm is not None else None
        if run is None or (run.host, run.incarnation) != (host, spec.incarnation):
            self.break_promise(f"{what} begins on {name} although that run is over: {run}")
        if spec.restore_from in self._restored:
            before = self._restored[spec.restore_from]
            self.break_promise(f"{what} restores a memory that {before} restored")

    def goes(self, host: str, vms: set[str]) -> None:
        """Check that no VM whose CPUs run on a host has CPUs that run on another one."""
        for other in self.hosts.values():
            twice = vms & other.going() if other.id != host else set()
            if twice:
                self.break_promise(f"{twice} run on {self.hosts[host].name} and on {other.name}")

    def ran(self, host: str, spec: RunSpec) -> None:
        """Take note that a guest ran: from its first instant its memory is of no more use."""
        if spec.restore_from is not None:
            self._restored[spec.restore_from] = (host, spec.incarnation)

    # ------------------------------------------------------------------ mending

    async def mend(self) -> None:
        """Mend everything that is broken."""
        self.note("everything is mended")
        self.faults = Faults()
        if self.engine is None:
            self.start_engine()
        if not self.policies:
            self.start_policies()
        for host in self.hosts.values():
            host.partitioned = False
            if not host.alive:
                host.boot()
            host.faults(HypervisorFaults())

    async def close(self) -> None:
        """End everything."""
        tasks = [*self.tasks]
        for process in (self, self.engine, *self.policies):
            if process is not None:
                process.kill()
        for host in self.hosts.values():
            host.kill_agent()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(30)
