"""Doing jobs: begun is written, the work done, its post-condition tested, the outcome written.

| kind           | begun before, outcome unknown           | withdrawn while under way          |
|----------------|-----------------------------------------|------------------------------------|
| disk.create    | volumes that are whole stay, rest made  | given up                           |
| volumes.remove | done again                              | finished                           |
| vm.shutdown    | goes on until the time is up            | given up; the guest may still obey |
| vm.reboot      | failed: nobody knows                    | finished                           |
| vm.suspend     | done if the memory is whole, else again | finished                           |
| vm.continue    | done again                              | finished                           |
| vm.migrate     | done if the VM is gone, else failed     | finished (its order says: cancel), |
|                |                                         | and gone on with if in halves      |
"""

from __future__ import annotations

import asyncio

import structlog

from events.types.job import Job, JobKind
from events.types.migration import Held
from events.types.run_spec import Disk
from events.types.vm import DownReason
from events.wire.agent import JobState
from hostagent.desk import Desk, moment, utc_now
from hostagent.driver import Domain, DriverError, HalfGoneError, UnknownStateError
from hostagent.lanes import Lanes
from hostagent.migrations import Mover, NotTakenInError
from hostagent.records import JobBegun, JobEnded, Record, RunKey
from hostagent.runs import DETAIL_CHARACTERS_MAX, say_absent, tombstone

CANCELLABLE = frozenset({JobKind.DISK_CREATE, JobKind.VM_SHUTDOWN})
PROGRESS_STEP_PERCENT = 5

_log = structlog.get_logger(__name__)


class JobFailedError(Exception):
    """The job cannot be done; the text is for people. `elsewhere`: another host might do."""

    def __init__(self, reason: str, *, elsewhere: bool = False) -> None:
        super().__init__(reason)
        self.elsewhere = elsewhere


class Jobs:
    """Carries out jobs."""

    def __init__(self, desk: Desk, lanes: Lanes, mover: Mover | None = None) -> None:
        self._desk = desk
        self._mover = mover
        self._lanes = lanes
        self._held_since: dict[str, float] = {}
        self._work = {
            JobKind.DISK_CREATE: self._create_disks,
            JobKind.VOLUMES_REMOVE: self._remove_volumes,
            JobKind.VM_SHUTDOWN: self._shut_down,
            JobKind.VM_REBOOT: self._reboot,
            JobKind.VM_SUSPEND: self._suspend,
            JobKind.VM_CONTINUE: self._continue,
            JobKind.VM_MIGRATE: self._migrate,
        }

    async def run(self, job: Job, *, resumed: bool) -> None:
        """Do a job to its outcome; `resumed` if it was begun before and may be done already."""
        desk = self._desk
        if not resumed:
            await desk.journal.write(
                JobBegun(
                    job=job.id,
                    kind=job.kind,
                    vm=job.vm,
                    incarnation=job.incarnation,
                    time=utc_now(),
                )
            )
        _log.info("job", kind=job.kind, job=job.id, vm=job.vm, resumed=resumed)
        desk.tell_job(job, JobState.RUNNING)
        try:
            records = await self._work[job.kind](job, resumed=resumed)
        except asyncio.CancelledError:
            if job.id in desk.withdrawn:
                await self.give_up(job)
            raise
        except UnknownStateError:
            raise
        except TimeoutError:
            await self._failed(job, "the host did not do it in time")
        except JobFailedError as error:
            await self._failed(job, str(error), elsewhere=error.elsewhere)
        except DriverError as error:
            await self._failed(job, str(error))
        else:
            await desk.journal.write(*records, JobEnded(job=job.id, state=JobState.DONE))
            if records:
                say_absent(desk, RunKey(job.vm, job.incarnation))
            desk.tell_job(job, JobState.DONE)
            if self._mover is not None and self._was_sent(job):
                await self._mover.say_departed(job)

    def _was_sent(self, job: Job) -> bool:
        """Tell whether a VM was sent whole, as far as is known here."""
        run = self._desk.journal.known.runs.get(RunKey(job.vm, job.incarnation))
        over = run.tombstone if run is not None else None
        migrated = over is not None and over.reason is DownReason.MIGRATED
        return job.kind is JobKind.VM_MIGRATE and migrated

    async def give_up(self, job: Job) -> None:
        """Let a withdrawn job that is not under way count as failed, for good."""
        known = self._desk.journal.known.jobs.get(job.id)
        if known is None or known.state is None:
            await self._failed(job, "the job was withdrawn")

    async def _failed(self, job: Job, reason: str, *, elsewhere: bool = False) -> None:
        reason, failed = reason[:DETAIL_CHARACTERS_MAX], JobState.FAILED
        await self._desk.journal.write(
            JobEnded(job=job.id, state=failed, reason=reason, elsewhere=elsewhere)
        )
        self._held_since.pop(job.id, None)
        _log.info("job failed", kind=job.kind, job=job.id, vm=job.vm, reason=reason)
        self._desk.tell_job(job, failed, reason=reason, elsewhere=elsewhere)

    # ------------------------------------------------------------------ volumes

    async def _create_disks(self, job: Job, *, resumed: bool) -> tuple[Record, ...]:
        driver = self._desk.driver
        async with self._lanes.copies, asyncio.timeout(self._desk.timings.disk_timeout_s):
            for index, disk in enumerate(job.disks):
                if await driver.volume_size(disk.volume) is None:
                    await driver.create_disk(disk, self._progress(job, index))
                await self._check_disk(disk)
        return ()

    async def _check_disk(self, disk: Disk) -> None:
        size = await self._desk.driver.volume_size(disk.volume)
        if size is None or size < disk.size_bytes:
            raise JobFailedError(
                f"volume {disk.volume} has {size or 0} bytes instead of {disk.size_bytes}"
            )

    def _progress(self, job: Job, index: int) -> _Progress:
        return _Progress(self._desk, job, index)

    async def _remove_volumes(self, job: Job, *, resumed: bool) -> tuple[Record, ...]:
        self._refuse_volumes_in_use(job)
        async with self._lanes.calls, asyncio.timeout(self._desk.timings.call_timeout_s):
            await self._desk.driver.remove_volumes(job.volumes)
            for volume in job.volumes:
                if await self._desk.driver.volume_size(volume) is not None:
                    raise JobFailedError(f"volume {volume} is still there")
        return ()

    def _refuse_volumes_in_use(self, job: Job) -> None:
        removed = set(job.volumes)
        for key, item in self._desk.intent.items():
            run = self._desk.journal.known.runs.get(key)
            over = run is not None and run.tombstone is not None
            if item.spec is None or (over and key not in self._desk.domains):
                continue
            used = removed.intersection(disk.volume for disk in item.spec.configuration.disks)
            if used:
                raise JobFailedError(f"volume {min(used)} is in use by VM {key.vm}")

    # ------------------------------------------------------------------ running VMs

    async def _shut_down(self, job: Job, *, resumed: bool) -> tuple[Record, ...]:
        desk, key = self._desk, RunKey(job.vm, job.incarnation)
        timeout_s = job.timeout_s or desk.timings.shutdown_timeout_s
        begun = desk.journal.known.jobs[job.id].begun or utc_now()
        spent_s = (utc_now() - begun).total_seconds()
        deadline = asyncio.get_running_loop().time() + min(timeout_s, max(0.0, timeout_s - spent_s))
        while await desk.list_domain(key) is not None:
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                raise JobFailedError(f"the guest did not shut down within {timeout_s:g} s")
            await self._press(key)
            await desk.wait_gone(key, min(left_s, desk.timings.button_interval_s))
        run = desk.journal.known.runs.get(key)
        if run is None or run.tombstone is not None:
            return ()
        seen = desk.endings.get(key)
        if seen is None or seen.reason is DownReason.GUEST:
            return (tombstone(key, DownReason.ADMIN),)
        return (tombstone(key, seen.reason, seen.detail),)

    async def _press(self, key: RunKey) -> None:
        try:
            async with self._lanes.calls, asyncio.timeout(self._desk.timings.call_timeout_s):
                await self._desk.driver.press_power_button(key.vm, key.incarnation)
        except UnknownStateError:
            raise
        except (DriverError, TimeoutError) as error:
            # It may have gone meanwhile, or hear the next one: the list of domains decides.
            _log.info("power button", vm=key.vm, error=repr(error))

    async def _reboot(self, job: Job, *, resumed: bool) -> tuple[Record, ...]:
        if resumed:
            raise JobFailedError(
                "it is not known whether the guest was reset: the agent was interrupted"
            )
        await self._domain(job)
        async with self._lanes.calls, asyncio.timeout(self._desk.timings.call_timeout_s):
            await self._desk.driver.reset(job.vm, job.incarnation)
        return ()

    async def _suspend(self, job: Job, *, resumed: bool) -> tuple[Record, ...]:
        desk, key = self._desk, RunKey(job.vm, job.incarnation)
        if job.saved_memory is None:
            raise JobFailedError("the order names no file for the memory")
        file = job.saved_memory
        timeout_s = job.timeout_s or desk.timings.save_timeout_s
        if not (resumed and await desk.list_domain(key) is None):
            await self._domain(job)
            try:
                async with self._lanes.calls, asyncio.timeout(timeout_s):
                    await desk.driver.save(key.vm, key.incarnation, file)
            except UnknownStateError:
                raise
            except DriverError:
                # A save that outlived its agent may still be under way, and refuses another.
                if not resumed or not await self._goes(key, timeout_s):
                    raise
        if await desk.driver.volume_size(file) is None:
            raise JobFailedError("the VM's memory was not saved whole")
        if await desk.list_domain(key) is not None:
            raise JobFailedError("the VM still runs although its memory was saved")
        return (tombstone(key, DownReason.SUSPENDED),)

    async def _goes(self, key: RunKey, timeout_s: float) -> bool:
        """Whether the domain is gone within a time."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while await self._desk.list_domain(key) is not None:
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                return False
            await self._desk.wait_gone(key, min(left_s, self._desk.timings.retry_min_s))
        return True

    async def _continue(self, job: Job, *, resumed: bool) -> tuple[Record, ...]:
        domain = await self._domain(job)
        if domain.held:
            raise JobFailedError("the VM is held for a migration and is not resumed")
        if domain.paused:
            async with self._lanes.calls, asyncio.timeout(self._desk.timings.call_timeout_s):
                await self._desk.driver.resume(job.vm, job.incarnation)
            if (await self._domain(job)).paused:
                raise JobFailedError("the VM paused again at once")
        return ()

    async def _migrate(self, job: Job, *, resumed: bool) -> tuple[Record, ...]:
        """Send the VM away. Whatever the sending said, what is here afterwards decides."""
        desk, key, failure = self._desk, RunKey(job.vm, job.incarnation), ""
        elsewhere, held = False, None
        if self._mover is None or job.sending is None:
            raise JobFailedError("this host's agent takes no part in migrations")
        if not resumed:  # what is in halves was sent already, by what the journal has lost
            resumed = (await self._domain(job)).held is Held.POST_COPY
        if not resumed:
            try:
                async with self._lanes.sendings:
                    await self._mover.send(job)
            except UnknownStateError:
                raise
            except (DriverError, OSError, TimeoutError) as error:
                failure = str(error) or repr(error)
                elsewhere = isinstance(error, NotTakenInError)
        domain = await desk.list_domain(key)
        if resumed and domain is not None and await self._mover.still_sends(job):
            raise UnknownStateError("the hypervisor still works on what was begun before")
        if resumed and domain is not None and domain.held is Held.POST_COPY:
            held, failure = await self._recover(job)
            domain = await desk.list_domain(key)
        if domain is None:
            run, seen = desk.journal.known.runs.get(key), desk.endings.get(key)
            if run is not None and run.tombstone is not None:
                return ()
            if run is not None and run.boot and run.boot != desk.boot:
                return (tombstone(key, DownReason.HOST_LOST, "the host was restarted"),)
            left = seen is None or seen.reason is DownReason.MIGRATED
            reason = DownReason.MIGRATED if left or seen is None else seen.reason
            return (tombstone(key, reason, "" if seen is None else seen.detail),)
        if domain.held:
            await self._still_held(job, held or domain.held, failure)
            failure = "the switch-over failed, and the VM was let go on here"
        said = failure or "the agent was interrupted; the VM stays where it is"
        raise JobFailedError(said, elsewhere=elsewhere)

    async def _recover(self, job: Job) -> tuple[Held | None, str]:
        """Try to go on with post-copy that broke off; return how it is held if the other half is
        gone, and why it did not go on.
        """
        if self._mover is None:
            return None, ""
        _log.info("going on with post-copy", vm=job.vm, job=job.id)
        try:
            async with self._lanes.sendings:
                await self._mover.recover(job)
        except UnknownStateError:
            raise
        except HalfGoneError as error:
            return Held.POST_COPY_LOST, str(error)
        except (DriverError, OSError, TimeoutError) as error:
            _log.info("post-copy does not go on", vm=job.vm, job=job.id, error=repr(error))
            return None, str(error) or repr(error)
        return None, ""

    async def _still_held(self, job: Job, held: Held, failure: str) -> None:
        """Let a held VM go on where that is ordered; else say that it is held, once that lasts."""
        released = job.sending is not None and job.sending.released
        if released and held is Held.SWITCH_OVER and self._mover is not None:
            async with self._lanes.calls, asyncio.timeout(self._desk.timings.call_timeout_s):
                await self._mover.release(job)
            domain = await self._desk.list_domain(RunKey(job.vm, job.incarnation))
            if domain is not None and not domain.held:
                return
        since = self._held_since.setdefault(job.id, moment())
        if moment() - since >= self._desk.timings.held_told_s:
            reason = failure or "the hypervisor stopped it for the switch-over and was interrupted"
            self._desk.tell_job(job, JobState.RUNNING, held=held, reason=reason)
        raise UnknownStateError("the hypervisor holds the VM for a migration")

    async def _domain(self, job: Job) -> Domain:
        domain = await self._desk.list_domain(RunKey(job.vm, job.incarnation))
        if domain is None:
            raise JobFailedError("the VM does not run on this host")
        key = RunKey(job.vm, job.incarnation)
        self._desk.domains[key] = domain
        self._desk.tell_run(key)
        return domain


class _Progress:
    """Says how far the making of one of a job's disks is, in steps worth telling."""

    def __init__(self, desk: Desk, job: Job, index: int) -> None:
        self._desk = desk
        self._job = job
        self._index = index
        self._said = -PROGRESS_STEP_PERCENT

    def __call__(self, percent: int) -> None:
        whole = (100 * self._index + max(0, min(100, percent))) // len(self._job.disks)
        if whole >= self._said + PROGRESS_STEP_PERCENT:
            self._said = whole
            self._desk.tell_job(self._job, JobState.RUNNING, percent=whole)
