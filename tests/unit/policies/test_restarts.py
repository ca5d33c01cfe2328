"""High availability and starting with the host: who is started again, when, where, in order."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from commands.host.confirm_off import ConfirmHostOff
from commands.kernel.refusal import Refusal
from commands.operation.cancel import CancelOperation
from commands.policies.saga import RestartRules
from commands.policies.vm_restart import KINDS, told
from commands.scheduler.need import Choice
from commands.state.availability_input import HighAvailabilityInput, StartWithHostInput
from commands.state.host import HOST
from commands.state.operation import OperationState, StepState
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm
from commands.vm.high_availability import SetHighAvailability
from commands.vm.shutdown import ShutDownVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from events.types.host import HostCapabilitiesReported, HostSessionStarted
from events.types.operation import Outcome, Verdict
from events.types.vm import DownReason
from events.types.vm_availability import RestartCause, VmRestartDecided
from tests.unit.policies.puppet import hosts_of, operations, play_on
from tests.unit.policies.stage import CAPABILITIES, GIB, Stage, absent, running

RULES = RestartRules()
FELL = (DownReason.CRASHED, DownReason.HOST_SHUTDOWN, DownReason.HOST_LOST)


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.open(2)
    return stage


async def make(stage: Stage, name: str = "web01", priority: int = 1, **more: object) -> str:
    """A VM that is highly available, and down."""
    available = HighAvailabilityInput(priority=priority) if priority else None
    return await stage.do(
        CreateVm(name=name, cluster=stage.cluster, high_availability=available, **more)  # type: ignore[arg-type]
    )


async def start(stage: Stage, *vms: str) -> None:
    for vm in vms:
        await stage.do(StartVm(id=vm))
        await play_on(stage)
        assert (await stage.vm(vm)).status is VmStatus.UP


async def host_of(stage: Stage, vm: str) -> str:
    run = (await stage.vm(vm)).run
    assert run is not None
    return run.host


async def fall(stage: Stage, vm: str, reason: DownReason = DownReason.CRASHED) -> None:
    state = await stage.vm(vm)
    assert state.run is not None
    item = absent(vm, state.run.incarnation, reason=reason)
    await stage.report(state.run.host, item)


async def restarts(stage: Stage, vm: str | None = None) -> list[OperationState]:
    return [
        operation
        for operation in (await operations(stage)).values()
        if operation.kind in KINDS.values() and (vm is None or operation.target_id == vm)
    ]


async def decided(stage: Stage) -> list[VmRestartDecided]:
    return [r.event for r in await stage.history() if isinstance(r.event, VmRestartDecided)]


async def confirm_off(stage: Stage, *hosts: str) -> None:
    for host in hosts:
        await stage.silence(host)
    for host in hosts:
        await stage.do(ConfirmHostOff(id=host, name=(await stage.host(host)).name))
    await stage.settle()


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
    assert "non responsive" in waiting.attention
    assert "MiB of memory free" in waiting.attention
    head = await stage.log.head()
    await stage.pass_time(10_000)
    assert (await stage.log.head()) == head, "waiting costs nothing"

    await stage.do(StopVm(id=other))
    await play_on(stage, mute={host})
    assert (await stage.vm(big)).status is VmStatus.UP
    assert await host_of(stage, big) == left


async def test_what_it_says_is_brought_up_to_date(stage: Stage) -> None:
    first, second = await hosts_of(stage)
    vm = await make(stage, memory_bytes=12 * GIB)
    await start(stage, vm)
    await confirm_off(stage, first, second)
    (waiting,) = await restarts(stage)
    assert waiting.attention
    assert "2 hosts, such as host1: The host is non responsive." in waiting.attention

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


# ------------------------------------------------------------------------------ again and again


async def test_what_falls_again_and_again_is_tried_less_and_less(stage: Stage) -> None:
    vm = await make(stage)
    await start(stage, vm)
    gaps = []
    for _fall in range(13):
        fell = stage.now
        await fall(stage, vm)
        while (await stage.vm(vm)).status is not VmStatus.POWERING_UP:
            (restart,) = [one for one in await restarts(stage, vm) if one.open]
            if restart.timers.get("restart") is not None:
                wait = restart.timers["restart"] - stage.now
                await stage.pass_time(wait.total_seconds())
            run = (await stage.vm(vm)).run
            assert run is not None
            await stage.report(run.host, running(vm, run.incarnation, up=False))
        gaps.append((stage.now - fell).total_seconds())
    assert gaps == [0, *[30] * 9, 1_800, 1_800, 1_800]
    slowed = [event.attempt for event in await decided(stage) if event.slowed]
    assert slowed == [11]


async def test_a_run_that_was_well_for_a_while_is_forgiven(stage: Stage) -> None:
    vm = await make(stage)
    await start(stage, vm)
    for up_s in (10, RULES.well_s - 1, RULES.well_s):
        await stage.pass_time(up_s)
        await fall(stage, vm)
        await stage.pass_time(30)
        await play_on(stage)
    assert [event.attempt for event in await decided(stage)] == [1, 2, 1]


async def test_a_restart_that_fails_on_all_hosts_is_tried_again_later(stage: Stage) -> None:
    vm = await make(stage)
    await start(stage, vm)
    await fall(stage, vm)
    await play_on(stage, failing={"start"})

    first, second = sorted(await restarts(stage), key=lambda one: one.started_at)
    assert first.outcome is Outcome.FAILED
    assert second.open
    assert (await stage.vm(vm)).status is VmStatus.WAITING_FOR_LAUNCH
    await stage.pass_time(30)
    await play_on(stage)
    assert (await stage.vm(vm)).status is VmStatus.UP
    assert [event.attempt for event in await decided(stage)] == [1, 2]


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_calling_a_restart_off_ends_it_for_good(stage: Stage, how: str) -> None:
    vm = await make(stage)
    await start(stage, vm)
    await fall(stage, vm)
    await play_on(stage, failing={"start"})
    (waiting,) = [one for one in await restarts(stage) if one.open]

    await stage.do(StopVm(id=vm) if how == "stop" else CancelOperation(id=waiting.id))
    await play_on(stage)
    await stage.pass_time(3_600)

    assert (await stage.vm(vm)).status is VmStatus.DOWN
    assert [one for one in await restarts(stage) if one.open] == []
    await start(stage, vm)  # by hand it starts, and is looked after again
    await fall(stage, vm)
    await stage.pass_time(3_600)
    await play_on(stage)
    assert (await stage.vm(vm)).status is VmStatus.UP


async def test_a_host_that_shuts_down_is_not_given_its_vm_again(stage: Stage) -> None:
    vm = await make(stage, memory_bytes=12 * GIB)
    other = await make(stage, "other", priority=0, memory_bytes=12 * GIB)
    await start(stage, vm, other)
    host = await host_of(stage, vm)

    await fall(stage, vm, DownReason.HOST_SHUTDOWN)
    (waiting,) = await restarts(stage)
    assert waiting.attention
    assert "shutting down" in waiting.attention
    await stage.silence(host)
    await stage.hello(host, boot="the next")
    await play_on(stage)
    assert await host_of(stage, vm) == host


async def test_a_host_that_did_not_go_down_after_all_is_given_it_again(stage: Stage) -> None:
    vm = await make(stage, memory_bytes=12 * GIB)
    other = await make(stage, "other", priority=0, memory_bytes=12 * GIB)
    await start(stage, vm, other)
    host = await host_of(stage, vm)
    await fall(stage, vm, DownReason.HOST_SHUTDOWN)
    await stage.pass_time(RULES.shutting_down_s - 1)
    assert (await stage.vm(vm)).run is None
    await stage.pass_time(1)
    assert await host_of(stage, vm) == host


# ------------------------------------------------------------------------------ with its host


async def with_host(stage: Stage, name: str = "web01", **how: object) -> str:
    wanted = StartWithHostInput(**how)  # type: ignore[arg-type]
    return await make(stage, name, priority=0, start_with_host=wanted, memory_bytes=GIB)


async def reboot(stage: Stage, host: str, boot: str = "the next") -> None:
    """A host is gone and comes back; what ran there is lost."""
    lost = [
        absent(vm.vm, vm.incarnation, reason=DownReason.HOST_LOST)
        for vm in (await stage.intent(host)).vms
    ]
    await stage.hello(host, boot=boot)
    await stage.report(host, *lost)


async def test_a_vm_starts_with_its_host_after_its_delay_by_priority(stage: Stage) -> None:
    late = await with_host(stage, "late", delay_s=60.0)
    low = await with_host(stage, "low", priority=1)
    high = await with_host(stage, "high", priority=9)
    plain = await make(stage, "plain", priority=0)
    await start(stage, late, low, high, plain)
    hosts = await hosts_of(stage)
    homes = {vm: await host_of(stage, vm) for vm in (late, low, high)}
    head = await stage.log.head()

    for host in hosts:
        await reboot(stage, host)
    await play_on(stage)
    assert (await stage.vm(late)).status is VmStatus.DOWN
    await stage.pass_time(60)
    await play_on(stage)

    for vm, home in homes.items():
        assert await host_of(stage, vm) == home
    assert (await stage.vm(plain)).status is VmStatus.DOWN
    placed = [r.object_id for r in (await stage.history())[head:] if r.name == "vm.placed"]
    assert placed[-1] == late
    causes = {event.cause for event in await decided(stage)}
    assert causes == {RestartCause.START_WITH_HOST}
    for host in hosts:  # the same boot starts nothing a second time
        await stage.silence(host)
        await stage.hello(host)
    for vm in homes:
        await fall(stage, vm, DownReason.GUEST)
    await stage.pass_time(3_600)
    assert [(await stage.vm(vm)).status for vm in homes] == [VmStatus.DOWN] * 3


async def test_one_that_an_admin_stopped_does_not_start_with_its_host(stage: Stage) -> None:
    stopped, guest = await with_host(stage, "stopped"), await with_host(stage, "guest")
    await start(stage, stopped, guest)
    hosts = await hosts_of(stage)
    await stage.do(StopVm(id=stopped))
    await play_on(stage)
    await fall(stage, guest, DownReason.GUEST)

    for host in hosts:
        await reboot(stage, host)
    await play_on(stage)

    assert (await stage.vm(stopped)).status is VmStatus.DOWN
    assert (await stage.vm(guest)).status is VmStatus.UP


async def test_it_does_not_start_because_it_was_asked_to_start_with_its_host(
    stage: Stage,
) -> None:
    vm = await with_host(stage)
    await stage.pass_time(3_600)
    assert (await stage.vm(vm)).status is VmStatus.DOWN
    assert await restarts(stage) == []


async def test_after_a_power_loss_everything_comes_back_unfenced_by_priority() -> None:
    stage = Stage()
    hosts = await stage.open(3)
    vms = [
        await make(stage, f"vm{number:02}", priority=1 + number % 4, memory_bytes=GIB // 4)
        for number in range(20)
    ]
    await start(stage, *vms)
    for host in hosts:
        await stage.silence(host)
    head = await stage.log.head()
    for host in hosts:
        await reboot(stage, host)
        assert max(stage.runner._facts.starting.values()) <= RULES.starts_per_host
    await play_on(stage)
    assert {(await stage.vm(vm)).status for vm in vms} == {VmStatus.UP}
    assert "host.confirmed_off" not in await stage.names()
    placed = [r.object_id for r in (await stage.history())[head:] if r.name == "vm.placed"]
    assert sorted(placed) == sorted(vms)
