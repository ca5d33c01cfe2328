"""A stage for the policies' tests: the real decisions, policies and gateway over a log in memory.

Time stands still but for `pass_time`; ids are counted. Hosts say what the test has them say.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import TypeVar

import msgspec

from commands.catalogue import COMMANDS
from commands.gateway.fencing import decide_fence
from commands.gateway.reports import ReportingHost, decide_job, decide_vm_state
from commands.gateway.sessions import decide_hello
from commands.gateway.view import GatewayView
from commands.kernel.command import Command, Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.handler import Handler
from commands.policies.fence_rules import FenceRules
from commands.policies.runner import Runner
from commands.policies.saga import Timeouts
from commands.state.host import HOST, HostState
from commands.state.operation import OPERATION, OperationState
from commands.state.vm import VM, VmState
from events.codec import CODEC
from events.envelope import Recorded
from events.log.memory import MemoryLog
from events.types.base import Event
from events.types.host import (
    Capabilities,
    HostCapabilitiesReported,
    HostCertificateIssued,
    HostJoinRequested,
    HostSessionStarted,
    HostSilent,
)
from events.wire.agent import PROTOCOL, FenceItem, Hello, Intent, JobItem, JobState, VmStateItem
from events.wire.agent import VmState as Reported

assert COMMANDS
State = TypeVar("State")
GIB = 1024**3
CAPABILITIES = Capabilities(
    architecture="x86_64",
    cpus=8,
    cpu_model="EPYC",
    cpu_models=("qemu64",),
    memory_bytes=16 * GIB,
    machine_types=("pc-q35-7.2",),
    bridges=("br0",),
    storage_free_bytes=100 * GIB,
    migration_address="192.0.2.1:54329",
    fence_agents=("ipmilan",),
)


FENCE_RULES = FenceRules(
    settle_s=5,
    soft_timeout_s=20,
    kdump_wait_s=10,
    kdump_timeout_s=40,
    status_timeout_s=20,
    off_timeout_s=20,
    on_timeout_s=20,
    margin_s=5,
    confirm_fresh_s=15,
    retry_s=10,
    listen_s=0,
    boot_timeout_s=50,
)


class Stage:
    """A little data center."""

    def __init__(
        self, log: MemoryLog | None = None, *, name: str = "first", ids_from: int = 0
    ) -> None:
        self.log = log or MemoryLog()
        self.handler = Handler(self.log)
        self.now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        self._ids = ids_from
        self.runner = self.new_runner(name)
        self.cluster = ""
        self.operation: str | None = None

    def new_runner(self, name: str) -> Runner:
        """Return another policies' process."""
        timeouts = Timeouts(launch_s=60, retry_s=30, fencing=FENCE_RULES)
        return Runner(self.log, self.context, timeouts, name)

    def context(self, actor: str = "admin:test") -> Context:
        """Return a context with counted ids."""
        return Context(
            command=self._id(),
            time=self.now,
            actor=actor,
            ids=tuple(str(self._id()) for _ in range(10)),
            randoms=tuple(self._ids * 100 + n for n in range(16)),
            secret_sha256=lambda token: f"hash of {token}",
            hosts_of=lambda _cluster: (),
        )

    def _id(self) -> uuid.UUID:
        self._ids += 1
        return uuid.UUID(int=self._ids)

    async def open(self, hosts: int = 1) -> list[str]:
        """Make a data center and a cluster with hosts that are up; begin the policies."""
        from commands.cluster.create import CreateCluster  # noqa: PLC0415
        from commands.data_center.create import CreateDataCenter  # noqa: PLC0415

        data_center = await self.do(CreateDataCenter(name="Default"))
        self.cluster = await self.do(CreateCluster(name="Default", data_center=data_center))
        ids = [await self.add_host(f"host{n + 1}") for n in range(hosts)]
        await self.runner.begin()
        return ids

    async def add_host(self, name: str) -> str:
        """Add a host that has joined and is up."""
        from commands.host.add import AddHost  # noqa: PLC0415

        host = await self.do(AddHost(name=name, cluster=self.cluster, approved=True))
        await self.append(
            HOST.stream(host),
            HostJoinRequested(
                name=name, token="t", public_key_sha256="k", hardware=name, signing_request="r"
            ),
            HostCertificateIssued(
                name=name, fingerprint=f"fp-{name}", serial="1", certificate="c", expires=self.now
            ),
            HostSessionStarted(name=name, session=f"s-{name}", boot=f"boot-{name}", protocol=1),
            HostCapabilitiesReported(capabilities=CAPABILITIES),
        )
        return host

    async def do(self, command: Command) -> str:
        """Run a command; return the object's id. Raises its refusal."""
        accepted = await self.handler.handle(command.decide, self.context, principal="admin")
        answer = msgspec.json.decode(accepted.answer)
        self.operation = answer.get("operation")
        return str(answer["id"])

    async def append(self, stream: str, *events: Event) -> None:
        """Append events, as if something had decided them."""
        await self.decide(lambda _world, _context: Decision(id="", events=on(stream, *events)))

    async def decide(self, decide: Callable[[World, Context], Decision]) -> None:
        """Append what a decision returns."""

        def reading(world: World, context: Context) -> Decision:
            decision = decide(world, context)
            for event in decision.events:
                kind, _, key = event.stream.partition("/")
                fold = {"vm": VM, "host": HOST, "operation": OPERATION}.get(kind)
                if fold is not None:
                    world.get(fold, key)  # type: ignore[arg-type]
            return decision

        context = self.context("host:test")
        await self.handler.handle(reading, lambda: context, principal="test")

    async def settle(self) -> None:
        """Let the policies make all their moves."""
        for _ in range(3):
            await self.runner.turn()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and the policies act on it."""
        self.now += dt.timedelta(seconds=seconds)
        await self.settle()

    async def report(self, host: str, *items: VmStateItem | JobItem | FenceItem) -> None:
        """Have a host report, which has taken up all its orders, and let the policies act on it."""
        applied = await self.log.head()
        for item in items:

            def decide(
                world: World,
                context: Context,
                item: VmStateItem | JobItem | FenceItem = item,
            ) -> Decision:
                if isinstance(item, FenceItem):
                    return decide_fence(world, host, item)
                reporting = ReportingHost(world, host)
                if isinstance(item, VmStateItem):
                    return decide_vm_state(world, context, reporting, item, applied)
                return decide_job(world, context, reporting, item)

            await self.decide(decide)
        await self.settle()

    async def hello(self, host: str, boot: str | None = None) -> None:
        """Have a host's agent open a session, by default in the boot that is known of it."""
        state = await self.host(host)
        hello = Hello(
            boot=boot or str(state.boot),
            hardware=state.name,
            protocols=(PROTOCOL,),
            agent_version="0",
            time=self.now,
            capabilities=CAPABILITIES,
        )
        await self.decide(
            lambda world, context: decide_hello(world, context, host, f"fp-{state.name}", hello)
        )
        await self.settle()

    async def silence(self, host: str) -> None:
        """Have a host fall silent."""
        state = await self.host(host)
        await self.append(
            HOST.stream(host), HostSilent(name=state.name, last_contact=self.now, timeout_s=60)
        )
        await self.settle()

    async def vm(self, key: str) -> VmState:
        """Return a VM's state."""
        state = await self._state(VM.stream(key), VM.evolve)
        assert state is not None
        return state

    async def host(self, key: str) -> HostState:
        """Return a host's state."""
        state = await self._state(HOST.stream(key), HOST.evolve)
        assert state is not None
        return state

    async def hosts(self) -> list[str]:
        """Return the ids of all hosts that were ever added."""
        return [one.object_id for one in await self.history() if one.name == "host.added"]

    async def op(self, key: str | None = None) -> OperationState:
        """Return an operation's state; by default the last command's."""
        state = await self._state(OPERATION.stream(key or self.operation or ""), OPERATION.evolve)
        assert state is not None
        return state

    async def _state(
        self, stream: str, evolve: Callable[[State | None, Recorded], State | None]
    ) -> State | None:
        state: State | None = None
        for stored in await self.log.load(stream):
            state = evolve(state, CODEC.decode(stored))
        return state

    async def intent(self, host: str) -> Intent:
        """Return what should be on a host."""
        return (await self.view()).intent(host)

    async def view(self) -> GatewayView:
        """Return what a gateway knows that has read the whole log."""
        view = GatewayView()
        for recorded in await self.history():
            view.take(recorded)
        return view

    async def history(self) -> list[Recorded]:
        """Return the whole log."""
        return [CODEC.decode(stored) for stored in await self.log.read(0, 100_000)]

    async def names(self, after: int = 0) -> list[str]:
        """Return the names of all events after a position."""
        return [recorded.name for recorded in (await self.history())[after:]]


def running(vm: str, incarnation: int = 1, *, up: bool = True, **more: object) -> VmStateItem:
    """The host says that an incarnation runs."""
    return VmStateItem(
        vm=vm,
        incarnation=incarnation,
        state=Reported.RUNNING,
        guest_up=up,
        **more,  # type: ignore[arg-type]
    )


def absent(vm: str, incarnation: int = 1, **more: object) -> VmStateItem:
    """The host says that an incarnation is gone."""
    return VmStateItem(vm=vm, incarnation=incarnation, state=Reported.ABSENT, **more)  # type: ignore[arg-type]


def done(job: str, vm: str) -> JobItem:
    """The host did a job."""
    return JobItem(job=job, vm=vm, state=JobState.DONE)


def failed(job: str, vm: str, reason: str = "it broke") -> JobItem:
    """The host could not do a job."""
    return JobItem(job=job, vm=vm, state=JobState.FAILED, reason=reason)
