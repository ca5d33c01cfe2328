"""A host's part in migrations: sending VMs away, and taking them in.

A VM that comes in stands still until its source has nothing of it. The source's agent says so by
a word over the line between the two; where that is lost, the engine says it by its order.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

import msgspec
import structlog

from events.types.job import Job, Sending
from events.types.migration import CopyProgress, Held
from events.types.run_spec import RunSpec
from events.wire.agent import IntentVm, JobState, Role
from hostagent.convergence import ABORT, GO_ON, Convergence, Copying, Look, Move, Terms
from hostagent.desk import Desk, moment, utc_now
from hostagent.driver import DriverError, RefusedMessageError, UnknownStateError
from hostagent.migration_line import (
    LANDED,
    Dial,
    Line,
    Receiver,
    Streams,
    dial,
)
from hostagent.records import Expected, RunKey
from hostagent.runs import Runs

RETRY_S = 5.0
PROGRESS_STEP_PERCENT = 5

_log = structlog.get_logger(__name__)


class Moves(Protocol):
    """What a driver that moves running VMs does, beside being a driver.

    A migration goes over `channels` of the line, of which `opening_channel` comes first; over the
    `recovering_channel` ("" if there is none) the source asks whether post-copy can go on.
    """

    opening_channel: str
    recovering_channel: str
    channels: frozenset[str]

    async def prepare(self, spec: RunSpec, migration: str) -> None:
        """Be ready to take a run in."""
        ...

    async def take_in(self, channel: str, item: IntentVm, outer: Streams) -> None:
        """Answer "ok" and serve one channel of a VM that comes in, until that ends."""
        ...

    async def forget(self, migration: str) -> None:
        """Remove what is left of a migration that is over."""
        ...

    async def send(self, job: Job, dial: Dial, terms: Terms, look: Look) -> None:
        """Move a run away; there it stands still. Raises DriverError or OSError where it failed;
        whether it did is known only from what is here afterwards.
        """
        ...

    async def recover(self, job: Job, dial: Dial, terms: Terms, look: Look) -> None:
        """Go on with a run's post-copy that broke off; as `send`. Raises HalfGoneError where the
        destination has nothing of it any more.
        """
        ...

    async def still_sends(self, job: Job) -> bool:
        """Tell whether the hypervisor still works on what was begun before."""
        ...

    async def unattended(self, job: Job) -> Copying | None:
        """Return how far post-copy is that goes on without whoever began it; None if none does."""
        ...

    async def release(self, vm: str, incarnation: int) -> None:
        """Let a VM go on that is held at the switch-over; its destination must have nothing."""
        ...


class NotTakenInError(DriverError):
    """Nothing was copied yet: another destination may be tried."""


class MigrationSetup(msgspec.Struct, frozen=True, kw_only=True):
    """How a host takes part: its line to other hosts, and its driver's half."""

    line: Line
    moves: Moves


class Mover:
    """One host's migrations."""

    def __init__(self, desk: Desk, runs: Runs, setup: MigrationSetup) -> None:
        self._desk = desk
        self._runs = runs
        self._line = setup.line
        self._moves = setup.moves
        self._receiver = Receiver(
            setup.moves.channels,
            setup.moves.opening_channel,
            setup.moves.recovering_channel,
            expected=self._expected,
            prepare=self._prepare,
            take_in=self._moves.take_in,
            landed=self._landed,
        )

    @property
    def address(self) -> str:
        """Where other hosts reach this one."""
        return self._line.address

    async def run(self) -> None:
        """Take VMs in until cancelled."""
        while True:
            try:
                await self._line.listen(self._receiver.accept)
            except OSError as error:
                _log.error("cannot take VMs in", address=self._line.address, error=str(error))
            await asyncio.sleep(RETRY_S)

    # ------------------------------------------------------------------ sending

    async def send(self, job: Job) -> None:
        """Send a VM away; raises DriverError or OSError where it failed."""
        convergence = Convergence(_order(job).tuning)
        told = _Told(self._desk, job)

        def look(seen: Copying) -> Move:
            move = ABORT if self._cancelled(job) else convergence.look(seen, moment())
            told.tell(seen, convergence)
            return move

        if self._cancelled(job):
            raise DriverError("the migration was cancelled")
        try:
            await self._moves.send(job, self._dialling(job), convergence.terms, look)
        except UnknownStateError:
            raise
        except (DriverError, OSError, TimeoutError) as error:
            if told.begun or self._cancelled(job):
                raise
            raise NotTakenInError(str(error) or repr(error)) from error

    async def recover(self, job: Job) -> None:
        """Go on with a VM's post-copy that broke off; raises as `Moves.recover`."""
        convergence = Convergence(_order(job).tuning)
        told = _Told(self._desk, job)

        def look(seen: Copying) -> Move:
            told.tell(seen, convergence)
            return GO_ON

        await self._moves.recover(job, self._dialling(job), convergence.terms, look)

    def _dialling(self, job: Job) -> Dial:
        async def open_channel(channel: str) -> Streams:
            return await dial(self._line, _order(job), channel)

        return open_channel

    def _cancelled(self, job: Job) -> bool:
        current = self._desk.jobs.get(job.id)
        return current is not None and current.sending is not None and current.sending.cancelled

    async def still_sends(self, job: Job) -> bool:
        """Tell whether the hypervisor still works on what was begun before; say how far it is."""
        if not await self._moves.still_sends(job):
            return False
        seen = await self._moves.unattended(job)
        if seen is not None:
            _Told(self._desk, job).tell(seen, Convergence(_order(job).tuning))
        return True

    async def release(self, job: Job) -> None:
        """Let a VM go on that is held at the switch-over, as it was ordered."""
        await self._moves.release(job.vm, job.incarnation)

    async def say_departed(self, job: Job) -> None:
        """Tell the destination that nothing of the VM is left here; the engine tells it as well."""
        try:
            _reader, writer = await dial(self._line, _order(job), LANDED)
            writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, RefusedMessageError) as error:
            _log.info("the destination did not hear of a departure", error=repr(error))

    # ------------------------------------------------------------------ taking in

    def _expected(self, digest: str) -> IntentVm | None:
        if not self._desk.orders_fresh():
            return None
        for item in self._desk.intent.values():
            receiving = item.receiving
            if receiving is not None and receiving.ticket_sha256 == digest and item.spec:
                return item if item.role in {Role.INCOMING, Role.RUN} else None
        return None

    async def _prepare(self, item: IntentVm) -> None:
        """Write down that the VM may come in, before libvirtd can hear of it."""
        desk, receiving = self._desk, item.receiving
        if item.role is not Role.INCOMING or receiving is None or item.spec is None:
            raise RefusedMessageError("the VM is not expected any more")
        key = RunKey(item.vm, item.incarnation)
        run = desk.journal.known.runs.get(key)
        if run is not None and run.arrival == receiving.migration and run.tombstone is not None:
            raise RefusedMessageError("the VM was dropped here already")
        if key in desk.domains:
            there = await desk.list_domain(key)
            if there is not None and there.held is Held.POST_COPY:
                return  # it is here in part, and the rest comes now
            raise RefusedMessageError("the VM is here already")
        if run is None or run.arrival != receiving.migration:
            await desk.journal.write(
                Expected(
                    vm=key.vm,
                    incarnation=key.incarnation,
                    boot=desk.boot,
                    migration=receiving.migration,
                    time=utc_now(),
                )
            )
        await self._moves.prepare(item.spec, receiving.migration)

    async def _landed(self, item: IntentVm) -> None:
        try:
            await self._runs.land(RunKey(item.vm, item.incarnation))
        except (DriverError, TimeoutError) as error:
            raise RefusedMessageError(f"it cannot be let run: {error}") from error
        finally:
            if item.receiving is not None:
                with contextlib.suppress(OSError):
                    await self._moves.forget(item.receiving.migration)


class _Told:
    """Tells how far a VM's sending is, in steps worth telling."""

    def __init__(self, desk: Desk, job: Job) -> None:
        self.begun = False
        self._desk = desk
        self._job = job
        self._percent = -PROGRESS_STEP_PERCENT
        self._said = CopyProgress()

    def tell(self, seen: Copying, convergence: Convergence) -> None:
        """Look at the figures, and tell them if they are news."""
        self.begun = self.begun or seen.copied_bytes > 0
        now = CopyProgress(
            total_bytes=seen.total_bytes,
            remaining_bytes=seen.remaining_bytes,
            copied_bytes=seen.copied_bytes,
            copied_bytes_per_s=seen.copied_bytes_per_s,
            dirty_bytes_per_s=seen.dirty_bytes_per_s,
            rounds=seen.round_number,
            throttle_percent=seen.throttle_percent,
            down_time_ms=convergence.down_time_ms,
            post_copy=seen.post_copy,
            suspended=seen.stopped and convergence.suspends,
        )
        changed = now.steps != self._said.steps
        further = seen.percent >= self._percent + PROGRESS_STEP_PERCENT
        if changed or further or now.rounds >= max(2, 2 * self._said.rounds):
            self._said, self._percent = now, max(self._percent, seen.percent)
            self._desk.tell_job(
                self._job, JobState.RUNNING, percent=seen.percent, copying=self._said
            )


def _order(job: Job) -> Sending:
    if job.sending is None:
        raise DriverError("the order does not say where the VM is to go")
    return job.sending
