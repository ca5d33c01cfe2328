"""An engine in memory, as far as an agent sees one: intent, sessions, reports."""

import asyncio
from collections.abc import Callable

import msgspec

from events.types.host_memory import MemoryPolicy
from events.types.host_power import FenceOrder
from events.types.job import Job
from events.wire.agent import (
    FenceItem,
    FullStateItem,
    Hello,
    Intent,
    IntentVm,
    Item,
    JobItem,
    JobState,
    Orders,
    Report,
    ReportAck,
    Role,
    Telemetry,
    VmState,
    VmStateItem,
    Welcome,
)
from hostagent.gateway import GatewayAwayError, SessionEndedError
from hostagent.records import RunKey


class FakeEngine:
    """Keeps the intent of one host and what was reported; a test turns its knobs."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.position = 0
        self.session = ""
        self.hellos: list[Hello] = []
        self.reports: list[Report] = []
        self.items: list[Item] = []
        self.telemetry: list[Telemetry] = []
        self.vms: dict[RunKey, IntentVm] = {}
        self.jobs: dict[str, Job] = {}
        self.withdrawn: list[tuple[int, str]] = []
        self.fences: dict[str, tuple[int, FenceOrder]] = {}
        self.fenced: dict[str, FenceItem] = {}
        self.states: dict[tuple[str, int], VmStateItem] = {}
        self.outcomes: dict[str, JobItem] = {}
        self.violations: list[str] = []
        self.away = False
        self.refusing = False
        self.lose_answers = 0
        self.doubt = ""
        self.memory: tuple[int, MemoryPolicy | None] = (0, None)
        self.poll_s = 2.0
        self.compare_interval_s = 60.0
        self.telemetry_interval_s = 60.0
        self._changed: dict[RunKey, int] = {}
        self._job_changed: dict[str, int] = {}
        self._news = asyncio.Event()

    # --- what a test orders

    def order(self, item: IntentVm) -> None:
        """Want an incarnation to be so on the host."""
        self.position += 1
        key = RunKey(item.vm, item.incarnation)
        self.vms[key] = msgspec.structs.replace(item, position=self.position)
        self._changed[key] = self.position
        self._news.set()

    def absent(self, vm: str, incarnation: int = 1, **more: object) -> None:
        """Want an incarnation to be gone."""
        known = self.vms.get(RunKey(vm, incarnation))
        self.order(
            IntentVm(
                vm=vm,
                incarnation=incarnation,
                role=Role.ABSENT,
                position=0,
                started=known is not None and known.started,
                **more,  # type: ignore[arg-type]
            )
        )

    def order_job(self, job: Job) -> Job:
        """Want a job to be done."""
        self.position += 1
        self.jobs[job.id] = job
        self._job_changed[job.id] = self.position
        self._news.set()
        return job

    def order_fence(self, order: FenceOrder) -> FenceOrder:
        """Want something to be done with the power of another host."""
        self.position += 1
        self.fences[order.id] = (self.position, order)
        self._news.set()
        return order

    def order_memory(self, policy: MemoryPolicy) -> None:
        """Want the host's memory to be kept so."""
        self.position += 1
        self.memory = (self.position, policy)
        self._news.set()

    def withdraw(self, job: Job | FenceOrder) -> None:
        """Want a job, or something of another host's power, no more."""
        self.position += 1
        self.jobs.pop(job.id, None)
        self.fences.pop(job.id, None)
        self.withdrawn.append((self.position, job.id))
        self._news.set()

    def replace_session(self) -> None:
        """Let somebody else have said hello."""
        self.session = "somebody else's"
        self._news.set()

    # --- what an agent asks

    async def hello(self, hello: Hello) -> Welcome:
        self._answer()
        self.hellos.append(hello)
        if self.doubt and hello.doubt != self.doubt:
            raise SessionEndedError("say it again", self.doubt)
        self.doubt = ""
        self.session = f"{self.name}session-{len(self.hellos)}"
        self._news.set()
        return Welcome(
            session=self.session,
            protocol=1,
            intent=Intent(
                position=self.position,
                vms=tuple(self.vms.values()),
                jobs=tuple(self.jobs.values()),
                fences=tuple(order for _at, order in self.fences.values()),
                memory=self.memory[1],
            ),
            poll_s=self.poll_s,
            compare_interval_s=self.compare_interval_s,
            telemetry_interval_s=self.telemetry_interval_s,
        )

    async def orders(self, session: str, after: int, wait_s: float) -> Orders:
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            self._answer()
            self._require(session)
            left_s = deadline - asyncio.get_running_loop().time()
            if self.position > after or left_s <= 0:
                return Orders(changes=self._changes(after))
            self._news.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def report(self, report: Report) -> ReportAck:
        self._answer()
        self._require(report.session)
        repeated = any(
            (known.session, known.sequence) == (report.session, report.sequence)
            for known in self.reports
        )
        if repeated:
            self._expect(report in self.reports, "the same number stands for another report")
        else:
            self.reports.append(report)
            for item in report.items:
                self._take(item)
        if self.lose_answers:
            self.lose_answers -= 1
            raise GatewayAwayError("the answer was lost")
        return ReportAck(sequence=report.sequence, position=self.position)

    async def telemetry_(self, telemetry: Telemetry) -> None:
        self._answer()
        self.telemetry.append(telemetry)

    def _answer(self) -> None:
        if self.refusing:
            raise GatewayAwayError("nobody listens", on_its_way=False)
        if self.away:
            raise GatewayAwayError("away")

    def _require(self, session: str) -> None:
        if session != self.session:
            raise SessionEndedError("another session")

    def _expect(self, holds: object, otherwise: str) -> None:
        """Note what must never be; an agent would take an exception for a bad connection."""
        if not holds:
            self.violations.append(otherwise)

    def _changes(self, after: int) -> Intent:
        return Intent(
            position=self.position,
            vms=tuple(self.vms[key] for key, at in self._changed.items() if at > after),
            jobs=tuple(
                self.jobs[job]
                for job, at in self._job_changed.items()
                if at > after and job in self.jobs
            ),
            jobs_withdrawn=tuple(job for at, job in self.withdrawn if at > after),
            fences=tuple(order for at, order in self.fences.values() if at > after),
            memory=self.memory[1] if self.memory[0] > after else None,
        )

    def _take(self, item: Item) -> None:
        self.items.append(item)
        match item:
            case VmStateItem():
                self._take_vm(item)
            case FullStateItem():
                for state in item.vms:
                    self._take_vm(state)
            case JobItem() if item.state is not JobState.RUNNING:
                known = self.outcomes.get(item.job)
                same = known is None or known.state is item.state
                self._expect(same, f"the outcome of {item.job} changed")
                self.outcomes[item.job] = item
                self.jobs.pop(item.job, None)
            case FenceItem():
                fenced = self.fenced.setdefault(item.order, item)
                self._expect(fenced == item, f"the outcome of {item.order} changed")
                self.fences.pop(item.order, None)
            case _:
                pass

    def _take_vm(self, item: VmStateItem) -> None:
        key = RunKey(item.vm, item.incarnation)
        before = self.states.get(key)
        if before is not None and before.state is VmState.ABSENT:
            self._expect(item.state is VmState.ABSENT, f"{key} is back after it was absent")
        self.states[key] = item
        intended = self.vms.get(key)
        if item.state is VmState.ABSENT:
            self.vms.pop(key, None)
            self._changed.pop(key, None)
        elif item.state in {VmState.RUNNING, VmState.PAUSED} and intended is not None:
            self.vms[key] = msgspec.structs.replace(intended, started=True)

    # --- what a test waits for

    async def until(
        self, condition: Callable[["FakeEngine"], object], timeout_s: float = 15
    ) -> None:
        """Wait until the engine knows something."""

        async def check() -> None:
            while not condition(self):
                await asyncio.sleep(0.005)

        try:
            async with asyncio.timeout(timeout_s):
                await check()
        except TimeoutError:
            message = f"never came true; states {self.states}, outcomes {self.outcomes}"
            raise AssertionError(message) from None

    async def until_state(self, vm: str, state: VmState, incarnation: int = 1) -> VmStateItem:
        """Wait until an incarnation was reported as this."""
        key = RunKey(vm, incarnation)
        await self.until(lambda engine: key in engine.states and engine.states[key].state is state)
        return self.states[key]

    async def until_outcome(self, job: Job) -> JobItem:
        """Wait for a job's outcome."""
        await self.until(lambda engine: job.id in engine.outcomes)
        return self.outcomes[job.id]


class FakeGateway:
    """An agent's way to the fake engine."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    async def hello(self, hello: Hello) -> Welcome:
        return await self._engine.hello(hello)

    async def orders(self, session: str, after: int, wait_s: float) -> Orders:
        return await self._engine.orders(session, after, wait_s)

    async def report(self, report: Report) -> ReportAck:
        return await self._engine.report(report)

    async def telemetry(self, telemetry: Telemetry) -> None:
        await self._engine.telemetry_(telemetry)

    async def close(self) -> None:
        pass
