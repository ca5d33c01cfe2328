"""A host's part in migrations: sending VMs away, and taking them in.

A VM that comes in stands still until its source has nothing of it. The source's agent says so by
a word over the line between the two; where that is lost, the engine says it by its order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from events.types.job import Job, Sending
from events.types.run_spec import RunSpec
from events.wire.agent import IntentVm, JobState, Role
from hostagent.desk import Desk, utc_now
from hostagent.driver import DriverError
from hostagent.migration_link import (
    LANDED,
    Places,
    Receiver,
    client_context,
    dial,
    sending,
    server_context,
)
from hostagent.migration_rpc import RefusedMessageError
from hostagent.records import Expected, RunKey
from hostagent.runs import Runs

RETRY_S = 5.0
PROGRESS_STEP_PERCENT = 5

_log = structlog.get_logger(__name__)


class Moves(Protocol):
    """What a driver that moves running VMs does, beside being a driver."""

    @property
    def storage_folder(self) -> Path:
        """Where volumes and images lie."""
        ...

    def expect(self, spec: RunSpec) -> None:
        """Know a run that is about to come in."""
        ...

    async def send(
        self, vm: str, incarnation: int, folder: Path, on_progress: Callable[[int], bool]
    ) -> None:
        """Move a run away; `on_progress` answers whether to go on."""
        ...

    async def sent_percent(self, vm: str) -> int | None:
        """Return how far a run's sending has come; None if it is not being sent."""
        ...


class MigrationSetup(msgspec.Struct, frozen=True, kw_only=True):
    """How a host takes part: where it listens (ADDRESS:PORT), its files for TLS, its driver."""

    address: str
    certificate: Path
    key: Path
    trust: Path
    moves: Moves
    places: Places = Places()


class Mover:
    """One host's migrations."""

    def __init__(self, desk: Desk, runs: Runs, setup: MigrationSetup) -> None:
        self._desk = desk
        self._runs = runs
        self._setup = setup
        self._files = (setup.certificate, setup.key, setup.trust)
        self._receiver = Receiver(
            lambda: server_context(*self._files),
            setup.places,
            setup.moves.storage_folder,
            expected=self._expected,
            prepare=self._prepare,
            landed=self._landed,
        )

    async def run(self) -> None:
        """Take VMs in until cancelled."""
        while True:
            try:
                await self._receiver.run(self._setup.address)
            except OSError as error:
                _log.error("cannot take VMs in", address=self._setup.address, error=str(error))
            await asyncio.sleep(RETRY_S)

    # ------------------------------------------------------------------ sending

    async def send(self, job: Job) -> None:
        """Send a VM away; raises DriverError or OSError where it failed."""
        order = _order(job)
        context = client_context(*self._files)
        said = -PROGRESS_STEP_PERCENT

        def on_progress(percent: int) -> bool:
            nonlocal said
            if percent >= said + PROGRESS_STEP_PERCENT:
                said = percent
                self._desk.tell_job(job, JobState.RUNNING, percent=percent)
            current = self._desk.jobs.get(job.id)
            return current is None or current.sending is None or not current.sending.cancelled

        if not on_progress(0):
            raise DriverError("the migration was cancelled")
        places, migration = self._setup.places, _migration(job)
        async with sending(context, places, migration, order) as folder:
            await self._setup.moves.send(job.vm, job.incarnation, folder, on_progress)

    async def still_sends(self, job: Job) -> bool:
        """Tell whether the hypervisor still works on what an agent before this one began."""
        return await self._setup.moves.sent_percent(job.vm) is not None

    async def say_departed(self, job: Job) -> None:
        """Tell the destination that nothing of the VM is left here; the engine tells it as well."""
        try:
            _reader, writer = await dial(client_context(*self._files), _order(job), LANDED)
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
        self._setup.moves.expect(item.spec)
        await asyncio.to_thread(self._setup.places.make, receiving.migration)

    async def _landed(self, item: IntentVm) -> None:
        try:
            await self._runs.land(RunKey(item.vm, item.incarnation))
        except (DriverError, TimeoutError) as error:
            raise RefusedMessageError(f"it cannot be let run: {error}") from error
        finally:
            if item.receiving is not None:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._setup.places.remove, item.receiving.migration)


def _order(job: Job) -> Sending:
    if job.sending is None:
        raise DriverError("the order does not say where the VM is to go")
    return job.sending


def _migration(job: Job) -> str:
    return job.id.partition("/")[0]
