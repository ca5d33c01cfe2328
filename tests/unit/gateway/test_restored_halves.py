"""After a restore, a VM whose migration broke off in post-copy: half of it is at either host.

Neither half is let run or taken for the VM. It goes on by the migration that the log knows, or it
is down with the cause; of what hosts say in their first report all follows.
"""

from __future__ import annotations

import pytest

from commands.state.vm import VmStatus
from commands.vm.create import CreateVm
from commands.vm.migrate import MigrateVm
from events.types.job import JobKind
from events.types.migration import Held
from events.types.operation import Outcome
from events.types.vm import DownReason
from events.wire.agent import IntentVm, JobItem, JobState, Role, VmStateItem
from events.wire.agent import VmState as Reported
from tests.unit.gateway.bench import Agent, Bench
from tests.unit.gateway.test_restored import operation_reason, restore, run_vm, state, tell
from tests.unit.policies.stage import GIB, absent, done, failed, running


def half(vm: str, incarnation: int = 1, *, came: bool = False) -> VmStateItem:
    """A host says that it has half of a VM; `came`: it came in there."""
    what = Reported.STARTING if came else Reported.PAUSED
    return VmStateItem(vm=vm, incarnation=incarnation, state=what, held=Held.POST_COPY)


async def migrating(bench: Bench, source: Agent) -> tuple[str, str, str]:
    """Return a VM that is on its way, its job, and its operation."""
    vm = await run_vm(bench, source)
    await bench.do(MigrateVm(id=vm))
    operation = bench.operation
    await bench.settle()
    assert operation is not None
    (entry,) = state(bench, vm).jobs
    return vm, entry.job.id, operation


async def orders(agent: Agent, vm: str) -> tuple[list[IntentVm], list[str]]:
    """Return what a host that says hello is to do with a VM: its copies, and jobs."""
    assert (await agent.say_hello()).status == 200
    assert agent.welcome is not None
    intent = agent.welcome.intent
    return (
        [item for item in intent.vms if item.vm == vm],
        [job.id for job in intent.jobs if job.vm == vm],
    )


async def outcome_of(bench: Bench, operation: str) -> Outcome | None:
    ended = [
        r.event.outcome  # type: ignore[attr-defined]
        for r in await bench.history()
        if r.stream == f"operation/{operation}" and r.name == "operation.ended"
    ]
    return ended[0] if ended else None


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("source_first", [True, False])
async def test_halves_go_on_by_the_migration_that_the_log_knows(
    bench: Bench,
    known: bool,  # noqa: FBT001
    source_first: bool,  # noqa: FBT001
) -> None:
    """given a backup that knows, or not, that post-copy broke off, then its job is not taken back,
    and nothing is taken from either host
    """
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm, job, operation = await migrating(bench, source)
    if known:
        item = JobItem(job=job, vm=vm, state=JobState.RUNNING, held=Held.POST_COPY, reason="it")
        await source.report(item)
        await bench.settle()
    await restore(bench)
    before = await bench.log.head()

    told = [(source, half(vm)), (destination, half(vm, came=True))]
    for agent, said in told if source_first else reversed(told):
        assert (await orders(agent, vm)) == ([], []), "nothing before all has been told"
        await tell(agent, said)
        await bench.settle()

    names = await bench.names(before)
    assert not {"vm.job_withdrawn", "vm.migration_failed", "vm.stale_copy_found"} & set(names)
    assert names.count("vm.job_ordered") == 1, "to go on with it is ordered anew"
    assert names.count("vm.migration_held") == (0 if known else 1)
    assert state(bench, vm).status is VmStatus.MIGRATING
    assert "partly on host" in await operation_reason(bench, operation)
    (item_there,), _jobs = await orders(destination, vm)
    assert item_there.role is Role.INCOMING
    (item_here,), jobs = await orders(source, vm)
    assert (item_here.role, jobs) == (Role.OUTGOING, [job])

    # They meet again.
    await source.report(absent(vm, reason=DownReason.MIGRATED), done(job, vm))
    await destination.report(running(vm))
    await bench.settle()
    run = state(bench, vm).run
    assert run is not None
    assert (run.host, state(bench, vm).status) == (destination.host, VmStatus.UP)
    assert await outcome_of(bench, operation) is Outcome.SUCCEEDED


async def test_a_half_that_its_agent_gives_up_is_lost_and_never_runs_on_as_before(
    bench: Bench,
) -> None:
    """given an agent that counts the job as failed since it was not asked for any more"""
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm, job, operation = await migrating(bench, source)
    await restore(bench)
    await tell(destination, half(vm, came=True))
    await tell(source, half(vm))
    await bench.settle()

    await source.report(failed(job, vm, "the job was withdrawn"))
    await bench.settle()

    assert state(bench, vm).status is VmStatus.MIGRATING
    (item,), _jobs = await orders(destination, vm)
    assert item.role is Role.ABSENT
    (item,), _jobs = await orders(source, vm)
    assert item.role is not Role.ABSENT, "not before the other has promised"
    await destination.report(absent(vm, reason=DownReason.CRASHED))
    await bench.settle()
    (item,), _jobs = await orders(source, vm)
    assert (item.role, item.only_half) == (Role.ABSENT, True)
    await source.report(absent(vm, reason=item.reason))
    await bench.settle()
    after = state(bench, vm)
    assert (after.status, after.run, after.may_run_on) == (VmStatus.DOWN, None, ())
    assert after.ending is not None
    assert "broke off in post-copy" in after.ending.detail
    assert await outcome_of(bench, operation) is Outcome.FAILED
    assert "as before" not in await operation_reason(bench, operation)


async def test_a_migration_that_was_held_and_is_over_is_not_gone_on_with(bench: Bench) -> None:
    """given a VM held when the backup was taken, and whole at its source since, then it is up"""
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm, job, operation = await migrating(bench, source)
    held = JobItem(job=job, vm=vm, state=JobState.RUNNING, held=Held.SWITCH_OVER, reason="it")
    await source.report(held)
    await bench.settle()
    await restore(bench)
    before = await bench.log.head()

    await tell(source, running(vm))
    await tell(destination)
    await bench.settle()

    names = await bench.names(before)
    assert "vm.job_ordered" not in names
    assert "vm.job_withdrawn" in names
    (item,), _jobs = await orders(destination, vm)
    assert item.role is Role.ABSENT
    await destination.report(absent(vm))
    await bench.settle()
    after = state(bench, vm)
    assert (after.status, after.migration, after.jobs) == (VmStatus.UP, None, ())
    assert after.may_run_on == (source.host,)
    assert await outcome_of(bench, operation) is Outcome.FAILED


@pytest.mark.parametrize("source_first", [True, False])
async def test_a_half_of_which_the_log_knows_no_migration_is_lost_visibly(
    bench: Bench,
    source_first: bool,  # noqa: FBT001
) -> None:
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm = await run_vm(bench, source)
    await restore(bench)

    told = [(source, half(vm)), (destination, half(vm, came=True))]
    for agent, said in told if source_first else reversed(told):
        await tell(agent, said)
        await bench.settle()

    assert state(bench, vm).status is VmStatus.PAUSED, "it does not count as up meanwhile"
    (item,), _jobs = await orders(source, vm)
    assert (item.role, item.only_half, item.reason) == (Role.ABSENT, True, DownReason.CRASHED)
    (item,), _jobs = await orders(destination, vm)
    assert item.role is Role.ABSENT
    await source.report(absent(vm, reason=DownReason.CRASHED))
    await destination.report(absent(vm, reason=DownReason.ADMIN))
    await bench.settle()
    after = state(bench, vm)
    assert (after.status, after.run, after.migration) == (VmStatus.DOWN, None, None)
    assert (after.may_run_on, after.stale_copies) == ((), ())
    assert after.ending is not None
    assert after.ending.reason is DownReason.CRASHED, "so a highly available one starts again"
    assert "Only half of the VM's memory was on host host1" in after.ending.detail
    assert (await bench.names()).count("vm.migration_lost") == 1


@pytest.mark.parametrize("source_first", [True, False])
async def test_halves_of_a_run_that_the_log_has_lost_are_lost_visibly(
    bench: Bench,
    source_first: bool,  # noqa: FBT001
) -> None:
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster, memory_bytes=GIB))
    await restore(bench)

    told = [(source, half(vm, 3)), (destination, half(vm, 3, came=True))]
    for agent, said in told if source_first else reversed(told):
        await tell(agent, said)
        await bench.settle()
    for agent, said in told:
        await agent.report(said)
        (item,), _jobs = await orders(agent, vm)
        assert item.role is Role.ABSENT

    for agent, _said in told:
        await agent.report(absent(vm, 3, reason=DownReason.CRASHED))
    await bench.settle()
    after = state(bench, vm)
    assert (after.status, after.run, after.may_run_on) == (VmStatus.DOWN, None, ())
    assert after.stale_copies == ()
    assert "vm.migration_lost" in await bench.names()


@pytest.mark.parametrize("source_first", [True, False])
async def test_what_came_so_far_is_never_taken_for_the_vm(
    bench: Bench,
    source_first: bool,  # noqa: FBT001
) -> None:
    """given a run that the log has lost, on its way by a migration that it has lost, too: then the
    host that runs it keeps it, whoever tells first
    """
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster, memory_bytes=GIB))
    await restore(bench)
    part = VmStateItem(vm=vm, incarnation=3, state=Reported.STARTING, held=Held.SWITCH_OVER)

    told = [(source, running(vm, 3)), (destination, part)]
    for agent, said in told if source_first else reversed(told):
        await tell(agent, said)
    for agent, said in told:
        await agent.report(said)
    await bench.settle()

    after = state(bench, vm)
    assert after.run is not None
    assert (after.run.host, after.status) == (source.host, VmStatus.UP)
    assert after.stale_copies == ((destination.host, 3),)


async def test_a_half_that_had_counted_as_up_does_not_stay_so(bench: Bench) -> None:
    """given a migration that is over, by whatever was said, when the host finds that it has half"""
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm, job, _operation = await migrating(bench, source)
    await source.report(absent(vm, reason=DownReason.MIGRATED), done(job, vm))
    await destination.report(running(vm))
    await bench.settle()
    assert state(bench, vm).status is VmStatus.UP

    await destination.report(half(vm))
    await bench.settle()

    assert state(bench, vm).status is VmStatus.PAUSED
    (item,), _jobs = await orders(destination, vm)
    assert (item.role, item.only_half) == (Role.ABSENT, True)
    # If that was a mistake, it goes on.
    await destination.report(running(vm))
    await bench.settle()
    after = state(bench, vm)
    assert (after.status, after.migration) == (VmStatus.UP, None)
    (item,), _jobs = await orders(destination, vm)
    assert item.role is Role.RUN


async def test_a_migration_that_no_half_is_of_is_taken_back_as_ever(bench: Bench) -> None:
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm, _job, _operation = await migrating(bench, source)
    await restore(bench)

    part = VmStateItem(vm=vm, incarnation=1, state=Reported.STARTING, held=Held.SWITCH_OVER)
    await tell(destination, part)
    await tell(source, running(vm))
    await bench.settle()

    assert "vm.migration_held" not in await bench.names()
    assert not [e for e in state(bench, vm).jobs if e.job.kind is JobKind.VM_MIGRATE]
    (item,), _jobs = await orders(destination, vm)
    assert item.role is Role.ABSENT
    assert state(bench, vm).status is VmStatus.UP


@pytest.mark.parametrize("source_first", [True, False])
async def test_halves_that_have_met_since_the_backup_are_not_torn_apart(
    bench: Bench,
    source_first: bool,  # noqa: FBT001
) -> None:
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm, job, operation = await migrating(bench, source)
    item = JobItem(job=job, vm=vm, state=JobState.RUNNING, held=Held.POST_COPY, reason="it")
    await source.report(item)
    await bench.settle()
    await restore(bench)
    before = await bench.log.head()

    told = [(source, ()), (destination, (running(vm),))]
    for agent, said in told if source_first else reversed(told):
        await tell(agent, *said)
        await bench.settle()

    assert "vm.job_ordered" not in await bench.names(before), "its source has nothing of it"
    (order,), _jobs = await orders(destination, vm)
    assert order.role is Role.INCOMING
    (order,), jobs = await orders(source, vm)
    assert (order.started, jobs) == (True, []), "it is asked what became of it"
    await source.report(absent(vm, reason=DownReason.MIGRATED))
    await destination.report(running(vm))
    await bench.settle()
    after = state(bench, vm)
    assert after.run is not None
    assert (after.run.host, after.status, after.jobs) == (destination.host, VmStatus.UP, ())
    assert await outcome_of(bench, operation) is Outcome.SUCCEEDED
