"""The simulated world: a log, an engine, policies, hosts, admins, and everything that goes wrong.

A run has two parts. In the first, admins give commands while faults happen at random. In the second
all faults are mended, and everything must come to rest as the model says.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from commands.cluster.create import CreateCluster
from commands.data_center.create import CreateDataCenter
from commands.host.add import AddHost
from commands.kernel.handler import Handler
from commands.state.vm import VM, VmState
from events.codec import CODEC
from events.envelope import NewEvent, Recorded
from events.log.memory import MemoryLog
from events.log.port import Append, Appended
from events.types.base import Event
from events.types.host import HostJoinRequested
from hostagent.power import Power
from hostagent.simulated_state import Faults as HypervisorFaults
from hostagent.simulated_storage import make_shared_storage
from tests.harness.memory_line import MemoryNetwork
from tests.simulation.boards import Boards
from tests.simulation.certificates import issued
from tests.simulation.clients import Client
from tests.simulation.connection import Connection, ContactsOverConnection, Outage
from tests.simulation.copies import Copies
from tests.simulation.engine import EngineProcess, PoliciesProcess, Sources
from tests.simulation.enrolment import Worker
from tests.simulation.machine import SimulatedHost
from tests.simulation.patches import EPOCH
from tests.simulation.process import Process
from tests.simulation.projection import Projection
from tests.simulation.restore import cut_back, what_a_restore_means

if TYPE_CHECKING:
    from tests.simulation.consumers import Consumers

SNAPSHOT_EVENTS = (20, 60, 200)
"""One of these is what lies between two snapshots of a fold, by the seed."""


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
        self.outage = Outage()
        self.met: Counter[str] = Counter()
        self.connection = Connection(self, self.log)
        self.contacts = ContactsOverConnection(self)
        self.sources = Sources(self.loop.time)
        self.handler = Handler(self.log)
        self.client = Client(self)
        self.faults = Faults()
        self.ending: set[str] = set()
        self.engines: list[EngineProcess | None] = [None]
        self.policies: list[PoliciesProcess] = []
        self.power: Power | None = None
        self.boards: Boards | None = None
        self.enrols = False
        self.on_boot: Callable[[SimulatedHost], None] = lambda _host: None
        self.network = MemoryNetwork(self._start_on)
        self.zombies: list[EngineProcess] = []
        self.projection = Projection(self)
        self.consumers: Consumers | None = None
        self.copies = Copies(self)
        self.storage: Path | None = None
        self.hosts: dict[str, SimulatedHost] = {}
        self.cluster = ""
        self.broken: list[str] = []
        self.told: list[str] = []
        self.opened = 0
        self.restores = 0
        self.commands = 0
        self.refused = 0
        self.accepted: list[str] = []
        self.hellos: list[float] = []
        """When hellos came to an engine."""
        self._folder = folder
        if self.dice.random() < 0.5:
            self.share_storage()
        self.snapshot_events = SNAPSHOT_EVENTS[seed % len(SNAPSHOT_EVENTS)]
        self._policies_started = 0
        self._engines_started = 0
        self._vms: dict[str, VmState] = {}
        self._folded = 0

    # ------------------------------------------------------------------ processes

    @property
    def engine(self) -> EngineProcess | None:
        """An engine that runs, None where none does."""
        return next((engine for engine in self.engines if engine is not None), None)

    def listening(self) -> list[EngineProcess]:
        """Return the engines that take connections, be they frozen."""
        return [engine for engine in self.engines if engine is not None]

    def start_engine(self, place: int = 0) -> None:
        """Start an engine's process in one of the places that there are for engines."""
        self._engines_started += 1
        name = f"engine-{self._engines_started}"
        engine = EngineProcess(
            self.connection,
            self.contacts,
            self.sources,
            name,
            self.ending,
            self.snapshot_events,
        )
        self.engines[place] = engine
        if self.enrols:
            engine.begin(Worker(self, engine, name).run())

    def start_engines(self) -> None:
        """Start an engine in every place where none runs."""
        for place, engine in enumerate(self.engines):
            if engine is None:
                self.start_engine(place)

    def kill_engine(self, place: int = 0) -> None:
        """Kill the engine's process in a place."""
        engine = self.engines[place]
        if engine is not None:
            engine.kill()
        self.engines[place] = None

    def replace_engine(self, place: int = 0) -> EngineProcess | None:
        """Start another engine while this one is frozen; return that, which is heard no more."""
        zombie = self.engines[place]
        if zombie is not None:
            self.zombies.append(zombie)
            self.start_engine(place)
        return zombie

    def start_policies(self) -> None:
        """Start a policies' process; one that runs is superseded, as a zombie would be."""
        self._policies_started += 1
        name = f"policies-{self._policies_started}"
        self.policies.append(
            PoliciesProcess(self.connection, self.sources, name, self.snapshot_events)
        )

    def kill_policies(self) -> None:
        """Kill all policies' processes."""
        for process in self.policies:
            process.kill()
        self.policies.clear()

    def _start_on(self, host: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.hosts[host].process.spawn(work)

    def note(self, text: str) -> None:
        """Write down what happened, for whoever looks into a failure."""
        self.told.append(f"{self.loop.time():10.3f} @{len(self.log._events):<5} {text}")

    def break_promise(self, text: str) -> None:
        """Note that something happened that must not."""
        self.note(f"BROKEN: {text}")
        self.broken.append(text)

    # ------------------------------------------------------------------ set-up

    async def open(self, hosts: int, engines: int = 1) -> None:
        """Make a cluster with hosts that are up, engines and policies."""
        data_center = await self.do(CreateDataCenter(name="Default"))
        self.cluster = await self.do(CreateCluster(name="Default", data_center=data_center))
        for number in range(hosts):
            name = f"host{number + 1}"
            host = await self.do(AddHost(name=name, cluster=self.cluster, approved=True))
            await self._join(host, name)
            self._set_up(host, name)
        self.opened = await self.log.head()
        self.engines = [None] * engines
        self.start_engines()
        self.start_policies()
        self.projection.start()
        for machine in self.hosts.values():
            machine.boot()
        await asyncio.sleep(5)

    def _set_up(self, host: str, name: str) -> SimulatedHost:
        folder = self._folder / name
        folder.mkdir(parents=True)
        self.hosts[host] = machine = SimulatedHost(self, host, name, folder)
        return machine

    def machine_of(self, host: str) -> SimulatedHost:
        """Return the machine of a host that may be new."""
        return self.hosts.get(host) or self._set_up(host, f"host{len(self.hosts) + 1}")

    async def join_once(self, host: str) -> None:
        """Have a new machine join, unless it has."""
        known = [CODEC.decode(stored).event for stored in await self.log.load(f"host/{host}")]
        if not any(isinstance(event, HostJoinRequested) for event in known):
            await self._join(host, self.machine_of(host).name)

    def give_boards(self) -> Boards:
        """Have the hosts be turned off and on by boards; before the world is opened."""
        self.boards = self.power = Boards(self)
        return self.boards

    async def attach_boards(self) -> None:
        """Tell of the boards of every host: one, two supplies, or one after the other."""
        assert self.boards is not None
        for host in self.hosts.values():
            await self.boards.attach(host, self.dice.choice([(1,), (1, 1), (1, 2)]))
        self.opened = await self.log.head()

    def start_consumers(self) -> None:
        """Have the log be consumed by notifier and warehouse, too."""
        from tests.simulation.consumers import Consumers  # noqa: PLC0415 - DuckDB loads for long

        self.consumers = Consumers(self, self._folder)
        self.consumers.start()

    def look_at_proofs(self) -> None:
        """Judge the proofs that hosts are off, before anything is judged by them."""
        if self.boards is not None:
            self.boards.look()

    def share_storage(self) -> None:
        """Have all hosts see the same folder of files."""
        if self.storage is None:
            self.storage = make_shared_storage(self._folder / "storage", "shared")

    def loop_errors(self) -> list[str]:
        """Return what went wrong in the loop and was nobody's to catch."""
        return [str(error) for error in getattr(self.loop, "errors", ())]

    async def do(self, command: Any) -> str:
        """Run an admin's command, on the log itself; return the object's id. Raises its refusal."""
        self.commands += 1
        accepted = await self.handler.handle(
            command.decide, self.sources.source_for("admin"), principal="admin"
        )
        return self._was_accepted(msgspec.json.decode(accepted.answer))

    async def give(self, command: Any) -> str:
        """Give an admin's command to an engine; see `do`, and `Client.do`."""
        self.commands += 1
        return self._was_accepted(await self.client.do(command))

    def _was_accepted(self, answer: dict[str, Any]) -> str:
        if "operation" in answer:
            self.accepted.append(str(answer["operation"]))
        return str(answer["id"])

    async def _join(self, host: str, name: str) -> None:
        events: tuple[Event, ...] = (
            HostJoinRequested(
                name=name, token="t", public_key_sha256="k", hardware=name, signing_request="r"
            ),
            issued(host, name, "1"),
        )
        await self.put(f"host/{host}", *events)

    async def put(self, stream: str, *events: Event) -> None:
        """Append events as they are, as those do whom the simulation leaves out."""
        context = self.sources.context("set-up")
        version = len(await self.log.load(stream))
        outcome = await self.log.append(
            Append(
                command=context.command,
                principal="set-up",
                actor="set-up",
                reads={stream: version},
                events=tuple(NewEvent(stream, event) for event in events),
                time=context.time,
            )
        )
        assert isinstance(outcome, Appended), outcome

    # ------------------------------------------------------------------ a restored backup

    async def restore(self, position: int) -> None:
        """Go on from a backup: the log is another one, and has forgotten what came after it."""
        for process in (*self.zombies, *self.policies):
            process.kill()
        for place in range(len(self.engines)):
            self.kill_engine(place)
        self.kill_policies()
        self.zombies.clear()
        former = self.log.log_id
        self.log = cut_back(self.log, position, self.sources.id())
        self.handler = Handler(self.log)
        self.connection = Connection(self, self.log)
        self.client.a_backup_was_restored()
        self._vms.clear()
        self._folded = 0
        self.restores += 1
        there = {stored.stream for stored in self.log._events}
        self.accepted = [key for key in self.accepted if f"operation/{key}" in there]
        now = EPOCH + dt.timedelta(seconds=self.loop.time())
        for stream, events in what_a_restore_means(self.log, position, now).items():
            await self.put(stream, *events)
        self.copies.forget_what_was_found()
        if self.boards is not None:
            self.boards.begin_anew()
        self.projection.follow_another_log()
        if self.consumers is not None:
            await self.consumers.follow_another_log(position, former)

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

    # ------------------------------------------------------------------ mending

    def run_all(self) -> None:
        """See that the database and the engine's processes run, and none of them stands still."""
        self.outage = Outage()
        for zombie in self.zombies:
            zombie.kill()
        self.zombies.clear()
        self.start_engines()
        for process in (*self.listening(), *self.policies, self.projection):
            if process.freezer is not None:
                process.freezer.thaw()
        if not any(process.tasks for process in self.policies):
            self.start_policies()

    async def mend(self) -> None:
        """Mend everything that is broken."""
        self.note("everything is mended")
        self.faults = Faults()
        self.run_all()
        self.network.cut.clear()
        if self.consumers is not None:
            self.consumers.mend()
        if self.boards is not None:
            self.boards.mend()
        for host in self.hosts.values():
            host.partitioned = host.isolated = False
            host.thaw()
            if not host.alive:
                host.boot()
            host.faults(HypervisorFaults())

    async def close(self) -> None:
        """End everything."""
        tasks = [*self.tasks]
        if self.consumers is not None:
            await self.consumers.close()
        processes = (*self.listening(), self.projection, *self.policies, *self.zombies)
        for process in (self, *processes):
            process.kill()
        for host in self.hosts.values():
            host.kill_agent()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(30)
