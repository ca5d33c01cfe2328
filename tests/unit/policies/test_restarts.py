"""High availability: who is started again, and in which order."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from commands.host.activate import ActivateHost
from commands.host.confirm_off import ConfirmHostOff
from commands.host.maintenance import MaintainHost
from commands.kernel.refusal import Refusal
from commands.policies.vm_restart import VERDICTS_KEPT_MAX, told
from commands.scheduler.need import Choice
from commands.state.host import HOST
from commands.state.operation import StepState
from commands.state.vm import VmStatus
from commands.vm.high_availability import SetHighAvailability
from commands.vm.migrate import MigrateVm
from commands.vm.shutdown import ShutDownVm
from commands.vm.stop import StopVm
from events.types.host import HostCapabilitiesReported, HostSessionStarted
from events.types.operation import (
    OperationNeedsAttention,
    OperationStepRefused,
    Outcome,
    Verdict,
)
from events.types.vm import DownReason
from tests.unit.policies.available import (
    RULES,
    confirm_off,
    decided,
    fall,
    host_of,
    make,
    restarts,
    start,
)
from tests.unit.policies.puppet import hosts_of, play_on
from tests.unit.policies.stage import CAPABILITIES, GIB, Stage, running

FELL = (DownReason.CRASHED, DownReason.HOST_SHUTDOWN, DownReason.HOST_LOST)


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.open(2)
    return stage


# ------------------------------------------------------------------------------ which ends count


@pytest.mark.parametrize("reason", FELL)
async def test_a_vm_that_fell_runs_again(stage: Stage, reason: DownReason) -> None:
    vm = await make(stage)
    await start(stage, vm)

    await fall(stage, vm, reason)
    await play_on(stage)

    state = await stage.vm(vm)
    assert (state.status, state.incarnation) == (VmStatus.UP, 2)
    (restart,) = await restarts(stage, vm)
    assert restart.outcome is Outcome.SUCCEEDED
    (event,) = await decided(stage)
    assert (event.attempt, event.reason, event.cause) == (1, reason, "high_availability")


@pytest.mark.parametrize("reason", [DownReason.GUEST, DownReason.ADMIN])
async def test_one_that_was_ended_stays_down(stage: Stage, reason: DownReason) -> None:
    vm = await make(stage)
    await start(stage, vm)

    await fall(stage, vm, reason)
    await stage.pass_time(3_600)

    assert (await stage.vm(vm)).status is VmStatus.DOWN
    assert await restarts(stage) == []


async def test_one_that_is_not_highly_available_stays_down(stage: Stage) -> None:
    vm = await make(stage, priority=0)
    await start(stage, vm)
    await fall(stage, vm)
    await stage.pass_time(3_600)
    await stage.do(SetHighAvailability(id=vm))
    await stage.pass_time(3_600)
    assert await restarts(stage) == []


@pytest.mark.parametrize("stop", [StopVm, ShutDownVm])
async def test_a_requested_stop_wins_though_the_host_dies_meanwhile(
    stage: Stage, stop: type[StopVm | ShutDownVm]
) -> None:
    vm = await make(stage)
    await start(stage, vm)

    await stage.do(stop(id=vm))
    stopping = stage.operation
    await confirm_off(stage, await host_of(stage, vm))
    await stage.pass_time(3_600)

    assert (await stage.vm(vm)).status is VmStatus.DOWN
    assert await restarts(stage) == []
    assert (await stage.op(stopping)).outcome is Outcome.SUCCEEDED


async def test_every_order_of_stop_silence_and_proof_comes_to_the_same() -> None:
    """given a stop before the proof, in any order with the silence, then it stays down"""
    for order in itertools.permutations(("stop", "silence", "proof")):
        if order.index("proof") < order.index("silence"):
            continue  # only a host that does not answer can be confirmed off
        stage = Stage()
        await stage.open(2)
        vm = await make(stage)
        await start(stage, vm)
        host = await host_of(stage, vm)
        for step in order:
            if step == "stop":
                try:
                    await stage.do(StopVm(id=vm))
                except Refusal as refusal:
                    assert "does not answer" in refusal.remedy  # noqa: PT017 - told, not silent
            elif step == "silence":
                await stage.silence(host)
            else:
                await stage.do(ConfirmHostOff(id=host, name=(await stage.host(host)).name))
                await stage.settle()
        await play_on(stage, mute={host})
        stopped = (await stage.vm(vm)).availability.stopped
        assert ((await stage.vm(vm)).status is VmStatus.DOWN) is stopped, order
        assert stopped is (order[0] == "stop" or order[-1] == "stop"), order


# ------------------------------------------------------------------------------ proof before all


async def test_nothing_is_started_while_a_host_is_only_silent(stage: Stage) -> None:
    vm = await make(stage)
    await start(stage, vm)
    host = await host_of(stage, vm)

    await stage.silence(host)
    await stage.pass_time(100_000)
    assert await restarts(stage) == []
    await stage.do(ConfirmHostOff(id=host, name=(await stage.host(host)).name))
    await play_on(stage, mute={host})

    state = await stage.vm(vm)
    assert state.status is VmStatus.UP
    assert await host_of(stage, vm) != host
    assert state.may_run_on == (await host_of(stage, vm),)


async def test_a_fall_begins_one_restart_whoever_looks(stage: Stage) -> None:
    vm = await make(stage)
    await start(stage, vm)
    await fall(stage, vm)
    for name in ("second", "third"):
        stage.runner = stage.new_runner(name)
        await stage.runner.begin()
        await stage.settle()
    assert len(await restarts(stage)) == 1
    await play_on(stage)
    assert (await stage.vm(vm)).incarnation == 2


# ------------------------------------------------------------------------------ order and bounds


async def test_the_highest_priority_goes_first_and_a_host_starts_few_at_a_time(
    stage: Stage,
) -> None:
    first, second = await hosts_of(stage)
    names = [f"vm{number:02}" for number in range(10)]
    vms = [
        await make(stage, name, priority=1 + number * 7 % 10, memory_bytes=GIB // 4)
        for number, name in enumerate(names)
    ]
    await start(stage, *vms)
    head = await stage.log.head()
    await confirm_off(stage, first, second)
    waiting = await restarts(stage)
    assert len(waiting) == 10
    assert all(one.attention and "room" not in one.attention for one in waiting)

    await stage.hello(first, boot="another")
    at_once = [r for r in (await stage.history())[head:] if r.name == "vm.placed"]
    assert len(at_once) == RULES.starts_per_host
    turns = [one for one in await restarts(stage) if one.steps["launch"] is StepState.PENDING]
    assert len(turns) == 10 - RULES.starts_per_host
    await play_on(stage, mute={second})

    placed = [r.object_id for r in (await stage.history())[head:] if r.name == "vm.placed"]
    priorities = [(await stage.vm(vm)).availability.priority for vm in placed]
    assert priorities == sorted(priorities, reverse=True)
    assert sorted(placed) == sorted(vms)
    assert [one for one in await restarts(stage) if one.open or one.timers] == []


async def test_of_those_that_fall_together_the_highest_priority_goes_first(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    await stage.do(MaintainHost(id=second))
    vms = [
        await make(stage, f"vm{number}", priority=1 + number * 7 % 10, memory_bytes=GIB)
        for number in range(8)
    ]
    await start(stage, *vms)
    await stage.do(ActivateHost(id=second))
    head = await stage.log.head()

    await confirm_off(stage, first)

    placed = [r.object_id for r in (await stage.history())[head:] if r.name == "vm.placed"]
    priorities = [(await stage.vm(vm)).availability.priority for vm in placed]
    assert priorities == sorted((1 + n * 7 % 10 for n in range(8)), reverse=True)[:4]


async def test_one_that_finds_no_room_says_why_and_goes_on_when_there_is(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    big = await make(stage, "big", priority=50, memory_bytes=12 * GIB)
    other = await make(stage, "other", priority=0, memory_bytes=12 * GIB)
    await start(stage, big, other)
    host, left = await host_of(stage, big), await host_of(stage, other)
    assert {host, left} == {first, second}

    await confirm_off(stage, host)
    (waiting,) = await restarts(stage)
    assert waiting.attention
    assert "host is down" in waiting.attention
    assert "MiB of memory free" in waiting.attention
    head = await stage.log.head()
    await stage.pass_time(10_000)
    assert (await stage.log.head()) == head, "waiting costs nothing"

    await stage.do(StopVm(id=other))
    await play_on(stage, mute={host})
    assert (await stage.vm(big)).status is VmStatus.UP
    assert await host_of(stage, big) == left


async def test_one_that_waits_keeps_few_verdicts_and_says_where_all_are() -> None:
    stage = Stage()
    hosts = await stage.open(VERDICTS_KEPT_MAX + 3)
    vm = await make(stage, memory_bytes=12 * GIB)
    await start(stage, vm)
    own = await host_of(stage, vm)
    small = msgspec.structs.replace(CAPABILITIES, memory_bytes=2 * GIB)
    for host in set(hosts) - {own}:
        await stage.append(HOST.stream(host), HostCapabilitiesReported(capabilities=small))
    await confirm_off(stage, own)
    events = [recorded.event for recorded in await stage.history()]
    (refused,) = (event for event in events if isinstance(event, OperationStepRefused))
    assert (len(refused.verdicts), refused.verdicts_left_out) == (VERDICTS_KEPT_MAX, 3)
    (calls,) = (event for event in events if isinstance(event, OperationNeedsAttention))
    assert "'vm placement' says of each host why not" in calls.remedy


async def test_what_it_says_is_brought_up_to_date(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    vm = await make(stage, memory_bytes=12 * GIB)
    await start(stage, vm)
    await confirm_off(stage, first, second)
    (waiting,) = await restarts(stage)
    assert waiting.attention
    assert "2 hosts, such as host1: The host is down." in waiting.attention

    small = msgspec.structs.replace(CAPABILITIES, memory_bytes=2 * GIB)
    came = HostSessionStarted(name="host1", session="s", boot="another", protocol=1)
    reported = HostCapabilitiesReported(capabilities=small)
    await stage.append(HOST.stream(first), came, reported)
    await stage.pass_time(10)
    assert (await stage.vm(vm)).status is VmStatus.WAITING_FOR_LAUNCH
    (waiting,) = await restarts(stage)
    assert "host1: It has 1792 MiB of memory free, 12288 are needed." in (waiting.attention or "")
    await stage.hello(second, boot="another")
    await play_on(stage)
    assert await host_of(stage, vm) == second


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        (1, "h00: The host is unassigned."),
        (2, "2 hosts, such as h00: The host is unassigned."),
        (19, "at least 10 hosts, such as h00: The host is unassigned."),
        (50, "at least 50 hosts, such as h00: The host is unassigned."),
    ],
)
def test_reasons_are_told_once_with_about_how_many_hosts(hosts: int, said: str) -> None:
    verdicts = [
        Verdict(host=f"{n}", host_name=f"h{n:02}", reasons=("The host is unassigned.", "And more."))
        for n in range(hosts)
    ]
    full = Verdict(host="x", host_name="x", reasons=("It has 5 MiB of memory free, 7 are needed.",))
    assert told(Choice(host=None, verdicts=tuple(verdicts), hosts=hosts)) == said
    both = told(Choice(host=None, verdicts=(*verdicts, full), hosts=hosts + 7))
    assert said in both
    assert "x: It has 5 MiB of memory free, 7 are needed." in both
    assert both.endswith("at least 5 more hosts cannot take it either.")
    assert told(Choice(host=None)) == "The cluster has no host."


# ------------------------------------------------------------------------------ while it moves


async def migrating(stage: Stage) -> tuple[str, str, str]:
    """A highly available VM of which both hosts may have a copy, for it is on its way."""
    vm = await make(stage)
    await start(stage, vm)
    source = await host_of(stage, vm)
    await stage.do(MigrateVm(id=vm))
    await stage.settle()
    (destination,) = [host for host in (await stage.vm(vm)).may_run_on if host != source]
    return vm, source, destination


@pytest.mark.parametrize("first", ["source", "destination"])
async def test_both_hosts_of_a_migration_must_be_proved_off(stage: Stage, first: str) -> None:
    third = await stage.add_host("host3")
    vm, source, destination = await migrating(stage)
    proved = source if first == "source" else destination
    other = destination if first == "source" else source
    for host in (source, destination):
        await stage.silence(host)

    await stage.do(ConfirmHostOff(id=proved, name=(await stage.host(proved)).name))
    await stage.pass_time(10_000)
    assert await restarts(stage) == []
    assert (await stage.vm(vm)).may_run_on == (other,)
    await stage.do(ConfirmHostOff(id=other, name=(await stage.host(other)).name))
    await play_on(stage, mute={source, destination})

    assert (await stage.vm(vm)).status is VmStatus.UP
    assert (await stage.vm(vm)).may_run_on == (third,)


async def test_a_source_that_is_proved_off_leaves_the_vm_to_its_destination(stage: Stage) -> None:
    vm, source, destination = await migrating(stage)
    await stage.report(destination, running(vm))
    await confirm_off(stage, source)
    await stage.report(destination, running(vm))
    assert await restarts(stage) == []
    assert await host_of(stage, vm) == destination
    assert (await stage.vm(vm)).may_run_on == (destination,)
