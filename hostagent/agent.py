"""The agent of one host: brings what runs in line with what the engine wants, and says what is.

```
 driver --events--> _listen --wake--> _compare --actions--> lanes (runs, jobs) --> driver, journal
 engine --orders--> link ----wake------^  '--items--> outbox --> link --reports--> engine
```

Every wake leads to a comparison of the whole intent of this session with all that runs. Stopping
the agent, in whatever way, leaves VMs alone; the next one adopts them.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter

import structlog

from events.types.job import Job
from events.types.vm import DownReason
from events.wire.agent import (
    PROTOCOL,
    CapabilitiesItem,
    FullStateItem,
    Hello,
    Item,
    Role,
    Welcome,
)
from hostagent.abilities import AGENT_VERSION, Abilities
from hostagent.cpu_keeper import CpuKeeper, CpuSetup
from hostagent.desk import Desk, moment, utc_now
from hostagent.driver import Domains, Driver, DriverEvent, Happening, UnknownStateError
from hostagent.fencing import Fencer
from hostagent.gateway import Gateway
from hostagent.guests import Guests
from hostagent.identity import Identity
from hostagent.jobs import CANCELLABLE, Jobs
from hostagent.journal import Journal
from hostagent.lanes import Lanes
from hostagent.link import Link
from hostagent.memory_keeper import MemoryKeeper, MemorySetup
from hostagent.metrics import Metrics
from hostagent.migrations import MigrationSetup, Mover
from hostagent.power import Power
from hostagent.reconcile import Adopt, End, Ending, Land, RunJob, Situation, Start, decide
from hostagent.records import LossAnswered, Resets, RunKey
from hostagent.runs import Runs
from hostagent.tasks import run_together
from hostagent.timings import Timings

COMPARE_PAUSE_S = 0.02
GIVE_UP = "give up"

_log = structlog.get_logger(__name__)


class HostAgent:
    """One host's agent. `run` works until it is cancelled."""

    def __init__(  # noqa: PLR0913 - parts of a host, some of which not every host has
        self,
        identity: Identity,
        driver: Driver,
        gateway: Gateway,
        journal: Journal,
        *,
        timings: Timings | None = None,
        metrics: Metrics | None = None,
        migrations: MigrationSetup | None = None,
        power: Power | None = None,
        memory: MemorySetup | None = None,
        cpus: CpuSetup | None = None,
    ) -> None:
        self.identity = identity
        self.metrics = metrics or Metrics()
        timings = timings or Timings()
        self.desk = Desk(driver, journal, timings, identity.boot)
        self.lanes = Lanes(
            self.desk.wake.set, retry_min_s=timings.retry_min_s, retry_max_s=timings.retry_max_s
        )
        self.link = Link(identity.host, gateway, self, self.desk, self.metrics)
        self._gateway = gateway
        self._guests = Guests(self.desk)
        self._runs = Runs(self.desk, self.lanes)
        self._mover = Mover(self.desk, self._runs, migrations) if migrations is not None else None
        self._jobs = Jobs(self.desk, self.lanes, self._mover)
        address = self._mover.address if self._mover is not None else ""
        self._fencer = Fencer(self.desk, power) if power is not None else None
        self._memory = MemoryKeeper(self.desk, memory) if memory is not None else None
        self._cpus = CpuKeeper(self.desk, cpus) if cpus is not None else None
        self._abilities = Abilities(
            driver,
            journal.folder,
            timings,
            migration_address=address,
            power=power,
            memory=self._memory,
        )
        self._resets: Counter[RunKey] = Counter()
        self._full_due = False
        self._all_heard = False
        self._compare_interval_s = 60.0
        self._interval_ended = False
        self._told: tuple[frozenset[RunKey], tuple[str, ...]] = (frozenset(), ())
        self.desk.on_withdrawn = self._withdrawn

    async def run(self) -> None:
        """Be the host's agent until cancelled; then let go of everything but the VMs."""
        try:
            await self.desk.driver.open()
            await run_together(
                (
                    self._listen(),
                    self._compare_for_ever(),
                    self._sample_for_ever(),
                    self._guests.run(),
                    self.link.run(),
                    *((self._mover.run(),) if self._mover is not None else ()),
                    *((self._fencer.run(),) if self._fencer is not None else ()),
                    *((self._memory.run(),) if self._memory is not None else ()),
                    *((self._cpus.run(),) if self._cpus is not None else ()),
                )
            )
        finally:
            await self.lanes.close()
            await self.desk.driver.close()
            await self._gateway.close()
            await self.desk.journal.finish()

    # ------------------------------------------------------------------ what the link asks

    async def hello(self) -> Hello:
        """Return what to say of this host; waits while its abilities were never known."""
        able = await self._abilities.known()
        return Hello(
            boot=self.identity.boot,
            hardware=self.identity.hardware,
            protocols=(PROTOCOL,),
            agent_version=AGENT_VERSION,
            time=utc_now(),
            capabilities=able,
        )

    async def welcomed(self, welcome: Welcome, asked_at: float) -> None:
        """Take up a session: act on its intent alone, and tell everything anew."""
        self._compare_interval_s = welcome.compare_interval_s
        forgotten = self.desk.welcome(welcome, asked_at)
        self._full_due = True
        self._all_heard = False
        if forgotten:
            await self.desk.journal.write(*forgotten)

    async def delivered(self, items: tuple[Item, ...], applied_position: int) -> None:
        """Let go of what the engine has."""
        desk = self.desk
        desk.delivered(items, applied_position)
        if any(isinstance(item, FullStateItem) and item.known for item in items):
            self._all_heard = True
            if desk.journal.known.lost:
                desk.wake.set()

    def reconnected(self) -> None:
        """Compare everything, and tell it."""
        self._full_due = True
        self.desk.wake.set()

    # ------------------------------------------------------------------ what the driver tells

    async def _listen(self) -> None:
        while True:
            try:
                async for event in self.desk.driver.events():
                    self._happened(event)
            except Exception as error:  # noqa: BLE001
                _log.warning("no events from the hypervisor", error=repr(error))
            self.reconnected()
            await asyncio.sleep(self.desk.timings.unknown_retry_s)

    def _happened(self, event: DriverEvent) -> None:
        desk, key = self.desk, RunKey(event.vm, event.incarnation)
        match event.happening:
            case Happening.ENDED:
                reason = event.reason or DownReason.CRASHED
                desk.endings[key] = Ending(reason=reason, detail=event.detail)
                desk.gone(key)
            case Happening.RESET:
                self._resets[key] += 1
            case Happening.GUEST_AGENT:
                self._guests.ask_now(key)
            case Happening.RECONNECTED | Happening.LOST:
                self._full_due = True
            case _:
                pass
        desk.wake.set()

    # ------------------------------------------------------------------ comparing

    async def _compare_for_ever(self) -> None:
        desk = self.desk
        while True:
            interval_s = self._compare_interval_s if desk.known else desk.timings.unknown_retry_s
            try:
                async with asyncio.timeout(interval_s):
                    await desk.wake.wait()
            except TimeoutError:
                self._interval_ended = desk.known
            desk.wake.clear()
            try:
                await self._compare()
            except Exception:  # noqa: BLE001
                # Never the end of the agent: the next comparison starts from the beginning.
                _log.exception("comparison failed", host=self.identity.host)
                desk.wake.set()
                await asyncio.sleep(desk.timings.retry_min_s)
            # What happens in quick succession is compared once.
            await asyncio.sleep(COMPARE_PAUSE_S)

    async def _compare(self) -> None:
        desk = self.desk
        await self._note_resets()
        self.lanes.watch()
        desk.touched.clear()
        try:
            async with asyncio.timeout(desk.timings.call_timeout_s):
                listed = await desk.driver.domains()
        except (UnknownStateError, TimeoutError) as error:
            if desk.known or self._full_due:
                _log.warning("hypervisor not known", host=self.identity.host, error=repr(error))
                desk.known = False
                self._full_due = not desk.session
                desk.tell_full_state()
            return
        self.metrics.comparisons.inc()
        self._full_due = self._full_due or not desk.known
        desk.known = True
        self._take_up(listed)
        if desk.journal.known.lost:
            await self._rebuild()
        if self._interval_ended:
            self._interval_ended = False
            self._full_due = self._full_due or desk.told_since_full
            changed = await self._abilities.changed()
            if changed is not None:
                desk.tell(CapabilitiesItem(capabilities=changed))
        if desk.session:
            self._tell()
            self._act()
            if desk.journal.known.lost and self._all_heard and self._loss_is_settled():
                await desk.journal.write(LossAnswered())
                desk.wake.set()

    async def _note_resets(self) -> None:
        """Count resets into the journal: a guest that resets all the time costs one note a turn."""
        seen, self._resets = self._resets, Counter()
        for key, count in seen.items():
            run = self.desk.journal.known.runs.get(key)
            if run is not None and run.tombstone is None:
                await self.desk.journal.note(
                    Resets(vm=key.vm, incarnation=key.incarnation, count=run.resets + count)
                )

    def _take_up(self, listed: Domains) -> None:
        """Take the list as what runs, but not of VMs whose run began or ended meanwhile."""
        desk = self.desk
        fresh = {RunKey(domain.vm, domain.incarnation): domain for domain in listed.managed}
        touched = desk.touched
        desk.domains = {
            **{key: domain for key, domain in fresh.items() if key.vm not in touched},
            **{key: domain for key, domain in desk.domains.items() if key.vm in touched},
        }
        desk.unmanaged = tuple(sorted(listed.unmanaged))
        for key in list(desk.guests):
            if key not in desk.domains:
                del desk.guests[key]
        for key in list(desk.endings):
            if key not in desk.domains and key not in desk.intent and not self._open(key):
                del desk.endings[key]
        self._guests.look()

    def _open(self, key: RunKey) -> bool:
        run = self.desk.journal.known.runs.get(key)
        return run is not None and run.tombstone is None

    def _tell(self) -> None:
        desk = self.desk
        told = (desk.strays(), desk.unmanaged)
        if self._full_due or told != self._told:
            self._full_due, self._told = False, told
            desk.tell_full_state()
        else:
            desk.tell_runs()

    def _act(self) -> None:
        desk = self.desk
        self._give_up_withdrawn()
        situation = Situation(
            boot=desk.boot,
            welcomed=desk.welcomed,
            intent=desk.intent,
            jobs={job.id: job for job in desk.jobs.values() if job.id not in desk.withdrawn},
            domains=desk.domains,
            remembered=desk.journal.known,
            endings=desk.endings,
            busy=self.lanes.unsettled() | desk.touched,
            starts_allowed=desk.orders_fresh(),
        )
        for action in decide(situation):
            match action:
                case Start():
                    self.metrics.starts.inc()
                    self.lanes.run(action.item.vm, "start", self._runs.start(action.item))
                case Adopt():
                    self.lanes.run(action.run.vm, "adopt", self._runs.adopt(action.run))
                case Land():
                    self.lanes.run(action.run.vm, "land", self._runs.land(action.run))
                case End():
                    self._end(action)
                case RunJob(job=job, resumed=resumed):
                    self.metrics.jobs.inc()
                    self.lanes.run(job.vm, job.id, self._jobs.run(job, resumed=resumed))

    def _end(self, action: End) -> None:
        vm = action.run.vm
        if not self.lanes.may_end(vm):
            return
        lane = self.lanes.lane(vm)
        if lane is not None:
            # An ordered end goes first: once the lane is free, this is decided again. What only
            # writes a line is not cancelled: it would begin anew each time, and never end.
            if not lane.label.startswith(GIVE_UP):
                self.lanes.cancel(vm)
            return
        self.metrics.ends.inc()
        self.lanes.run(vm, "end", self._runs.end(action), ends_run=True)

    # ------------------------------------------------------------------ withdrawn jobs, losses

    def _withdrawn(self, job: Job) -> None:
        lane = self.lanes.lane(job.vm)
        if lane is not None and lane.label == job.id and job.kind in CANCELLABLE:
            self.lanes.cancel(job.vm)
        self.desk.wake.set()

    def _give_up_withdrawn(self) -> None:
        desk = self.desk
        for job in list(desk.jobs.values()):
            if job.id not in desk.withdrawn or self.lanes.lane(job.vm) is not None:
                continue
            if desk.in_halves(job):  # whoever takes it back cannot know
                desk.withdrawn.discard(job.id)
                continue
            known = desk.journal.known.jobs.get(job.id)
            if known is None or known.state is None:
                self.lanes.run(job.vm, f"{GIVE_UP} {job.id}", self._jobs.give_up(job))

    async def _rebuild(self) -> None:
        """After a lost journal: remember from the domains themselves what was begun here."""
        for key in self.desk.domains:
            run = self.desk.journal.known.runs.get(key)
            if run is None or run.done is None:
                await self._runs.adopt(key)

    def _loss_is_settled(self) -> bool:
        """Whether each run that the engine knew at hello is there, or was answered as over."""
        desk = self.desk
        return all(
            key in desk.domains or key in desk.journal.known.runs
            for key, item in desk.intent.items()
            if item.role is Role.RUN and item.position <= desk.welcomed
        )

    # ------------------------------------------------------------------ telemetry

    async def _sample_for_ever(self) -> None:
        link = self.link
        await link.greeted.wait()
        # Each host has its own phase, so that many in one process do not sample all at once.
        phase = zlib.crc32(self.identity.host.encode()) / 2**32
        due = moment() + phase * link.telemetry_interval_s
        while True:
            await asyncio.sleep(max(0.0, due - moment()))
            # At a fixed pace, which the work of sampling does not slow down.
            due = max(due, moment() - link.telemetry_interval_s) + link.telemetry_interval_s
            try:
                async with asyncio.timeout(self.desk.timings.call_timeout_s):
                    host, vms = await self.desk.driver.sample()
            except Exception as error:  # noqa: BLE001
                _log.info("no sample", host=self.identity.host, error=repr(error))
                continue
            dropped = link.telemetry.dropped_total
            link.telemetry.add(host, vms)
            self.metrics.samples_dropped.inc(link.telemetry.dropped_total - dropped)
            link.sampled()
