"""Half of a VM on a host, whatever the engine knows of it: it is told, kept, and never let run."""

from __future__ import annotations

import asyncio

import msgspec

from events.types.migration import Held
from events.types.vm import DownReason
from events.wire.agent import JobState, Role, VmState, VmStateItem
from hostagent.records import RunKey
from hostagent.simulated_state import Faults, MigrationFault
from tests.unit.hostagent.conftest import Host
from tests.unit.hostagent.samples import OTHER, VM, run_item
from tests.unit.hostagent.test_agent_migrations import Pair, broken_off, pair

__all__ = ["pair"]

RUN = RunKey(VM, 1)


def forget(host: Host, *, vms: bool = True) -> None:
    """Have the engine of a host forget what it ordered, as one does that was restored."""
    engine = host.engine
    if vms:
        engine.vms.clear()
    engine.jobs.clear()
    engine.states.clear()
    engine.items.clear()
    engine.replace_session()


async def told(host: Host, held: Held | None) -> VmStateItem:
    """Wait until the engine was told that a host holds the VM so."""
    await host.engine.until(lambda e: RUN in e.states and e.states[RUN].held is held)
    return host.engine.states[RUN]


async def test_halves_that_the_engine_has_forgotten_are_told_and_kept(pair: Pair) -> None:
    """given an engine that asks for nothing any more, then nothing is given up; asked again, the
    VM goes on
    """
    job = await broken_off(pair)
    ordered = [(host, dict(host.engine.vms)) for host in (pair.source, pair.destination)]

    for host, _vms in ordered:
        forget(host)
    assert (await told(pair.source, Held.POST_COPY)).state is VmState.PAUSED
    assert (await told(pair.destination, Held.POST_COPY)).state is VmState.STARTING
    pair.source.driver.machine.faults = Faults()
    await asyncio.sleep(0.3)

    assert job.id not in pair.source.engine.outcomes
    for host, vms in ordered:
        assert host.driver.machine.domains[VM].half
        for item in vms.values():
            host.engine.order(item)
    pair.source.engine.order_job(job)
    assert (await pair.source.engine.until_outcome(job)).state is JobState.DONE
    await pair.destination.engine.until_state(VM, VmState.RUNNING)


async def test_an_agent_that_was_killed_meanwhile_goes_on_as_well(pair: Pair) -> None:
    """given a source that remembers nothing of its job, when that is ordered, it sends no half"""
    job = await broken_off(pair)
    pair.source.engine.jobs.clear()
    await pair.source.restart(Faults())
    await pair.source.engine.until(lambda engine: engine.hellos[1:])
    await asyncio.sleep(0.1)
    assert job.id not in pair.source.agent.desk.journal.known.jobs
    sent: list[str] = []
    send = pair.source.agent._mover._moves.send  # type: ignore[union-attr]

    async def spied(*args: object) -> None:
        sent.append("sent")
        await send(*args)  # type: ignore[arg-type]

    pair.source.agent._mover._moves.send = spied  # type: ignore[union-attr, method-assign]
    pair.source.engine.order_job(job)

    assert (await pair.source.engine.until_outcome(job)).state is JobState.DONE
    assert sent == []
    await pair.destination.engine.until_state(VM, VmState.RUNNING)


async def test_a_job_in_halves_that_is_taken_back_does_not_count_as_failed(pair: Pair) -> None:
    job = await broken_off(pair)

    pair.source.engine.withdraw(job)
    pair.source.engine.order(run_item(OTHER))
    await pair.source.engine.until_state(OTHER, VmState.RUNNING)
    assert job.id not in pair.source.engine.outcomes

    # It ends with the half.
    pair.source.engine.absent(VM, reason=DownReason.ADMIN)
    await pair.source.engine.until_state(VM, VmState.ABSENT)
    assert pair.source.driver.machine.domains.keys() == {OTHER}


async def test_what_comes_in_and_was_forgotten_is_told_as_what_it_is(pair: Pair) -> None:
    await pair.start(Faults(migration_s=30))
    pair.order()
    await pair.until_copying()

    for host in (pair.source, pair.destination):
        forget(host)

    assert (await told(pair.destination, Held.SWITCH_OVER)).state is VmState.STARTING
    assert (await told(pair.source, None)).state is VmState.RUNNING


async def unnoticed(pair: Pair) -> None:
    """Break post-copy off, which the destination's hypervisor does not notice; the source loses its
    power, and is there again at once.
    """
    fault = Faults(migration_fault=MigrationFault.BREAK, notice_s=1.0)
    await pair.start(fault)
    pair.order()
    await pair.source.engine.until(
        lambda _e: all(
            VM in host.driver.machine.domains and host.driver.machine.domains[VM].half
            for host in (pair.source, pair.destination)
        )
    )
    await pair.source.kill()
    pair.source.driver.power_off()
    await pair.source.start()
    absent = await pair.source.engine.until_state(VM, VmState.ABSENT)
    assert absent.reason is DownReason.HOST_LOST


async def test_a_half_is_not_landed_though_its_hypervisor_has_not_noticed(pair: Pair) -> None:
    """given the source back from another boot, when the VM's place is here, then it is not let
    count as up before all of its memory is here; and what it is is told
    """
    await unnoticed(pair)
    engine = pair.destination.engine

    engine.order(msgspec.structs.replace(engine.vms[RUN], role=Role.RUN))

    await told(pair.destination, Held.POST_COPY)
    said = [i for i in engine.items if isinstance(i, VmStateItem) and i.vm == VM]
    assert all(item.state is VmState.STARTING for item in said)
    run = pair.destination.agent.desk.journal.known.runs[RUN]
    assert run.done is None


async def test_a_source_that_lost_its_power_does_not_have_the_other_half_landed(
    pair: Pair,
) -> None:
    await unnoticed(pair)
    await told(pair.destination, Held.POST_COPY)

    run = pair.destination.agent.desk.journal.known.runs[RUN]

    assert run.done is None
    assert pair.destination.driver.machine.domains[VM].held
