"""What agents say, and what follows from it: differences only, once, and never about others."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from commands.host.confirm_off import ConfirmHostOff
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm
from commands.vm.remove import RemoveVm
from commands.vm.resume import ResumeVm
from commands.vm.shutdown import ShutDownVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from commands.vm.suspend import SuspendVm
from events.log.port import Append, Outcome, UnavailableError
from events.types.vm import DownReason, PauseReason
from events.wire.agent import (
    REPORT_ITEMS_MAX,
    CapabilitiesItem,
    FullStateItem,
    JobItem,
    JobState,
    Role,
    VmStateItem,
)
from events.wire.agent import VmState as Reported
from tests.unit.gateway.bench import Agent, Bench
from tests.unit.gateway.test_orders import started
from tests.unit.gateway.test_sessions import silence
from tests.unit.policies.stage import CAPABILITIES, absent, done, running


async def placed(bench: Bench, name: str = "web01") -> str:
    vm = await bench.do(CreateVm(name=name, cluster=bench.cluster))
    await bench.do(StartVm(id=vm))
    await bench.settle()
    return vm


def status(bench: Bench, vm: str) -> VmStatus:
    return bench.engine.view.vms[vm].status


async def test_what_is_known_already_is_no_event(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await started(bench, agent)
    head = await bench.log.head()
    ack = await agent.report(
        running(vm), FullStateItem(vms=(running(vm),)), CapabilitiesItem(capabilities=CAPABILITIES)
    )
    assert await bench.log.head() == head
    assert ack.position == head


async def test_a_report_sent_again_is_answered_again_and_changes_nothing(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await placed(bench)
    report = agent.next_report(running(vm))
    first = await agent.send(report)
    names = await bench.names()
    again = await agent.send(report)
    assert (first.status, again.status) == (200, 200)
    assert await bench.names() == names


async def test_a_report_that_was_taken_in_part_is_completed_by_its_repeat(bench: Bench) -> None:
    """given a log that fails at the second item, when the agent repeats, then both count once"""
    agent = await bench.agent()
    vms = [await placed(bench, f"vm{n}") for n in range(3)]
    report = agent.next_report(*(running(vm) for vm in vms))
    original = bench.log.append
    appended = 0

    async def failing(append: Append) -> Outcome:
        nonlocal appended
        appended += 1
        if appended > 1:
            raise UnavailableError("the database went away")
        return await original(append)

    bench.log.append = failing  # type: ignore[method-assign]
    assert (await agent.send(report)).status == 503
    bench.log.append = original  # type: ignore[method-assign]
    assert (await bench.names()).count("vm.started") == 1
    assert (await agent.send(report)).status == 200
    assert (await bench.names()).count("vm.started") == 3
    assert (await bench.names()).count("vm.up") == 3


async def test_a_late_repeat_of_an_older_report_is_refused(bench: Bench) -> None:
    """given "running" sent twice and "absent" after it, when the repeat comes last, then nothing"""
    agent = await bench.agent()
    vm = await started(bench, agent)
    late = agent.next_report(running(vm))
    assert (await agent.send(late)).status == 200
    await agent.report(absent(vm, reason=DownReason.GUEST))
    names = await bench.names()
    assert (await agent.send(late)).status == 409
    assert await bench.names() == names
    assert "vm.stale_copy_found" not in names


async def test_a_copy_that_another_engine_finds_late_is_refused_by_the_next_hello(
    bench: Bench,
) -> None:
    """given a report sent to two engines, then what the first found late is not taken for new"""
    agent = await bench.agent()
    vm = await started(bench, agent)
    first, second = bench.engine, bench.new_engine()
    following = asyncio.create_task(second.follow())
    agent.engine = second
    copy = agent.next_report(running(vm))
    assert (await agent.send(copy)).status == 200  # nothing new: no key remembers it

    assert (await agent.say_hello()).status == 200  # as agents do after an answer that was lost
    await agent.report(
        VmStateItem(vm=vm, incarnation=1, state=Reported.PAUSED, pause_reason=PauseReason.NO_SPACE)
    )
    names = await bench.names()
    agent.engine = first
    assert (await agent.send(copy)).problem == "session-over"
    assert await bench.names() == names
    await bench.seen()
    assert status(bench, vm) is VmStatus.PAUSED
    following.cancel()


async def test_reports_of_one_host_are_taken_in_one_after_the_other(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await placed(bench)
    first = agent.next_report(running(vm))
    second = agent.next_report(absent(vm, reason=DownReason.CRASHED))
    answers = await asyncio.gather(agent.send(first), agent.send(second))
    assert [answer.status for answer in answers] == [200, 200]
    names = await bench.names()
    assert names.index("vm.started") < names.index("vm.down")
    assert "vm.stale_copy_found" not in names


async def test_items_about_one_vm_count_in_their_order(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await placed(bench)
    paused = VmStateItem(
        vm=vm, incarnation=1, state=Reported.PAUSED, pause_reason=PauseReason.NO_SPACE
    )
    head = await bench.log.head()
    await agent.report(
        running(vm, up=False), running(vm), paused, running(vm), absent(vm, reason=DownReason.GUEST)
    )
    mine = [n for n in await bench.names(head) if n.startswith("vm.")]
    assert mine == ["vm.started", "vm.up", "vm.paused", "vm.continued", "vm.down"]


async def test_a_host_cannot_speak_for_anothers_vm(bench: Bench) -> None:
    agent, other = await bench.agent("host1"), await bench.agent("host2")
    vm = await started(bench, agent)
    await bench.do(ShutDownVm(id=vm))
    await bench.settle()
    (job,) = bench.engine.view.intent(agent.host).jobs
    await other.report(
        absent(vm, reason=DownReason.GUEST),
        done(job.id, vm),
        JobItem(job=job.id, vm=vm, state=JobState.FAILED, reason="evil"),
        JobItem(job=job.id, vm=vm, state=JobState.RUNNING, percent=50),
        FullStateItem(),
    )
    state = bench.engine.view.vms[vm]
    assert state.may_run_on == (agent.host,)
    assert len(state.jobs) == 1
    assert "operation.progressed" not in await bench.names()


async def test_a_copy_on_another_host_is_destroyed_and_the_vm_untouched(bench: Bench) -> None:
    agent, other = await bench.agent("host1"), await bench.agent("host2")
    vm = await started(bench, agent)
    before = bench.engine.view.vms[vm]
    await other.report(running(vm))
    await other.report(running(vm))
    assert (await bench.names()).count("vm.stale_copy_found") == 1
    orders = await other.changes()
    assert orders is not None
    assert [(i.role, i.incarnation) for i in orders.changes.vms] == [(Role.ABSENT, 1)]
    after = bench.engine.view.vms[vm]
    assert (after.status, after.run, after.may_run_on) == (
        before.status,
        before.run,
        before.may_run_on,
    )
    await other.report(absent(vm))
    assert bench.engine.view.intent(other.host).vms == ()
    assert status(bench, vm) is VmStatus.UP


async def test_an_older_incarnation_on_the_vms_own_host_is_destroyed(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await started(bench, agent)
    await agent.report(absent(vm, 1, reason=DownReason.GUEST))
    await bench.do(StartVm(id=vm))
    await bench.settle()
    await agent.report(running(vm, 2), running(vm, 1))
    roles = [(i.incarnation, i.role) for i in bench.engine.view.intent(agent.host).vms]
    assert sorted(roles) == [(1, Role.ABSENT), (2, Role.RUN)]
    await agent.report(absent(vm, 1))
    assert status(bench, vm) is VmStatus.UP


async def test_a_copy_of_a_removed_vm_is_destroyed_when_it_turns_up(bench: Bench) -> None:
    """given a host wrongly confirmed off, and its VM removed, when it returns with it, then away"""
    agent = await bench.agent()
    vm = await started(bench, agent)
    await silence(bench, agent.host)
    await bench.do(ConfirmHostOff(id=agent.host, name="host1"))
    await bench.settle()
    await bench.do(RemoveVm(id=vm))
    await bench.settle()
    assert vm not in bench.engine.view.vms
    await agent.say_hello()
    waiting = asyncio.create_task(agent.poll(5))
    await agent.report(FullStateItem(vms=(running(vm),)))
    assert (await asyncio.wait_for(waiting, 15)).status == 200
    assert [i.role for i in bench.engine.view.intent(agent.host).vms] == [Role.ABSENT]
    await agent.report(absent(vm))
    assert bench.engine.view.intent(agent.host).vms == ()
    assert vm not in bench.engine.view.vms


@pytest.mark.parametrize("incarnation", [2, 7])
async def test_a_copy_that_the_log_never_ordered_is_not_destroyed(
    bench: Bench, incarnation: int
) -> None:
    """given a log older than the host (a restored backup), then what it forgot is left alone"""
    agent = await bench.agent()
    vm = await started(bench, agent)
    head = await bench.log.head()
    await agent.report(running(vm, incarnation), running("no-such-vm"))
    assert await bench.log.head() == head


async def test_a_full_state_that_is_not_known_says_nothing(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await started(bench, agent)
    head = await bench.log.head()
    await agent.report(
        FullStateItem(
            known=False, vms=(absent(vm, reason=DownReason.CRASHED),), unmanaged=("other",)
        )
    )
    assert await bench.log.head() == head
    assert status(bench, vm) is VmStatus.UP


async def test_what_a_full_state_does_not_list_is_not_taken_as_gone(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await started(bench, agent)
    await agent.report(FullStateItem())
    assert status(bench, vm) is VmStatus.UP


async def test_unmanaged_domains_are_told_once_and_left_alone(bench: Bench) -> None:
    agent = await bench.agent()
    for _again in range(2):
        await agent.report(FullStateItem(unmanaged=("windows95",)))
    assert (await bench.names()).count("host.unmanaged_domains_found") == 1
    assert bench.engine.view.hosts[agent.host].unmanaged == ("windows95",)
    assert bench.engine.view.intent(agent.host).vms == ()


async def test_a_clock_that_is_off_alerts_once_in_a_session(bench: Bench) -> None:
    agent = await bench.agent()
    wrong = bench.clock.now + dt.timedelta(seconds=9)
    for _again in range(2):
        assert (await agent.send(agent.next_report(time=wrong))).status == 200
    assert (await bench.names()).count("host.clock_skewed") == 1
    assert (await agent.send(agent.next_report(time=bench.clock.now))).status == 200


async def test_a_report_is_bounded(bench: Bench) -> None:
    agent = await bench.agent()
    items = [running(f"vm{n}") for n in range(REPORT_ITEMS_MAX + 1)]
    assert (await agent.send(agent.next_report(*items))).status == 422


async def test_a_stop_wins_over_what_the_host_still_says(bench: Bench) -> None:
    """given a power-off of a VM that is only being launched, when it turns out to run, then off"""
    agent = await bench.agent()
    vm = await placed(bench)
    await bench.do(StopVm(id=vm))
    await bench.settle()
    await agent.report(running(vm))
    assert status(bench, vm) is VmStatus.POWERING_DOWN
    await agent.report(absent(vm, reason=DownReason.ADMIN))
    await bench.settle()
    assert status(bench, vm) is VmStatus.DOWN
    assert bench.engine.view.vms[vm].may_run_on == ()


async def suspended(bench: Bench, agent: Agent) -> str:
    vm = await started(bench, agent)
    await bench.do(SuspendVm(id=vm))
    await bench.settle()
    (job,) = bench.engine.view.intent(agent.host).jobs
    await agent.report(done(job.id, vm), absent(vm, reason=DownReason.SUSPENDED))
    await bench.settle()
    await bench.do(ResumeVm(id=vm))
    await bench.settle()
    return vm


@pytest.mark.parametrize(
    ("reason", "restored", "kept"),
    [
        (DownReason.START_FAILED, True, True),  # it certainly never ran: the driver said so
        (DownReason.WITHDRAWN, False, True),
        (DownReason.ADMIN, False, True),
        (DownReason.WITHDRAWN, True, False),  # it was begun, and may have run for a moment
        (DownReason.ADMIN, True, False),
        (DownReason.CRASHED, False, False),
        (DownReason.HOST_LOST, False, False),
    ],
)
async def test_a_memory_that_may_have_been_restored_is_never_restored_again(
    bench: Bench,
    reason: DownReason,
    *,
    restored: bool,
    kept: bool,
) -> None:
    agent = await bench.agent()
    vm = await suspended(bench, agent)
    await agent.report(absent(vm, 2, reason=reason, restored=restored))
    assert (bench.engine.view.vms[vm].memory is not None) is kept


async def test_a_session_that_ended_while_a_report_is_taken_in_counts_no_more(
    bench: Bench,
) -> None:
    """given a hello between the look and the append, then the old session's report is refused"""
    agent = await bench.agent()
    vm = await placed(bench)
    old = agent.next_report(running(vm))
    original = bench.log.append
    greeted = False

    async def greeting_first(append: Append) -> Outcome:
        nonlocal greeted
        if not greeted and append.key is not None:
            greeted = True
            assert (await agent.say_hello()).status == 200
        return await original(append)

    bench.log.append = greeting_first  # type: ignore[method-assign]
    answer = await agent.send(old)
    assert greeted
    assert answer.status == 409
    assert answer.problem == "session-over"
    assert "vm.started" not in await bench.names()
