"""Maintenance: who leaves the host when, what blocks, and how it is called off."""

from __future__ import annotations

import msgspec
import pytest

from commands.affinity.create_group import CreateAffinityGroup
from commands.cluster.migration import SetClusterMigration
from commands.cluster.schedule import ScheduleCluster
from commands.gateway.reports import ReportingHost, decide_host
from commands.host.activate import ActivateHost
from commands.host.maintenance import MaintainHost
from commands.kernel.refusal import Refusal
from commands.operation.cancel import CancelOperation
from commands.policies.evacuations import Evacuations
from commands.policies.facts import Facts, FactsWorld
from commands.policies.saga import EvacuationRules, Timeouts
from commands.state.availability_input import HighAvailabilityInput
from commands.state.host import HOST, Duty, HostStatus
from commands.state.migration_input import MigrationInput
from commands.state.operation import OperationState
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm, DiskInput
from commands.vm.migration import SetVmMigration
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from events.types.affinity import Polarity
from events.types.cluster import SchedulingPolicy
from events.types.host import HostCapabilitiesReported
from events.types.host_maintenance import VmsThatStay
from events.types.job import JobKind
from events.types.migration import MigrationMode
from events.types.operation import Outcome
from events.types.vm import DownReason, PauseReason, VmAdopted, VmDown
from events.wire.agent import CapabilitiesItem, VmStateItem
from events.wire.agent import VmState as Reported
from tests.unit.policies.puppet import check, copied, cuts, hosts_of, operations, play_on
from tests.unit.policies.stage import CAPABILITIES, GIB, Stage, absent, running

RULES = EvacuationRules()
MOVE, OFF = JobKind.VM_MIGRATE, JobKind.VM_SHUTDOWN


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.open(2)
    return stage


async def up(stage: Stage, name: str = "web01", host: str | None = None, **more: object) -> str:
    """A VM that runs, on a host if one is named."""
    others = [h for h in await hosts_of(stage) if host is not None and h != host]
    for other in others:
        await offer(stage, other, cpus=0)
    vm = await stage.do(CreateVm(name=name, cluster=stage.cluster, **more))  # type: ignore[arg-type]
    await play_on(stage)
    await stage.do(StartVm(id=vm))
    await play_on(stage)
    for other in others:
        await offer(stage, other)
    state = await stage.vm(vm)
    assert state.status is VmStatus.UP
    assert host is None or (state.run is not None and state.run.host == host)
    return vm


async def offer(stage: Stage, host: str, **changes: object) -> None:
    """Have a host report abilities as they are on every stage, but for changes."""
    abilities = msgspec.structs.replace(CAPABILITIES, **changes)
    await stage.append(HOST.stream(host), HostCapabilitiesReported(capabilities=abilities))
    await stage.settle()


async def maintain(stage: Stage, host: str, **more: object) -> str:
    await stage.do(MaintainHost(id=host, **more))  # type: ignore[arg-type]
    assert stage.operation is not None
    return stage.operation


async def place(stage: Stage, vm: str) -> str | None:
    run = (await stage.vm(vm)).run
    return run.host if run is not None else None


async def of_kind(stage: Stage, kind: str) -> list[OperationState]:
    found = [one for one in (await operations(stage)).values() if one.kind == kind]
    return [one for one in found if one.actor.startswith("policy/")]


async def test_vms_move_to_the_best_host_and_the_host_enters_maintenance(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    vms = [await up(stage, f"vm{n}", first) for n in range(3)]

    operation = await maintain(stage, first, reason="a new fan")
    await play_on(stage)

    assert [await place(stage, vm) for vm in vms] == [second] * 3
    assert (await stage.host(first)).status is HostStatus.MAINTENANCE
    ended = await stage.op(operation)
    assert ended.outcome is Outcome.SUCCEEDED
    assert ended.progress["drain"] in {33, 66}
    assert (await stage.host(first)).maintenance.vms_total == 3


async def test_a_cluster_in_maintenance_is_evacuated_and_starts_highly_available_vms_alone(
    stage: Stage,
) -> None:
    first, second = await hosts_of(stage)
    vm = await up(stage, host=first)
    other = await stage.do(CreateVm(name="web02", cluster=stage.cluster))
    available = await stage.do(
        CreateVm(
            name="db01", cluster=stage.cluster, high_availability=HighAvailabilityInput(priority=1)
        )
    )
    await play_on(stage)
    policy = SchedulingPolicy.CLUSTER_MAINTENANCE
    await stage.do(ScheduleCluster(id=stage.cluster, policy=policy))

    await maintain(stage, first)
    await play_on(stage)
    assert await place(stage, vm) == second
    assert (await stage.host(first)).status is HostStatus.MAINTENANCE

    await stage.do(StartVm(id=other))
    assert stage.operation is not None
    await play_on(stage)
    assert (await stage.vm(other)).status is VmStatus.DOWN
    refused = await stage.op(stage.operation)
    assert refused.outcome is Outcome.FAILED
    assert "only highly available VMs are started in it" in (refused.refusal or "")

    await stage.do(StartVm(id=available))
    await play_on(stage)
    run = (await stage.vm(available)).run
    assert run is not None
    assert run.host == second
    fallen = absent(available, run.incarnation, reason=DownReason.CRASHED)
    await stage.report(second, fallen)
    await play_on(stage)
    again = await stage.vm(available)
    assert (again.status, again.incarnation) == (VmStatus.UP, run.incarnation + 1)


async def test_a_run_that_takes_the_place_of_one_that_was_leaving_leaves_too(stage: Stage) -> None:
    """given a migration that ends with its run, when a newer run is adopted, then it moves"""
    first, second = await hosts_of(stage)
    vm = await up(stage, host=first)
    await maintain(stage, first)
    await stage.settle()
    run = (await stage.vm(vm)).run
    assert run is not None
    assert (await stage.vm(vm)).status is VmStatus.MIGRATING
    ended = VmDown(
        name="web01",
        host=first,
        host_name="host1",
        incarnation=run.incarnation,
        reason=DownReason.ADMIN,
    )
    newer = run.incarnation + 1
    adopted = VmAdopted(
        name="web01",
        host=first,
        host_name="host1",
        incarnation=newer,
        spec=msgspec.structs.replace(run.spec, incarnation=newer),
    )
    await stage.append(f"vm/{vm}", ended, adopted)
    await stage.report(first, running(vm, newer))
    await play_on(stage)

    assert await place(stage, vm) == second
    assert (await stage.host(first)).status is HostStatus.MAINTENANCE


async def test_the_most_urgent_leave_first_and_few_at_a_time(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    limits = SetClusterMigration(id=stage.cluster, outgoing_max=1, incoming_max=9)
    await stage.do(limits)
    priorities = {"low": 1, "high": 90, "middle": 40}
    vms = {
        await up(stage, name, first, high_availability=HighAvailabilityInput(priority=priority)): (
            priority
        )
        for name, priority in priorities.items()
    }
    head = await stage.log.head()

    await maintain(stage, first)
    await stage.settle()
    moving = [vm for vm in vms if (await stage.vm(vm)).status is VmStatus.MIGRATING]
    assert [vms[vm] for vm in moving] == [90]
    await play_on(stage)

    started = [
        vms[r.object_id] for r in (await stage.history())[head:] if r.name == "vm.migration_started"
    ]
    assert started == [90, 40, 1]
    assert {await place(stage, vm) for vm in vms} == {second}


async def test_a_vm_that_is_bound_to_the_host_is_shut_down(stage: Stage) -> None:
    first, _second = await hosts_of(stage)
    local = await up(stage, "local", first, disks=(DiskInput(size_bytes=GIB),))
    fixed = await up(stage, "fixed", first, migration=MigrationInput(mode=MigrationMode.NONE))

    operation = await maintain(stage, first)
    await play_on(stage)

    for vm in (local, fixed):
        assert (await stage.vm(vm)).status is VmStatus.DOWN
    assert len(await of_kind(stage, "vm.shutdown")) == 2
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED


async def test_one_that_is_bound_to_the_host_is_waited_for_if_that_was_asked(
    stage: Stage,
) -> None:
    first, _second = await hosts_of(stage)
    vm = await up(stage, "fixed", first, migration=MigrationInput(mode=MigrationMode.NONE))

    operation = await maintain(stage, first, vms_that_stay=VmsThatStay.WAIT)
    await play_on(stage)

    assert (await stage.vm(vm)).status is VmStatus.UP
    attention = (await stage.op(operation)).attention or ""
    assert "1 of the 1 VMs on host host1 cannot leave it. fixed: It may not be" in attention
    await check(stage)
    await stage.do(StopVm(id=vm))
    await play_on(stage)
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED


async def test_one_that_people_move_only_blocks(stage: Stage) -> None:
    first, _second = await hosts_of(stage)
    await up(stage, "theirs", first, migration=MigrationInput(mode=MigrationMode.MANUAL))
    operation = await maintain(stage, first)
    await play_on(stage)
    assert "theirs: It is migrated by people only." in str((await stage.op(operation)).attention)


async def test_one_without_room_blocks_and_leaves_once_there_is_room(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    big = await up(stage, "big", first, memory_bytes=12 * GIB)
    other = await up(stage, "other", second, memory_bytes=12 * GIB)

    operation = await maintain(stage, first)
    await play_on(stage)
    attention = str((await stage.op(operation)).attention)
    assert "big: No host can take it." in attention
    assert "host2: It has 3840 MiB of memory free, 12288 are needed." in attention
    assert await of_kind(stage, "vm.migrate") == [], "what cannot succeed is not begun"

    await stage.do(StopVm(id=other))
    await play_on(stage)
    assert await place(stage, big) == second
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED


async def test_what_blocks_is_told_anew_after_news(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    await up(stage, "big", first, memory_bytes=12 * GIB)
    await offer(stage, second, memory_bytes=4 * GIB)
    operation = await maintain(stage, first)
    await play_on(stage)
    assert "3840 MiB of memory free" in str((await stage.op(operation)).attention)

    await offer(stage, second, memory_bytes=2 * GIB)
    await stage.pass_time(RULES.retry_s)
    assert "1792 MiB of memory free" in str((await stage.op(operation)).attention)
    head = await stage.log.head()
    await stage.pass_time(10_000)
    assert await stage.log.head() == head, "waiting costs nothing"


async def test_a_start_under_way_is_waited_for(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    await offer(stage, second, cpus=0)
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    await offer(stage, second)

    operation = await maintain(stage, first)
    await stage.report(first, running(vm, up=False))
    assert (await stage.vm(vm)).status is VmStatus.POWERING_UP
    assert (await stage.op(operation)).attention is None
    await play_on(stage)
    assert await place(stage, vm) == second


async def test_a_paused_vm_blocks(stage: Stage) -> None:
    first, _second = await hosts_of(stage)
    vm = await up(stage, "web01", first)
    paused = VmStateItem(
        vm=vm, incarnation=1, state=Reported.PAUSED, pause_reason=PauseReason.NO_SPACE
    )
    await stage.report(first, paused)
    operation = await maintain(stage, first)
    await play_on(stage)
    assert "web01: It is paused" in str((await stage.op(operation)).attention)


@pytest.mark.parametrize("kind", [MOVE, OFF])
async def test_a_failure_is_repeated_later_and_later_a_few_times_and_then_blocks(
    stage: Stage, kind: JobKind
) -> None:
    first, _second = await hosts_of(stage)
    mode = MigrationMode.NONE if kind is OFF else MigrationMode.AUTOMATIC
    vm = await up(stage, "web01", first, migration=MigrationInput(mode=mode))
    operation = await maintain(stage, first)

    attempts = "vm.shutdown" if kind is OFF else "vm.migrate"
    await play_on(stage, failing={kind})
    assert len(await of_kind(stage, attempts)) == 1
    for number in range(1, RULES.attempts_max):
        await stage.pass_time(RULES.retry_s * number - 1)
        assert len(await of_kind(stage, attempts)) == number
        await stage.pass_time(1)
        await play_on(stage, failing={kind})
        assert len(await of_kind(stage, attempts)) == number + 1

    await stage.pass_time(100_000)
    assert len(await of_kind(stage, attempts)) == RULES.attempts_max
    attention = str((await stage.op(operation)).attention)
    assert "web01: 3 attempts failed, and no more are made; the last: it broke" in attention
    assert (await stage.vm(vm)).status is VmStatus.UP
    await check(stage)


async def test_another_maintenance_tries_anew(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    vm = await up(stage, "web01", first)
    await maintain(stage, first)
    for _ in range(5):
        await play_on(stage, failing={MOVE})
        await stage.pass_time(1_000)
    await stage.do(ActivateHost(id=first))
    await play_on(stage)
    await maintain(stage, first)
    await play_on(stage)
    assert await place(stage, vm) == second


@pytest.mark.parametrize("by", ["cancel", "activate"])
async def test_called_off_the_host_is_back_and_migrations_under_way_are_cancelled(
    stage: Stage, by: str
) -> None:
    first, _second = await hosts_of(stage)
    vms = [await up(stage, f"vm{n}", first) for n in range(3)]
    operation = await maintain(stage, first)
    await stage.settle()
    assert len(await of_kind(stage, "vm.migrate")) == 2

    await stage.do(CancelOperation(id=operation) if by == "cancel" else ActivateHost(id=first))
    await play_on(stage)

    assert (await stage.host(first)).status is HostStatus.UP
    assert (await stage.op(operation)).outcome is Outcome.CANCELLED
    assert {one.outcome for one in await of_kind(stage, "vm.migrate")} == {Outcome.CANCELLED}
    assert [await place(stage, vm) for vm in vms] == [first] * 3
    assert len(await of_kind(stage, "vm.migrate")) == 2, "and none is begun any more"


async def test_a_migration_by_hand_is_not_cancelled_with_the_maintenance(stage: Stage) -> None:
    from commands.vm.migrate import MigrateVm  # noqa: PLC0415

    first, second = await hosts_of(stage)
    vm = await up(stage, "web01", first)
    await stage.do(MigrateVm(id=vm))
    operation = await maintain(stage, first)
    await stage.settle()
    await stage.do(CancelOperation(id=operation))
    await play_on(stage)
    assert await place(stage, vm) == second


async def test_at_the_deadline_the_host_is_back(stage: Stage) -> None:
    first, _second = await hosts_of(stage)
    vm = await up(stage, "fixed", first, migration=MigrationInput(mode=MigrationMode.NONE))
    operation = await maintain(stage, first, vms_that_stay=VmsThatStay.WAIT, deadline_s=3_600)
    await play_on(stage)
    await stage.pass_time(3_599)
    assert (await stage.host(first)).duty is Duty.PREPARING

    await stage.pass_time(1)
    await play_on(stage)
    ended = await stage.op(operation)
    assert ended.outcome is Outcome.FAILED
    assert "1 VMs were there still: fixed" in ended.reason
    assert (await stage.host(first)).status is HostStatus.UP
    assert (await stage.vm(vm)).status is VmStatus.UP


async def test_or_what_is_left_at_the_deadline_is_powered_off(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    moving = await up(stage, "moving", first)
    stuck = await up(stage, "stuck", first, migration=MigrationInput(mode=MigrationMode.NONE))
    operation = await maintain(stage, first, vms_that_stay=VmsThatStay.POWER_OFF, deadline_s=3_600)
    await play_on(stage, failing={OFF})
    assert await place(stage, moving) == second
    assert (await stage.op(operation)).attention is None, "nothing is left for people to do"

    await stage.pass_time(3_600)
    await play_on(stage)
    assert (await stage.vm(stuck)).status is VmStatus.DOWN
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED
    assert (await stage.host(first)).status is HostStatus.MAINTENANCE


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_migration_under_way_at_the_deadline_is_let_end_first(
    stage: Stage, *, arrives: bool
) -> None:
    first, second = await hosts_of(stage)
    vm = await up(stage, "moving", first)
    operation = await maintain(stage, first, vms_that_stay=VmsThatStay.POWER_OFF, deadline_s=60)
    await stage.settle()
    await stage.pass_time(60)
    assert (await stage.vm(vm)).status is VmStatus.MIGRATING

    await play_on(stage, failing=() if arrives else {MOVE})
    await play_on(stage)
    assert await place(stage, vm) == (second if arrives else None)
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED


async def test_powering_off_needs_a_deadline(stage: Stage) -> None:
    first, _second = await hosts_of(stage)
    with pytest.raises(Refusal, match="when VMs are to be powered off"):
        await maintain(stage, first, vms_that_stay=VmsThatStay.POWER_OFF)


async def test_a_host_that_falls_silent_meanwhile_is_waited_for(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    vm = await up(stage, "web01", first)
    operation = await maintain(stage, first)
    await stage.silence(first)
    assert "host1" in str((await stage.op(operation)).attention)
    await stage.hello(first)
    await play_on(stage)
    assert await place(stage, vm) == second
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED


async def test_nothing_is_begun_twice_by_another_process(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    vms = [await up(stage, f"vm{n}", first) for n in range(4)]
    await maintain(stage, first)
    await stage.settle()
    for name in ("second", "third"):
        stage.runner = stage.new_runner(name)
        await stage.runner.begin()
        await stage.settle()
    assert len(await of_kind(stage, "vm.migrate")) == 2
    await play_on(stage)
    assert len(await of_kind(stage, "vm.migrate")) == 4
    assert {await place(stage, vm) for vm in vms} == {second}


async def test_vms_that_belong_together_leave_together(stage: Stage) -> None:
    """given a group that keeps two VMs together, then it holds neither where it is"""
    first, second = await hosts_of(stage)
    vms = tuple([await up(stage, name, first) for name in ("one", "two")])
    third = await stage.add_host("host3")
    await stage.do(
        CreateAffinityGroup(
            name="pair",
            cluster=stage.cluster,
            vm_rule=Polarity.POSITIVE,
            vm_enforcing=True,
            vms=vms,
        )
    )
    operation = await maintain(stage, first)
    await play_on(stage)
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED
    places = {await place(stage, vm) for vm in vms}
    assert len(places) == 1
    assert places <= {second, third}


# ------------------------------------------------------------------ hosts that are not fit


async def report_abilities(stage: Stage, host: str, **changes: object) -> None:
    """Have a host's agent report what it can do, as it does over the gateway."""
    item = CapabilitiesItem(capabilities=msgspec.structs.replace(CAPABILITIES, **changes))
    await stage.decide(
        lambda world, context: decide_host(context, ReportingHost(world, host), item, context.time)
    )
    await stage.settle()


async def test_vms_leave_a_host_that_is_not_fit_and_it_is_up_again_once_it_is(
    stage: Stage,
) -> None:
    first, second = await hosts_of(stage)
    vm = await up(stage, "web01", first)
    fixed = await up(stage, "fixed", first, migration=MigrationInput(mode=MigrationMode.NONE))

    await report_abilities(stage, first, machine_types=("pc-q35-9.0",))
    assert (await stage.host(first)).status is HostStatus.NON_OPERATIONAL
    await play_on(stage)

    assert await place(stage, vm) == second
    assert (await stage.vm(fixed)).status is VmStatus.UP, "nothing is shut down for it"
    assert await place(stage, fixed) == first
    other = await stage.do(CreateVm(name="other", cluster=stage.cluster))
    await stage.do(StartVm(id=other))
    await play_on(stage)
    assert await place(stage, other) == second, "and it is given nothing"

    await report_abilities(stage, first)
    assert (await stage.host(first)).status is HostStatus.UP
    names = [r.name for r in await stage.history() if r.object_id == first]
    assert names.count("host.fitness_found") == 2
    await stage.do(MaintainHost(id=second))
    await play_on(stage)
    assert await place(stage, vm) == first


async def test_a_host_may_say_hello_and_not_be_fit(stage: Stage) -> None:
    first, _second = await hosts_of(stage)
    await report_abilities(stage, first, memory_bytes=GIB)
    await stage.silence(first)
    assert (await stage.host(first)).status is HostStatus.NON_RESPONSIVE
    await stage.hello(first)
    assert (await stage.host(first)).status is HostStatus.UP


async def test_a_host_that_is_not_fit_goes_into_maintenance(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    vm = await up(stage, "web01", first)
    await offer(stage, second, memory_bytes=0)
    await report_abilities(stage, first, memory_bytes=GIB)
    await stage.settle()
    assert await place(stage, vm) == first
    operation = await maintain(stage, first)
    await offer(stage, second)
    await stage.pass_time(RULES.retry_s)
    await play_on(stage)
    assert await place(stage, vm) == second
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED


# ------------------------------------------------------------------------------ every order


@pytest.mark.parametrize("slow", ["nobody", "source", "destination"])
async def test_a_process_that_dies_after_any_append_is_carried_on(slow: str) -> None:
    """given the log up to any append, when another process goes on, then each VM moves once"""
    stage = Stage()
    first, second = await stage.open(2)
    vms = [await up(stage, f"vm{n}", first) for n in range(3)]
    await stage.do(SetVmMigration(id=vms[2], mode=MigrationMode.NONE))
    operation = await maintain(stage, first)
    begun = await stage.log.head()
    await play_on(stage)

    for cut in await cuts(stage.log, begun):
        copy = await copied(stage, cut)
        mute: dict[str, set[str]] = {"nobody": set(), "source": {first}, "destination": {second}}
        await play_on(copy, mute=mute[slow])
        await check(copy)
        await play_on(copy)
        assert (await copy.op(operation)).outcome is Outcome.SUCCEEDED, f"from {cut} on"
        assert (await copy.host(first)).status is HostStatus.MAINTENANCE
        assert [await place(copy, vm) for vm in vms] == [second, second, None]
        names = await copy.names(begun)
        assert names.count("vm.migration_started") == 2, f"from {cut} on"
        assert names.count("vm.shutdown_requested") == 1, f"from {cut} on"
        assert names.count("host.evacuation_begun") == 1


@pytest.mark.parametrize("by", ["cancel", "activate"])
async def test_called_off_at_any_point_the_host_takes_vms_and_each_runs_once(by: str) -> None:
    stage = Stage()
    first, second = await stage.open(2)
    vms = [await up(stage, f"vm{n}", first) for n in range(3)]
    operation = await maintain(stage, first)
    begun = await stage.log.head()
    await play_on(stage)

    outcomes = set()
    for cut in await cuts(stage.log, begun):
        copy = await copied(stage, cut)
        if (await copy.op(operation)).outcome is not None:
            continue
        await copy.do(CancelOperation(id=operation) if by == "cancel" else ActivateHost(id=first))
        await play_on(copy)
        await check(copy)
        assert (await copy.host(first)).status is HostStatus.UP, f"from {cut} on"
        outcomes.add((await copy.op(operation)).outcome)
        for vm in vms:
            state = await copy.vm(vm)
            assert state.status is VmStatus.UP, f"from {cut} on"
            assert await place(copy, vm) in {first, second}
            assert len(state.may_run_on) == 1
        assert [one for one in (await operations(copy)).values() if one.open] == []
    assert outcomes == {Outcome.CANCELLED}


async def test_what_was_wanted_is_refused_once_the_host_was_activated(stage: Stage) -> None:
    """given a policy that lags, when the host is activated, then no VM leaves it any more"""
    first, _second = await hosts_of(stage)
    await up(stage, "web01", first)
    await maintain(stage, first)
    watch = Evacuations(Timeouts())
    lagging, newest = Facts([watch]), Facts()
    for recorded in await stage.history():
        lagging.take(recorded)
    (wanted,) = watch.due(lagging, stage.now)
    assert wanted.decide(FactsWorld(lagging), stage.context()).events

    await stage.do(ActivateHost(id=first))
    for recorded in await stage.history():
        newest.take(recorded)
    world = FactsWorld(newest)
    with pytest.raises(Refusal, match="not to be without VMs any more"):
        wanted.decide(world, stage.context())
    assert f"host/{first}" in world.reads, "so that the append is refused as well"
