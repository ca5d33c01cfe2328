"""After a restore: hosts get no orders until they have told what they run, and nothing is lost.

In each test the log is cut off by `restore`: what the hosts then report happened after the backup.
"""

from __future__ import annotations

import pytest

from commands.host.confirm_off import ConfirmHostOff
from commands.host.confirm_state import ConfirmHostState
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, WrongState
from commands.policies.runner import Runner
from commands.policies.saga import Timeouts
from commands.state.host import HOST, HostStatus
from commands.state.operation import OPERATION
from commands.state.vm import VmState, VmStatus
from commands.vm.create import CreateVm, DiskInput
from commands.vm.migrate import MigrateVm
from commands.vm.reboot import RebootVm
from commands.vm.remove import RemoveVm
from commands.vm.start import StartVm
from events.types.host import HostStateUnconfirmed
from events.types.vm import DownReason
from events.wire.agent import FullStateItem, Role
from tests.unit.gateway.bench import Agent, Bench
from tests.unit.policies.stage import GIB, absent, done, running

FLOOR = 1_000


async def restore(bench: Bench) -> None:
    """Do to the log what a restore does, and let policies begin on it."""
    for host in sorted(bench.engine.view.hosts):

        def decide(world: World, context: Context, host: str = host) -> Decision:
            del context
            state = world.get(HOST, host)
            assert state is not None
            unconfirmed = HostStateUnconfirmed(name=state.name, incarnations_from=FLOOR)
            return Decision(id=host, events=on(f"host/{host}", unconfirmed))

        await bench.handler.handle(decide, bench.source_for("restore"), principal="restore")
    await begin_policies(bench)


async def begin_policies(bench: Bench) -> None:
    timeouts = Timeouts(launch_s=60, retry_s=30)
    bench.runner = Runner(bench.log, bench.context, timeouts, "after the restore")
    await bench.runner.begin()
    await bench.settle()


async def run_vm(bench: Bench, agent: Agent, name: str = "web01") -> str:
    """Start a VM on the host of an agent."""
    vm = await bench.do(CreateVm(name=name, cluster=bench.cluster, memory_bytes=GIB))
    await bench.do(StartVm(id=vm))
    await bench.settle()
    run = state(bench, vm).run
    assert run is not None
    assert run.host == agent.host
    await agent.report(running(vm))
    await bench.settle()
    return vm


async def tell(agent: Agent, *items: object) -> None:
    """Say hello, and all that is on the host."""
    assert (await agent.say_hello()).status == 200
    await agent.report(FullStateItem(vms=items))  # type: ignore[arg-type]


def state(bench: Bench, vm: str) -> VmState:
    return bench.engine.view.vms[vm]


def host_status(bench: Bench, agent: Agent) -> HostStatus:
    return bench.engine.view.hosts[agent.host].status


async def operation_reason(bench: Bench, operation: str) -> str:
    events = [r for r in await bench.history() if r.stream == OPERATION.stream(operation)]
    return " ".join(getattr(r.event, "reason", "") for r in events)


async def test_a_host_gets_no_orders_until_it_has_told_what_it_runs(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await run_vm(bench, agent)
    await restore(bench)

    assert (await agent.poll()).status == 409
    assert (await agent.send(agent.next_report(running(vm)))).status == 409
    assert (await agent.say_hello()).status == 200
    assert agent.welcome is not None
    assert agent.welcome.intent.vms == ()
    assert host_status(bench, agent) is HostStatus.NON_RESPONSIVE
    await agent.report(FullStateItem(known=False))
    assert host_status(bench, agent) is HostStatus.NON_RESPONSIVE
    assert await agent.changes() is None

    await agent.report(FullStateItem(vms=(running(vm),)))

    assert host_status(bench, agent) is HostStatus.UP
    orders = await agent.changes()
    assert orders is not None
    assert [(item.vm, item.role) for item in orders.changes.vms] == [(vm, Role.RUN)]
    assert state(bench, vm).status is VmStatus.UP


async def test_a_run_that_the_log_has_lost_goes_on(bench: Bench) -> None:
    """given a VM stopped and started again after the backup, then that run is taken over"""
    agent = await bench.agent()
    vm = await run_vm(bench, agent)
    await restore(bench)

    await tell(agent, running(vm, 2))

    after = state(bench, vm)
    assert after.run is not None
    assert (after.run.host, after.run.incarnation, after.status) == (agent.host, 2, VmStatus.UP)
    orders = await agent.changes()
    assert orders is not None
    assert [(i.incarnation, i.role) for i in orders.changes.vms] == [(2, Role.RUN)]
    assert "vm.stale_copy_found" not in await bench.names()


async def test_a_vm_started_after_the_backup_is_taken_over_as_it_is(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster, memory_bytes=GIB))
    await restore(bench)

    await tell(agent, running(vm, 3))

    assert state(bench, vm).status is VmStatus.UP
    assert state(bench, vm).may_run_on == (agent.host,)
    # What lies between was given out by the log that is lost: nobody here may judge it.
    await agent.report(running(vm, 2), running(vm, 3))
    assert state(bench, vm).stale_copies == ()
    # And it ends as any other.
    await agent.report(absent(vm, 3, reason=DownReason.GUEST))
    assert state(bench, vm).status is VmStatus.DOWN


async def test_a_vm_that_the_log_does_not_know_is_shown_and_left_alone(bench: Bench) -> None:
    agent = await bench.agent()
    await restore(bench)
    head = await bench.log.head()

    await tell(agent, running("created-later", 2))

    assert (await bench.names())[head:] == [
        "host.session_started",
        "host.unmanaged_domains_found",
        "host.state_confirmed",
    ]
    unmanaged = bench.engine.view.hosts[agent.host].unmanaged
    assert unmanaged == ("created-later (incarnation 2)",)


async def test_a_start_waits_for_the_hosts_that_may_run_the_vm(bench: Bench) -> None:
    first, second = await bench.agent("host1"), await bench.agent("host2")
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster, memory_bytes=GIB))
    await restore(bench)
    await tell(first)

    await bench.do(StartVm(id=vm))
    operation = bench.operation
    await bench.settle()

    assert operation is not None
    assert state(bench, vm).run is None
    assert "host2 has not reported" in await operation_reason(bench, operation)

    await tell(second)
    await bench.settle()

    run = state(bench, vm).run
    assert run is not None
    assert run.incarnation == FLOOR  # beyond all that may have been given out


async def test_a_start_that_waits_ends_when_the_vm_turns_out_to_run(bench: Bench) -> None:
    first, second = await bench.agent("host1"), await bench.agent("host2")
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster, memory_bytes=GIB))
    await restore(bench)
    await tell(first)
    await bench.do(StartVm(id=vm))
    await bench.settle()

    await tell(second, running(vm, 1))
    await bench.settle()

    run = state(bench, vm).run
    assert run is not None
    assert (run.host, run.incarnation) == (second.host, 1)
    assert (await bench.names()).count("vm.placed") == 0


@pytest.mark.parametrize("off", [False, True])
async def test_an_admins_word_ends_the_wait(bench: Bench, off: bool) -> None:  # noqa: FBT001
    agent, lost = await bench.agent("host1"), await bench.agent("host2")
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster, memory_bytes=GIB))
    await restore(bench)
    await tell(agent)
    await bench.do(StartVm(id=vm))
    await bench.settle()
    word = ConfirmHostOff if off else ConfirmHostState
    with pytest.raises(InvalidField):
        await bench.do(word(id=lost.host, name="host1"))

    await bench.do(word(id=lost.host, name="host2"))
    await bench.settle()

    run = state(bench, vm).run
    assert run is not None
    assert run.host == agent.host
    with pytest.raises(WrongState):
        await bench.do(ConfirmHostState(id=agent.host, name="host1"))


async def test_what_might_harm_a_run_that_is_not_known_is_refused(bench: Bench) -> None:
    agent = await bench.agent()
    disks = (DiskInput(size_bytes=GIB),)
    vm = await bench.do(CreateVm(name="db01", cluster=bench.cluster, disks=disks))
    await bench.settle()
    job = state(bench, vm).jobs[0].job
    await agent.report(done(job.id, vm))
    await bench.settle()
    assert state(bench, vm).status is VmStatus.DOWN
    await restore(bench)
    for command in (StartVm(id=vm), RemoveVm(id=vm)):
        with pytest.raises(WrongState, match="has not told whether it runs there"):
            await bench.do(command)

    await tell(agent, running(vm, 1))

    assert state(bench, vm).status is VmStatus.UP


async def test_an_order_about_a_run_from_before_is_taken_back(bench: Bench) -> None:
    """given a reboot ordered right before the backup, then the guest is not reset days later"""
    agent = await bench.agent()
    vm = await run_vm(bench, agent)
    await bench.do(RebootVm(id=vm))
    operation = bench.operation
    await bench.settle()
    assert len(state(bench, vm).jobs) == 1
    assert operation is not None

    await restore(bench)
    await tell(agent, running(vm))
    await bench.settle()

    assert state(bench, vm).jobs == ()
    assert state(bench, vm).status is VmStatus.UP
    assert "taken back" in await operation_reason(bench, operation)
    orders = await agent.changes()
    assert orders is not None
    assert orders.changes.jobs == ()


async def test_a_start_from_before_is_never_carried_out(bench: Bench) -> None:
    """given a VM placed right before the backup, then the host is asked, not ordered to start"""
    agent = await bench.agent()
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster, memory_bytes=GIB))
    await bench.do(StartVm(id=vm))
    await bench.settle()
    await restore(bench)
    bench.clock.pass_time(3_600)
    await bench.settle()
    assert "vm.start_withdrawn" not in await bench.names()  # though its time is up

    await tell(agent)

    orders = await agent.changes()
    assert orders is not None
    (item,) = orders.changes.vms
    assert (item.incarnation, item.role, item.started) == (1, Role.RUN, True)


async def test_a_start_from_before_that_was_carried_out_goes_on(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster, memory_bytes=GIB))
    await bench.do(StartVm(id=vm))
    await bench.settle()
    await restore(bench)
    bench.clock.pass_time(3_600)
    await bench.settle()

    await tell(agent, running(vm))
    await bench.settle()

    assert state(bench, vm).status is VmStatus.UP
    assert "vm.start_withdrawn" not in await bench.names()


@pytest.mark.parametrize("source_first", [True, False])
async def test_a_vm_that_moved_is_found_where_it_is(
    bench: Bench,
    source_first: bool,  # noqa: FBT001
) -> None:
    """given a migration after the backup, when either host reports first, then no copy is lost"""
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm = await run_vm(bench, source)
    await restore(bench)

    if source_first:
        await tell(source)
        # It is not asked about what it did not mention: its "absent" would end the run.
        orders = await source.changes()
        assert orders is None or orders.changes.vms == ()
    await tell(destination, running(vm))
    await tell(source)
    await bench.settle()

    run = state(bench, vm).run
    assert run is not None
    assert (run.host, run.incarnation) == (destination.host, 1)
    assert state(bench, vm).may_run_on == (destination.host,)
    assert state(bench, vm).stale_copies == ()


async def test_a_vm_that_is_nowhere_is_down_once_all_have_told(bench: Bench) -> None:
    first, second = await bench.agent("host1"), await bench.agent("host2")
    vm = await run_vm(bench, first)
    await restore(bench)
    await tell(first)
    assert state(bench, vm).status is VmStatus.UP  # as it was last known

    await tell(second)
    orders = await first.changes()
    assert orders is not None
    assert [(i.vm, i.role, i.started) for i in orders.changes.vms] == [(vm, Role.RUN, True)]
    await first.report(absent(vm, reason=DownReason.GUEST))

    assert state(bench, vm).status is VmStatus.DOWN


async def test_what_one_engine_withheld_another_tells(bench: Bench) -> None:
    first, second = await bench.agent("host1"), await bench.agent("host2")
    vm = await run_vm(bench, first)
    await restore(bench)
    await tell(first)
    other = bench.new_engine()
    await bench.show(other)
    told = other.view.position

    await tell(second)
    await bench.show(other)
    first.engine = other

    orders = await first.changes(after=told)
    assert orders is not None
    assert [item.vm for item in orders.changes.vms] == [vm]


async def test_a_host_that_mentions_its_runs_is_asked_about_them_at_once(bench: Bench) -> None:
    first, _second = await bench.agent("host1"), await bench.agent("host2")
    vm = await run_vm(bench, first)
    await restore(bench)

    await tell(first, running(vm))

    orders = await first.changes()
    assert orders is not None
    assert [item.vm for item in orders.changes.vms] == [vm]


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_migration_under_way_is_not_undone_blindly(
    bench: Bench,
    arrived: bool,  # noqa: FBT001
) -> None:
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm = await run_vm(bench, source)
    await bench.do(MigrateVm(id=vm))
    await bench.settle()
    assert state(bench, vm).migration is not None
    await restore(bench)
    await bench.settle()
    assert "vm.migration_failed" not in await bench.names()

    await tell(destination, *((running(vm),) if arrived else ()))
    await tell(source, *(() if arrived else (running(vm),)))
    await bench.settle()
    if arrived:
        await source.report(absent(vm, reason=DownReason.MIGRATED))
    else:
        await destination.report(absent(vm))
    await bench.settle()

    run = state(bench, vm).run
    assert run is not None
    assert run.host == (destination if arrived else source).host
    assert state(bench, vm).status is VmStatus.UP
    assert state(bench, vm).may_run_on == (run.host,)
    assert "vm.stale_copy_found" not in await bench.names()


async def test_a_run_the_log_knows_to_be_over_is_a_stale_copy_as_ever(bench: Bench) -> None:
    first, second = await bench.agent("host1"), await bench.agent("host2")
    vm = await run_vm(bench, first)
    await first.report(absent(vm, reason=DownReason.GUEST))
    await bench.do(StartVm(id=vm))
    await bench.settle()
    await first.report(running(vm, 2))
    await restore(bench)
    await tell(first, running(vm, 2))

    await tell(second, running(vm, 1))

    assert state(bench, vm).stale_copies == ((second.host, 1),)
    assert state(bench, vm).status is VmStatus.UP


async def test_a_second_copy_that_nobody_can_judge_is_left_to_an_admin(bench: Bench) -> None:
    """given a host that runs the VM by its own word, when another runs a newer one, then neither
    is touched
    """
    first, second = await bench.agent("host1"), await bench.agent("host2")
    vm = await run_vm(bench, first)
    await restore(bench)
    await tell(first, running(vm))

    await tell(second, running(vm, 2))

    run = state(bench, vm).run
    assert run is not None
    assert (run.host, run.incarnation) == (first.host, 1)
    assert state(bench, vm).stale_copies == ()
    assert bench.engine.view.hosts[second.host].unmanaged == (f"{vm} (incarnation 2)",)
