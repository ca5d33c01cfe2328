"""Migrations wait for their turn, try other hosts, and say what became of the VM."""

from __future__ import annotations

import msgspec
import pytest

from commands.cluster.migration import SetClusterMigration
from commands.operation.cancel import CancelOperation
from commands.state.migration_input import MigrationInput
from commands.state.operation import OperationState, StepState
from commands.state.vm import VmState, VmStatus
from commands.vm.create import CreateVm, DiskInput
from commands.vm.migrate import MigrateVm
from commands.vm.start import StartVm
from events.types.host import HostCapabilitiesReported
from events.types.job import Job, JobKind
from events.types.migration import CopyProgress, Held, MigrationPolicy
from events.types.operation import Outcome
from events.types.vm import DownReason
from events.wire.agent import JobItem, JobState, Role, VmStateItem
from events.wire.agent import VmState as Reported
from tests.unit.policies.puppet import play_on
from tests.unit.policies.stage import CAPABILITIES, Stage, absent, running

MIB = 1024 * 1024


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.open(hosts=3)
    return stage


async def started(stage: Stage, name: str, **more: object) -> str:
    """Return a VM that is up."""
    vm = await stage.do(CreateVm(name=name, cluster=stage.cluster, **more))  # type: ignore[arg-type]
    await play_on(stage)
    await stage.do(StartVm(id=vm))
    await play_on(stage)
    return vm


async def where(stage: Stage, vm: str) -> str:
    """Return the host of a VM's run."""
    run = (await stage.vm(vm)).run
    assert run is not None
    return run.host


async def asked(stage: Stage, vm: str, host: str | None = None) -> str:
    """Ask for a migration; return its operation."""
    await stage.do(MigrateVm(id=vm, host=host))
    await stage.settle()
    assert stage.operation is not None
    return stage.operation


async def job_of(stage: Stage, vm: str) -> Job:
    """Return the open migration job of a VM."""
    (entry,) = [e for e in (await stage.vm(vm)).jobs if e.job.kind is JobKind.VM_MIGRATE]
    return entry.job


async def fail(stage: Stage, vm: str, *, elsewhere: bool, reason: str = "it broke") -> None:
    """Let the source say that it could not send the VM, and the destination that it has nothing."""
    state = await stage.vm(vm)
    assert state.run is not None
    job = await job_of(stage, vm)
    assert job.sending is not None
    item = JobItem(job=job.id, vm=vm, state=JobState.FAILED, reason=reason, elsewhere=elsewhere)
    await stage.report(state.run.host, item)
    await stage.settle()
    await stage.report(job.sending.destination, absent(vm, 1))
    await stage.settle()


def waits(operation: OperationState) -> bool:
    """Whether a migration has not begun to copy."""
    return operation.steps["copy"] is StepState.PENDING


async def on_one_host(stage: Stage, count: int, **more: object) -> list[str]:
    """Return VMs that all run on the same host."""
    vms = [await started(stage, "web0", **more)]
    home = await where(stage, vms[0])
    for number in range(1, count):
        vm = await stage.do(CreateVm(name=f"web{number}", cluster=stage.cluster, **more))  # type: ignore[arg-type]
        await stage.do(StartVm(id=vm))
        await play_on(stage)
        if await where(stage, vm) != home:
            await asked(stage, vm, home)
            await play_on(stage)
        assert await where(stage, vm) == home
        vms.append(vm)
    return vms


async def test_a_host_sends_so_many_and_the_others_show_their_place(stage: Stage) -> None:
    vms = await on_one_host(stage, 5)

    operations = [await asked(stage, vm) for vm in vms]

    states = [await stage.op(key) for key in operations]
    assert [waits(state) for state in states] == [False, False, True, True, True]
    assert [state.detail.partition(".")[0] for state in states[2:]] == [
        f"It waits for its turn, at place {place}" for place in (1, 2, 3)
    ]
    assert "sends 2 VMs already" in states[2].detail
    assert all(state.attention is None for state in states)
    await play_on(stage)
    assert {(await stage.op(key)).outcome for key in operations} == {Outcome.SUCCEEDED}


async def test_who_has_the_higher_priority_goes_first(stage: Stage) -> None:
    vms = await on_one_host(stage, 3)
    urgent = await stage.do(
        CreateVm(name="urgent", cluster=stage.cluster, migration=MigrationInput(priority=90))
    )
    await stage.do(StartVm(id=urgent))
    await play_on(stage)
    home = await where(stage, vms[0])
    if await where(stage, urgent) != home:
        await asked(stage, urgent, home)
        await play_on(stage)
    await stage.do(SetClusterMigration(id=stage.cluster, outgoing_max=1))
    first, second, third = [await asked(stage, vm) for vm in vms]

    last = await asked(stage, urgent)

    assert "place 1." in (await stage.op(last)).detail
    assert "place 2." in (await stage.op(second)).detail
    await fail(stage, vms[0], elsewhere=False)
    assert not waits(await stage.op(last))
    assert waits(await stage.op(second))
    assert waits(await stage.op(third))
    assert (await stage.op(first)).outcome is Outcome.FAILED


async def test_a_host_takes_in_so_many(stage: Stage) -> None:
    await stage.do(SetClusterMigration(id=stage.cluster, outgoing_max=10, incoming_max=1))
    vms = await on_one_host(stage, 3)

    operations = [await asked(stage, vm) for vm in vms]

    states = [await stage.op(key) for key in operations]
    assert [waits(state) for state in states] == [False, False, True]
    assert "takes in 1 already" in states[2].detail
    await play_on(stage)
    assert (await stage.op(operations[2])).outcome is Outcome.SUCCEEDED


async def test_raising_the_limit_lets_others_go(stage: Stage) -> None:
    await stage.do(SetClusterMigration(id=stage.cluster, outgoing_max=1))
    vms = await on_one_host(stage, 3)
    operations = [await asked(stage, vm) for vm in vms]

    await stage.do(SetClusterMigration(id=stage.cluster, outgoing_max=3))
    await stage.settle()

    assert not any([waits(await stage.op(key)) for key in operations])


async def test_who_waits_can_be_cancelled_and_is_not_in_the_way(stage: Stage) -> None:
    await stage.do(SetClusterMigration(id=stage.cluster, outgoing_max=1))
    vms = await on_one_host(stage, 3)
    _first, second, third = [await asked(stage, vm) for vm in vms]

    await stage.do(CancelOperation(id=second))
    await stage.settle()

    assert (await stage.op(second)).outcome is Outcome.CANCELLED
    assert (await stage.vm(vms[1])).status is VmStatus.UP
    assert "place 1." in (await stage.op(third)).detail


async def test_who_waits_goes_on_under_another_policies_process(stage: Stage) -> None:
    await stage.do(SetClusterMigration(id=stage.cluster, outgoing_max=1))
    vms = await on_one_host(stage, 3)
    operations = [await asked(stage, vm) for vm in vms]

    stage.runner = stage.new_runner("second")
    await stage.runner.begin()
    await stage.settle()

    begun = [not waits(await stage.op(key)) for key in operations]
    assert begun == [True, False, False], "what the first one began counts"
    await play_on(stage)
    assert {(await stage.op(key)).outcome for key in operations} == {Outcome.SUCCEEDED}


async def test_another_host_is_tried_where_one_did_not_take_it_in(stage: Stage) -> None:
    vm = await started(stage, "web")
    home = await where(stage, vm)
    operation = await asked(stage, vm)
    first = (await job_of(stage, vm)).sending
    assert first is not None

    await fail(stage, vm, elsewhere=True)

    second = (await job_of(stage, vm)).sending
    assert second is not None
    assert second.destination not in {home, first.destination}
    assert (await stage.vm(vm)).status is VmStatus.MIGRATING
    assert "vm.migration_retried" in await stage.names()
    await play_on(stage)
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED
    assert await where(stage, vm) == second.destination


async def test_where_no_other_host_is_left_it_says_why_and_where_the_vm_runs(
    stage: Stage,
) -> None:
    vm = await started(stage, "web")
    operation = await asked(stage, vm)

    await fail(stage, vm, elsewhere=True, reason="no memory")
    await fail(stage, vm, elsewhere=True, reason="no room")

    state = await stage.op(operation)
    assert state.outcome is Outcome.FAILED
    assert "no room" in state.reason
    assert "No other host" in state.reason
    after = await stage.vm(vm)
    assert (after.status, after.migration) == (VmStatus.UP, None)
    assert after.run is not None
    assert after.may_run_on == (after.run.host,)


async def test_a_host_that_was_asked_for_is_the_only_one_tried(stage: Stage) -> None:
    vm = await started(stage, "web")
    home = await where(stage, vm)
    (other, *_rest) = [host for host in (await stage.view()).hosts if host != home]
    operation = await asked(stage, vm, other)

    await fail(stage, vm, elsewhere=True)

    state = await stage.op(operation)
    assert state.outcome is Outcome.FAILED
    assert "runs on host" in state.reason


async def test_copying_that_fails_is_not_tried_elsewhere(stage: Stage) -> None:
    vm = await started(stage, "web")
    operation = await asked(stage, vm)

    await fail(stage, vm, elsewhere=False)

    assert (await stage.op(operation)).outcome is Outcome.FAILED
    assert "vm.migration_retried" not in await stage.names()


async def test_the_source_is_told_how_to_send(stage: Stage) -> None:
    moves = MigrationInput(policy=MigrationPolicy.POST_COPY, bandwidth_bytes_per_s=9 * MIB)
    vm = await started(stage, "web", migration=moves)
    await asked(stage, vm)

    sending = (await job_of(stage, vm)).sending

    assert sending is not None
    assert sending.tuning.policy is MigrationPolicy.POST_COPY
    assert sending.tuning.bandwidth_bytes_per_s == 9 * MIB


async def test_figures_are_kept_and_percent_never_falls(stage: Stage) -> None:
    vm = await started(stage, "web")
    operation = await asked(stage, vm)
    job, home = await job_of(stage, vm), await where(stage, vm)

    for percent, rounds in ((50, 1), (40, 2), (42, 3), (41, 4)):
        copying = CopyProgress(total_bytes=100, remaining_bytes=100 - percent, rounds=rounds)
        item = JobItem(job=job.id, vm=vm, state=JobState.RUNNING, percent=percent, copying=copying)
        await stage.report(home, item)

    state = await stage.op(operation)
    assert state.progress["copy"] == 50
    assert state.copying is not None
    assert state.copying.rounds == 4
    told = [r for r in await stage.history() if r.name == "operation.progressed"]
    assert len(told) == 3, "a round alone is told when it is twice the one before"


async def test_each_step_of_the_policy_is_told(stage: Stage) -> None:
    vm = await started(stage, "web")
    operation = await asked(stage, vm)
    job, home = await job_of(stage, vm), await where(stage, vm)
    before = CopyProgress(total_bytes=100, remaining_bytes=60, rounds=8)

    for change in ({"down_time_ms": 150}, {"suspended": True}, {"post_copy": True}):
        copying = msgspec.structs.replace(before, **change)
        item = JobItem(job=job.id, vm=vm, state=JobState.RUNNING, percent=40, copying=copying)
        await stage.report(home, item)
        assert (await stage.op(operation)).copying == copying


async def held(stage: Stage, vm: str, how: Held) -> Job:
    """Let the source say that its hypervisor stopped the VM."""
    job = await job_of(stage, vm)
    item = JobItem(job=job.id, vm=vm, state=JobState.RUNNING, held=how, reason="libvirt was killed")
    await stage.report(await where(stage, vm), item)
    await stage.settle()
    return job


async def test_a_source_held_at_the_switch_over_goes_on_once_the_destination_has_nothing(
    stage: Stage,
) -> None:
    vm = await started(stage, "web")
    operation, home = await asked(stage, vm), await where(stage, vm)

    job = await held(stage, vm, Held.SWITCH_OVER)

    assert job.sending is not None
    (item,) = [i for i in (await stage.intent(job.sending.destination)).vms if i.vm == vm]
    assert item.role is Role.ABSENT
    before = (await job_of(stage, vm)).sending
    assert before is not None
    assert not before.released, "the destination may still have it"
    await stage.report(job.sending.destination, absent(vm, 1))
    await stage.settle()
    after = (await job_of(stage, vm)).sending
    assert after is not None
    assert after.released
    await fail_alone(stage, vm, home, job)
    state = await stage.op(operation)
    assert state.outcome is Outcome.FAILED
    assert "runs on host" in state.reason
    vm_state = await stage.vm(vm)
    assert (vm_state.status, vm_state.migration) == (VmStatus.UP, None)


async def fail_alone(stage: Stage, vm: str, home: str, job: Job) -> None:
    """Let the source say that the VM runs on there."""
    failed = JobItem(job=job.id, vm=vm, state=JobState.FAILED, reason="the switch-over failed")
    await stage.report(home, failed, running(vm, 1))
    await stage.settle()


async def test_a_destination_that_does_not_drop_its_half_calls_for_attention(
    stage: Stage,
) -> None:
    vm = await started(stage, "web")
    operation = await asked(stage, vm)
    await held(stage, vm, Held.SWITCH_OVER)

    await stage.pass_time(61)
    await stage.settle()

    attention = (await stage.op(operation)).attention
    assert attention is not None
    assert "stopped on host" in attention


async def test_a_broken_post_copy_calls_for_attention_and_is_never_released(
    stage: Stage,
) -> None:
    vm = await started(stage, "web")
    operation = await asked(stage, vm)

    job = await held(stage, vm, Held.POST_COPY)

    attention = (await stage.op(operation)).attention
    assert attention is not None
    assert "partly on host" in attention
    assert "Nothing of it is lost" in attention
    assert job.sending is not None
    (item,) = [i for i in (await stage.intent(job.sending.destination)).vms if i.vm == vm]
    assert item.role is Role.INCOMING, "nothing is taken from either half"


async def half_at(stage: Stage, vm: str, host: str) -> None:
    """Let the destination say that what came in is not whole."""
    item = VmStateItem(vm=vm, incarnation=1, state=Reported.STARTING, held=Held.POST_COPY)
    await stage.report(host, item)
    await stage.settle()


async def attention_of(stage: Stage, operation: str) -> str:
    return (await stage.op(operation)).attention or ""


async def test_a_post_copy_that_is_mended_goes_on_and_calls_for_nobody(stage: Stage) -> None:
    vm = await started(stage, "web")
    operation, home = await asked(stage, vm), await where(stage, vm)
    job = await held(stage, vm, Held.POST_COPY)
    assert "goes on" not in await attention_of(stage, operation)

    copying = CopyProgress(total_bytes=100, remaining_bytes=40, post_copy=True)
    item = JobItem(job=job.id, vm=vm, state=JobState.RUNNING, percent=60, copying=copying)
    await stage.report(home, item)
    await stage.settle()

    state = await stage.op(operation)
    assert state.attention is None
    assert state.steps["copy"] is StepState.RUNNING
    after = await stage.vm(vm)
    assert after.migration is not None
    assert after.migration.held is None
    assert after.pause_reason is None
    assert "vm.migration_mended" in await stage.names()
    await play_on(stage)
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED


async def test_figures_from_before_post_copy_mend_nothing(stage: Stage) -> None:
    vm = await started(stage, "web")
    await asked(stage, vm)
    home = await where(stage, vm)
    job = await held(stage, vm, Held.POST_COPY)

    copying = CopyProgress(total_bytes=100, remaining_bytes=40)
    item = JobItem(job=job.id, vm=vm, state=JobState.RUNNING, percent=60, copying=copying)
    await stage.report(home, item)

    assert "vm.migration_mended" not in await stage.names()


async def test_a_source_that_says_migrated_has_sent_all_of_it(stage: Stage) -> None:
    vm = await started(stage, "web")
    operation, home = await asked(stage, vm), await where(stage, vm)
    destination = (await stage.vm(vm)).may_run_on[-1]
    await half_at(stage, vm, destination)

    await stage.report(home, absent(vm, 1, reason=DownReason.MIGRATED))
    await stage.report(destination, running(vm, 1))
    await stage.settle()

    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED
    assert (await stage.vm(vm)).status is VmStatus.UP
    names = await stage.names()
    assert names.index("vm.migration_mended") < names.index("vm.migrated")


async def test_disks_follow_the_vm(stage: Stage) -> None:
    shared = msgspec.structs.replace(CAPABILITIES, storage_id="one:/folder")
    for host in (await stage.view()).hosts:
        await stage.append(f"host/{host}", HostCapabilitiesReported(capabilities=shared))
    vm = await started(stage, "web", disks=(DiskInput(size_bytes=MIB),))
    before: VmState = await stage.vm(vm)
    assert before.disks_host is not None

    taken = {before.disks_host, await where(stage, vm)}
    (other, *_rest) = [host for host in (await stage.view()).hosts if host not in taken]
    await asked(stage, vm, other)
    await play_on(stage)

    after = await stage.vm(vm)
    assert after.run is not None
    assert after.disks_host == after.run.host != before.disks_host
    claims = stage.log.claims()
    assert (f"host/{after.disks_host}", f"vm/{vm}/disks") in claims
    assert (f"host/{before.disks_host}", f"vm/{vm}/disks") not in claims


async def test_a_vm_that_was_saved_at_its_source_is_not_coming(stage: Stage) -> None:
    """given a suspend that a restored log has lost, when the source tells of it"""
    vm = await started(stage, "web")
    operation, home = await asked(stage, vm), await where(stage, vm)
    destination = (await stage.vm(vm)).may_run_on[-1]
    head = await stage.log.head()

    await stage.report(home, absent(vm, 1, reason=DownReason.SUSPENDED))

    addressed = [r.addressee for r in (await stage.history())[head:] if r.stream == f"vm/{vm}"]
    assert destination in addressed, "it is told that the VM is not coming"
    await stage.report(destination, absent(vm, 1, reason=DownReason.WITHDRAWN))
    state = await stage.vm(vm)
    assert (state.status, state.may_run_on, state.migration) == (VmStatus.SUSPENDED, (), None)
    assert (await stage.op(operation)).outcome is Outcome.FAILED


async def test_who_waits_on_a_host_that_falls_silent_says_so_until_it_answers(stage: Stage) -> None:
    await stage.do(SetClusterMigration(id=stage.cluster, outgoing_max=1))
    vms = await on_one_host(stage, 2)
    home = await where(stage, vms[0])
    _first, second = [await asked(stage, vm) for vm in vms]
    assert "place 1." in (await stage.op(second)).detail

    await stage.silence(home)

    assert "does not answer" in await attention_of(stage, second)
    await stage.hello(home)
    state = await stage.op(second)
    assert state.attention is None
    assert "place 1." in state.detail
    await play_on(stage)
    assert (await stage.op(second)).outcome is Outcome.SUCCEEDED
