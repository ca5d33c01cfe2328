"""What the agent's workers share: the driver, the journal, the intent of this session, the outbox.

The desk holds no truth. The intent is the engine's, what runs is the hypervisor's, what was begun
is the journal's; `domains` is only the last list that was read.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import Callable

import msgspec

from events.types.host_memory import MemoryPolicy
from events.types.host_power import FenceOrder
from events.types.job import Job, JobKind
from events.types.migration import CopyProgress, Held
from events.types.vm_memory import BalloonProblem
from events.wire.agent import (
    FenceItem,
    FullStateItem,
    Intent,
    IntentVm,
    Item,
    JobItem,
    JobState,
    Role,
    VmState,
    VmStateItem,
    Welcome,
)
from hostagent.describe import describe, describe_all
from hostagent.driver import Domain, Driver, Guest
from hostagent.journal import Journal
from hostagent.outbox import Outbox
from hostagent.reconcile import Ending
from hostagent.records import FenceForgotten, JobForgotten, RunKey
from hostagent.timings import Timings


class Desk:
    """The shared state of one host's agent, all of it used from one event loop."""

    def __init__(self, driver: Driver, journal: Journal, timings: Timings, boot: str) -> None:
        self.driver = driver
        self.journal = journal
        self.timings = timings
        self.boot = boot
        self.outbox = Outbox()
        self.wake = asyncio.Event()
        self.session = ""
        self.position = 0
        self.welcomed = 0
        self.fresh_for_s = 0.0
        self.intent: dict[RunKey, IntentVm] = {}
        self.jobs: dict[str, Job] = {}
        self.withdrawn: set[str] = set()
        self.fences: dict[str, FenceOrder] = {}
        self.fences_changed = asyncio.Event()
        self.known = False
        self.domains: dict[RunKey, Domain] = {}
        self.unmanaged: tuple[str, ...] = ()
        self.guests: dict[RunKey, Guest] = {}
        self.endings: dict[RunKey, Ending] = {}
        self.touched: set[str] = set()
        self.told_since_full = False
        self.told_all = False
        self.reported: dict[RunKey, VmStateItem] = {}
        self.memory: MemoryPolicy | None = None
        self.balloons: dict[RunKey, BalloonProblem] = {}
        self._contact = -float("inf")
        self._ended: dict[RunKey, asyncio.Event] = {}
        self.on_withdrawn: Callable[[Job], None] = lambda _job: None

    # ------------------------------------------------------------------ the engine's side

    def welcome(self, welcome: Welcome, asked_at: float) -> list[JobForgotten | FenceForgotten]:
        """Take up a new session's whole intent; return what the journal need not keep."""
        self.session = welcome.session
        self.position = self.welcomed = welcome.intent.position
        # Two polls may be under way or lost; beyond that, orders may be out of date.
        self.fresh_for_s = 2 * welcome.poll_s + self.timings.request_timeout_s
        self.intent = {RunKey(item.vm, item.incarnation): item for item in welcome.intent.vms}
        self.withdrawn = set(welcome.intent.jobs_withdrawn)
        unwanted = self._unwanted(welcome.intent)
        self.jobs = {job.id: job for job in (*welcome.intent.jobs, *unwanted)}
        self.fences = {order.id: order for order in welcome.intent.fences}
        self.memory = welcome.intent.memory or self.memory
        self.reported.clear()
        self.told_all = False
        self.outbox.reset()
        self.heard(asked_at)
        self._retell_jobs()
        for job in unwanted:
            self.on_withdrawn(job)
        self.wake.set()
        self.fences_changed.set()
        return [
            *(
                JobForgotten(job=known.job)
                for known in self.journal.known.jobs.values()
                if known.job not in self.jobs and known.job not in self.withdrawn
            ),
            *(
                FenceForgotten(order=order)
                for order in self.journal.known.fences
                if order not in self.fences
            ),
        ]

    def take_up(self, changes: Intent, asked_at: float) -> None:
        """Take up the changes that a poll brought: whole items, newer than what is there."""
        self.heard(asked_at)
        if changes.position <= self.position:
            return
        for item in changes.vms:
            self.intent[RunKey(item.vm, item.incarnation)] = item
        for job in changes.jobs:
            if job.id not in self.withdrawn:
                self.jobs[job.id] = job
        self.fences |= {order.id: order for order in changes.fences}
        self.memory = changes.memory or self.memory
        for job_id in changes.jobs_withdrawn:
            self.fences.pop(job_id, None)
            self.withdrawn.add(job_id)
            withdrawn = self.jobs.get(job_id)
            if withdrawn is not None:
                self.on_withdrawn(withdrawn)
        self.position = changes.position
        self.wake.set()
        self.fences_changed.set()

    def end_session(self) -> None:
        """Act on nothing more until the next welcome."""
        self.session = ""

    def heard(self, asked_at: float) -> None:
        """Note that the engine answered what was asked at `asked_at` (see `moment`)."""
        fresh = self.orders_fresh()
        self._contact = max(self._contact, asked_at)
        if not fresh:
            self.wake.set()

    def orders_fresh(self) -> bool:
        """Whether the intent is this session's and not older than a few polls.

        An agent that stood still (stopped, or with its whole machine) must ask again before it
        starts anything: the start may have been withdrawn meanwhile.
        """
        return bool(self.session) and moment() - self._contact <= self.fresh_for_s

    def delivered(self, items: tuple[Item, ...], applied_position: int) -> None:
        """Forget what is of no more use once the engine has these items durably.

        What was ordered after they were told stays: they say nothing about it.
        """
        for item in items:
            if isinstance(item, VmStateItem) and item.state is VmState.ABSENT:
                key = RunKey(item.vm, item.incarnation)
                ordered = self.intent.get(key)
                later = ordered is not None and ordered.position > applied_position
                may_come = ordered is not None and ordered.role is Role.INCOMING
                if later:
                    self.wake.set()  # it is told anew, if it is so still
                elif not may_come:
                    self.intent.pop(key, None)
                self.reported.pop(key, None)
            elif isinstance(item, JobItem) and item.state is not JobState.RUNNING:
                self.jobs.pop(item.job, None)
            elif isinstance(item, FenceItem):
                self.fences.pop(item.order, None)
        self.journal.keep(self.intent)

    # ------------------------------------------------------------------ what is told

    def tell(self, item: Item) -> None:
        """Let an item wait for the engine; nothing is kept while there is no session."""
        if self.session:
            self.outbox.put(item, self.position)

    def tell_job(
        self,
        job: Job,
        state: JobState,
        *,
        percent: int | None = None,
        reason: str = "",
        copying: CopyProgress | None = None,
        held: Held | None = None,
        elsewhere: bool = False,
    ) -> None:
        """Say how far a job is."""
        self.tell(
            JobItem(
                job=job.id,
                vm=job.vm,
                state=state,
                percent=percent,
                reason=reason,
                copying=copying,
                held=held,
                elsewhere=elsewhere,
            )
        )

    def tell_run(self, key: RunKey) -> None:
        """Say what an incarnation is, if that is not what was said last.

        A session begins with all that is on the host, this with it.
        """
        if not (self.told_all and self.session):
            return
        item = describe(
            key,
            self.intent.get(key),
            self.domains.get(key),
            self.journal.known.runs.get(key),
            self.guests.get(key),
        )
        item = self._with_balloon(key, item)
        if self.reported.get(key) != item:
            self.reported[key] = item
            self.told_since_full = True
            self.tell(item)

    def tell_runs(self) -> None:
        """Say what changed of all incarnations that are ordered or there."""
        for key in sorted({*self.intent, *self.domains}):
            self.tell_run(key)

    def tell_full_state(self) -> None:
        """Say all that is on the host, or that it is not known."""
        self.told_all = bool(self.session)
        if not self.known:
            self.tell(FullStateItem(known=False))
            return
        items = describe_all(self.intent, self.domains, self.journal.known, self.guests)
        items = {key: self._with_balloon(key, item) for key, item in items.items()}
        self.reported = items
        self.told_since_full = False
        self.tell(FullStateItem(vms=tuple(items.values()), unmanaged=self.unmanaged))

    def _with_balloon(self, key: RunKey, item: VmStateItem) -> VmStateItem:
        problem = self.balloons.get(key)
        if problem is None or item.state is VmState.ABSENT:
            return item
        return msgspec.structs.replace(item, balloon=problem)

    def in_halves(self, job: Job) -> bool:
        """Whether a job sends a VM of which half is here: it ends with that, or by an order to."""
        key = RunKey(job.vm, job.incarnation)
        item, domain = self.intent.get(key), self.domains.get(key)
        if job.kind is not JobKind.VM_MIGRATE or (item is not None and item.role is Role.ABSENT):
            return False
        return domain is not None and domain.held is Held.POST_COPY

    def strays(self) -> frozenset[RunKey]:
        """Return the managed domains that no order wants here."""
        return frozenset(
            key
            for key in self.domains
            if key not in self.intent or self.intent[key].role is Role.ABSENT
        )

    def _unwanted(self, intent: Intent) -> list[Job]:
        """Return the jobs of the last session that have no outcome and are not asked for now."""
        wanted = {job.id for job in intent.jobs}
        known = self.journal.known.jobs
        unwanted = [
            job
            for job in self.jobs.values()
            if job.id not in wanted and job.id in known and known[job.id].state is None
        ]
        self.withdrawn.update(job.id for job in unwanted)
        return unwanted

    def _retell_jobs(self) -> None:
        for job in self.jobs.values():
            known = self.journal.known.jobs.get(job.id)
            if known is not None and known.state is not None:
                self.tell_job(job, known.state, reason=known.reason, elsewhere=known.elsewhere)

    # ------------------------------------------------------------------ the hypervisor's side

    def gone(self, key: RunKey) -> None:
        """Wake whoever waits for the end of this incarnation."""
        event = self._ended.get(key)
        if event is not None:
            event.set()

    async def wait_gone(self, key: RunKey, timeout_s: float) -> None:
        """Wait until the driver tells of the end of an incarnation, or until the time is up."""
        event = self._ended.setdefault(key, asyncio.Event())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await event.wait()
        finally:
            self._ended.pop(key, None)

    async def list_domain(self, key: RunKey) -> Domain | None:
        """Ask the driver for one incarnation; raises UnknownStateError."""
        async with asyncio.timeout(self.timings.call_timeout_s):
            domains = await self.driver.domains()
        return next(
            (domain for domain in domains.managed if (domain.vm, domain.incarnation) == key), None
        )


def utc_now() -> dt.datetime:
    """Return the time of the host's clock, which is only shown."""
    return dt.datetime.now(dt.UTC)


def moment() -> float:
    """Return seconds of a clock that never jumps and also counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
