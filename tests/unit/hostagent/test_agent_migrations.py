"""Two agents move a VM between them, each on the orders of its own engine."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from events.types.job import Job, JobKind, Sending
from events.types.migration import Held, MigrationPolicy, Tuning
from events.types.vm import DownReason
from events.wire.agent import (
    IntentVm,
    JobItem,
    JobState,
    Receiving,
    Role,
    VmState,
    VmStateItem,
)
from hostagent.records import RunKey
from hostagent.simulated_state import Faults, MigrationFault
from hostagent.simulated_storage import make_shared_storage
from tests.harness.memory_line import MemoryNetwork
from tests.unit.hostagent.conftest import Host
from tests.unit.hostagent.fake_engine import FakeEngine
from tests.unit.hostagent.samples import OTHER, VM, a_spec, run_item

TICKET = "a-ticket"
MIGRATION = "018f0000-0000-7000-8000-00000000aaaa"


class Pair:
    """The source and the destination of one migration."""

    def __init__(self, folder: Path) -> None:
        self.network = MemoryNetwork()
        storage = make_shared_storage(folder / "storage", "one")
        self.source, self.destination = (
            Host(folder / name, name=name, network=self.network, storage=storage)
            for name in ("source", "destination")
        )

    async def start(self, source: Faults | None = None, destination: Faults | None = None) -> None:
        """Start both agents, and the VM on the source."""
        for host, faults in ((self.source, source), (self.destination, destination)):
            host.folder.mkdir()
            await host.start(faults)
        self.source.engine.order(run_item())
        await self.source.engine.until_state(VM, VmState.RUNNING)

    def order(self, **changes: object) -> Job:
        """Order the migration on both sides, as the engine does."""
        receiving = Receiving(
            migration=MIGRATION,
            source="source",
            ticket_sha256=hashlib.sha256(TICKET.encode()).hexdigest(),
        )
        self.destination.engine.order(
            IntentVm(
                vm=VM,
                incarnation=1,
                role=Role.INCOMING,
                position=0,
                spec=a_spec(),
                receiving=receiving,
            )
        )
        sending = Sending(destination="destination", address="", ticket=TICKET)
        sending = msgspec.structs.replace(sending, **changes)
        return self.source.engine.order_job(
            Job(
                id=f"{MIGRATION}/copy",
                kind=JobKind.VM_MIGRATE,
                vm=VM,
                incarnation=1,
                sending=sending,
            )
        )

    async def until_copying(self) -> None:
        """Wait until the destination has what comes in."""
        await self.destination.engine.until(
            lambda _engine: VM in self.destination.driver.machine.domains
        )


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    for host in (pair.source, pair.destination):
        await host.kill()
        assert host.engine.violations == []


async def test_the_vm_runs_there_and_is_promised_absent_here(pair: Pair) -> None:
    await pair.start()

    job = pair.order()

    outcome = await pair.source.engine.until_outcome(job)
    assert outcome.state is JobState.DONE
    absent = await pair.source.engine.until_state(VM, VmState.ABSENT)
    assert absent.reason is DownReason.MIGRATED
    await pair.destination.engine.until_state(VM, VmState.RUNNING)
    assert not pair.destination.driver.machine.domains[VM].paused
    assert pair.source.driver.machine.domains == {}


async def test_it_tells_how_far_the_copying_is(pair: Pair) -> None:
    await pair.start(Faults(migration_s=0.3))

    job = pair.order()
    await pair.source.engine.until_outcome(job)

    told = [
        item.percent
        for item in pair.source.engine.items
        if isinstance(item, JobItem) and item.job == job.id and item.percent is not None
    ]
    assert told
    assert told == sorted(told)
    figures = [
        item.copying
        for item in pair.source.engine.items
        if isinstance(item, JobItem) and item.copying is not None
    ]
    assert figures[-1].total_bytes == 256 * 1024**2
    assert figures[-1].down_time_ms == 100


@pytest.mark.parametrize(
    ("policy", "steps"),
    [
        (MigrationPolicy.POST_COPY, (200, True, False)),
        (MigrationPolicy.SUSPEND_WORKLOAD, (300, False, True)),
    ],
)
async def test_the_last_step_of_a_policy_is_told(
    pair: Pair, policy: MigrationPolicy, steps: tuple[int, bool, bool]
) -> None:
    await pair.start(Faults(migration_s=0.2, migration_busy=True))

    job = pair.order(tuning=Tuning(policy=policy, down_time_ms=300))

    assert (await pair.source.engine.until_outcome(job)).state is JobState.DONE
    told = [
        item.copying.steps
        for item in pair.source.engine.items
        if isinstance(item, JobItem) and item.copying is not None
    ]
    assert told[0] == (100, False, False)
    assert told[-1] == steps


async def test_a_cancelled_one_leaves_the_vm_here(pair: Pair) -> None:
    await pair.start(Faults(migration_s=30))
    job = pair.order()
    await pair.until_copying()

    assert job.sending is not None
    cancelled = msgspec.structs.replace(job.sending, cancelled=True)
    pair.source.engine.order_job(msgspec.structs.replace(job, sending=cancelled))

    outcome = await pair.source.engine.until_outcome(job)
    assert outcome.state is JobState.FAILED
    assert "abort" in outcome.reason
    assert not pair.source.driver.machine.domains[VM].paused
    await pair.destination.engine.until(lambda _: not pair.destination.driver.machine.domains)


@pytest.mark.parametrize("which", ["source", "destination"])
async def test_an_agent_that_dies_while_copying_leaves_the_vm_here(pair: Pair, which: str) -> None:
    await pair.start(Faults(migration_s=30))
    job = pair.order()
    await pair.until_copying()

    await getattr(pair, which).restart()

    outcome = await pair.source.engine.until_outcome(job)
    assert outcome.state is JobState.FAILED
    await pair.source.engine.until_state(VM, VmState.RUNNING)
    assert VM not in pair.destination.driver.machine.domains


async def test_a_wrong_ticket_opens_nothing(pair: Pair) -> None:
    await pair.start()

    job = pair.order(ticket="another")

    assert (await pair.source.engine.until_outcome(job)).state is JobState.FAILED
    assert pair.destination.driver.machine.domains == {}


async def test_a_refusal_of_the_destination_is_told(pair: Pair) -> None:
    await pair.start(destination=Faults(migration_fault=MigrationFault.REFUSE))

    job = pair.order()

    outcome = await pair.source.engine.until_outcome(job)
    assert "told to take nothing in" in outcome.reason
    assert outcome.elsewhere


async def test_what_arrived_waits_for_the_engine_where_the_source_cannot_say_it(
    pair: Pair,
) -> None:
    await pair.start(Faults(migration_s=0.2))
    job = pair.order()
    await pair.until_copying()
    pair.network.cut.add("source")  # what is open stays; the word that it left does not come

    await pair.source.engine.until_outcome(job)
    there = pair.destination.driver.machine.domains[VM]
    assert there.paused

    item = pair.destination.engine.vms[RunKey(VM, 1)]
    pair.destination.engine.order(msgspec.structs.replace(item, role=Role.RUN))
    await pair.destination.engine.until_state(VM, VmState.RUNNING)
    assert not pair.destination.driver.machine.domains[VM].paused


async def test_a_source_held_at_the_switch_over_is_no_outcome(pair: Pair) -> None:
    await pair.start(Faults(migration_fault=MigrationFault.HOLD))

    job = pair.order()

    await pair.source.engine.until(
        lambda _: (
            VM in pair.source.driver.machine.domains and pair.source.driver.machine.domains[VM].held
        )
    )
    await pair.source.restart(Faults())
    await pair.source.engine.until(lambda engine: len(engine.hellos) == 2)
    assert job.id not in pair.source.engine.outcomes
    assert pair.source.driver.machine.domains[VM].held
    assert pair.destination.driver.machine.domains[VM].paused
    await pair.source.engine.until(lambda engine: said_held(engine, job))


def said_held(engine: FakeEngine, job: Job) -> bool:
    """Whether the engine was told that the VM is stopped for the switch-over."""
    return any(
        isinstance(item, JobItem) and item.job == job.id and item.held is Held.SWITCH_OVER
        for item in engine.items
    )


async def test_a_held_vm_goes_on_only_by_order(pair: Pair) -> None:
    await pair.start(Faults(migration_fault=MigrationFault.HOLD))
    job = pair.order()
    await pair.source.engine.until(lambda engine: said_held(engine, job))
    assert job.sending is not None

    pair.destination.engine.absent(VM)
    await pair.destination.engine.until(lambda _: not pair.destination.driver.machine.domains)
    released = msgspec.structs.replace(job.sending, released=True)
    pair.source.engine.order_job(msgspec.structs.replace(job, sending=released))

    outcome = await pair.source.engine.until_outcome(job)
    assert outcome.state is JobState.FAILED
    assert "let go on here" in outcome.reason
    assert not pair.source.driver.machine.domains[VM].paused


async def test_a_destination_that_nobody_reaches_lets_another_be_tried(pair: Pair) -> None:
    await pair.start()
    pair.network.cut.add("destination")

    job = pair.order()

    assert (await pair.source.engine.until_outcome(job)).elsewhere


async def test_what_fails_while_copying_is_not_for_another(pair: Pair) -> None:
    await pair.start(Faults(migration_fault=MigrationFault.FAIL))

    job = pair.order()

    outcome = await pair.source.engine.until_outcome(job)
    assert (outcome.state, outcome.elsewhere) == (JobState.FAILED, False)


def said(engine: FakeEngine, job: Job, held: Held) -> bool:
    """Whether the engine was told that the VM is held so."""
    return any(
        isinstance(item, JobItem) and item.job == job.id and item.held is held
        for item in engine.items
    )


async def broken_off(pair: Pair) -> Job:
    """Return the job of a migration that broke off in post-copy."""
    await pair.start(Faults(migration_fault=MigrationFault.BREAK))
    job = pair.order()
    await pair.source.engine.until(lambda engine: said(engine, job, Held.POST_COPY))
    await pair.destination.engine.until(
        lambda engine: any(
            isinstance(item, VmStateItem) and item.held is Held.POST_COPY for item in engine.items
        )
    )
    assert job.id not in pair.source.engine.outcomes
    return job


async def test_post_copy_that_broke_off_is_told_by_both_and_goes_on_by_itself(pair: Pair) -> None:
    job = await broken_off(pair)

    pair.source.driver.machine.faults = Faults()

    outcome = await pair.source.engine.until_outcome(job)
    assert outcome.state is JobState.DONE
    told = [item for item in pair.source.engine.items if isinstance(item, JobItem)]
    assert any(item.copying is not None and item.copying.post_copy for item in told)
    absent = await pair.source.engine.until_state(VM, VmState.ABSENT)
    assert absent.reason is DownReason.MIGRATED
    await pair.destination.engine.until_state(VM, VmState.RUNNING)


@pytest.mark.parametrize("which", ["source", "destination"])
async def test_post_copy_that_broke_off_goes_on_with_an_agent_that_was_killed(
    pair: Pair, which: str
) -> None:
    job = await broken_off(pair)
    host = pair.source if which == "source" else pair.destination

    await host.restart()
    pair.source.driver.machine.faults = Faults()

    assert (await pair.source.engine.until_outcome(job)).state is JobState.DONE


async def test_a_half_whose_other_half_is_gone_is_said_to_be_lost(pair: Pair) -> None:
    job = await broken_off(pair)

    pair.destination.driver.machine.domains.clear()
    pair.source.driver.machine.faults = Faults()

    await pair.source.engine.until(lambda engine: said(engine, job, Held.POST_COPY_LOST))
    assert job.id not in pair.source.engine.outcomes
    assert pair.source.driver.machine.domains[VM].held


async def test_what_is_held_in_halves_is_let_run_by_nobody(pair: Pair) -> None:
    """given the source gone for good, when the engine says that the VM's place is here"""
    await broken_off(pair)
    await pair.source.kill()
    engine = pair.destination.engine
    told = len(engine.items)

    item = engine.vms[RunKey(VM, 1)]
    engine.order(msgspec.structs.replace(item, role=Role.RUN))
    engine.order(run_item(OTHER))

    await engine.until_state(OTHER, VmState.RUNNING)
    domain = pair.destination.driver.machine.domains[VM]
    assert domain.held
    assert domain.paused is not None
    later = [i for i in engine.items[told:] if isinstance(i, VmStateItem) and i.vm == VM]
    assert all(i.state is not VmState.RUNNING for i in later)


async def test_a_source_that_lost_its_power_does_not_say_that_it_sent_the_vm(pair: Pair) -> None:
    await broken_off(pair)

    await pair.source.kill()
    pair.source.driver.power_off()
    await pair.source.start()

    absent = await pair.source.engine.until_state(VM, VmState.ABSENT)
    assert absent.reason is DownReason.HOST_LOST


def only_half(item: IntentVm) -> IntentVm:
    """Return the order to drop a VM if what is here is a half."""
    return msgspec.structs.replace(
        item, role=Role.ABSENT, spec=None, started=True, reason=DownReason.CRASHED, only_half=True
    )


@pytest.mark.parametrize("which", ["source", "destination"])
async def test_a_half_whose_other_half_is_lost_is_dropped_by_order(pair: Pair, which: str) -> None:
    await broken_off(pair)
    here, other = pair.source, pair.destination
    if which == "destination":
        here, other = other, here
    await other.kill()

    here.engine.order(only_half(here.engine.vms[RunKey(VM, 1)]))

    absent = await here.engine.until_state(VM, VmState.ABSENT)
    assert absent.reason is DownReason.CRASHED
    assert here.driver.machine.domains == {}


async def test_what_has_all_of_its_memory_is_not_dropped_as_a_half(pair: Pair) -> None:
    """given a destination that had the rest meanwhile, when the source is lost, then it runs on"""
    job = await broken_off(pair)
    pair.source.driver.machine.faults = Faults()
    await pair.source.engine.until_outcome(job)
    await pair.source.kill()
    engine = pair.destination.engine

    engine.order(only_half(engine.vms[RunKey(VM, 1)]))
    engine.order(run_item(OTHER))

    await engine.until_state(OTHER, VmState.RUNNING)
    await engine.until_state(VM, VmState.RUNNING)
    assert not pair.destination.driver.machine.domains[VM].held
