"""High availability: attempts that follow each other, and hosts that shut down."""

from __future__ import annotations

import pytest

from commands.kernel.refusal import WrongState
from commands.operation.cancel import CancelOperation
from commands.state.vm import VmStatus
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from events.types.operation import Outcome
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
from tests.unit.policies.puppet import play_on
from tests.unit.policies.stage import GIB, Stage, running


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.open(2)
    return stage


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


@pytest.mark.parametrize("failing", [set(), {"start"}])
async def test_a_start_by_hand_takes_the_place_of_a_restart_that_waits(
    stage: Stage, failing: set[str]
) -> None:
    """given a restart that backs off, when an admin starts the VM, then it starts now, once"""
    vm = await make(stage)
    await start(stage, vm)
    await fall(stage, vm)
    await play_on(stage, failing={"start"})
    (waiting,) = [one for one in await restarts(stage) if one.open]
    assert "restart" in waiting.timers

    await stage.do(StartVm(id=vm))
    by_hand = stage.operation
    with pytest.raises(WrongState, match="cannot be started"):
        await stage.do(StartVm(id=vm))
    await play_on(stage, failing=failing)

    assert (await stage.op(waiting.id)).outcome is Outcome.CANCELLED
    assert "by hand" in (await stage.op(waiting.id)).reason
    state = await stage.vm(vm)
    left = [one for one in await restarts(stage) if one.open]
    if not failing:
        assert (state.status, left) == (VmStatus.UP, [])
        await fall(stage, vm)
        await stage.pass_time(1_800)
    else:  # high availability goes on with it
        assert (await stage.op(by_hand)).outcome is Outcome.FAILED
        assert len(left) == 1
        await stage.pass_time(RULES.short_interval_s)
    await play_on(stage)
    assert (await stage.vm(vm)).status is VmStatus.UP


async def test_a_start_by_hand_ends_a_restart_that_waits_for_room_and_says_why_not(
    stage: Stage,
) -> None:
    vm = await make(stage, memory_bytes=12 * GIB)
    other = await make(stage, "other", priority=0, memory_bytes=12 * GIB)
    await start(stage, vm, other)
    host = await host_of(stage, vm)
    await confirm_off(stage, host)
    (waiting,) = await restarts(stage, vm)
    assert waiting.attention

    await stage.do(StartVm(id=vm))
    by_hand = stage.operation
    await stage.settle()

    assert (await stage.op(waiting.id)).outcome is Outcome.CANCELLED
    assert (await stage.op(by_hand)).outcome is Outcome.FAILED
    (again,) = [one for one in await restarts(stage, vm) if one.open]
    await stage.hello(host, boot="the next")
    await stage.pass_time(RULES.short_interval_s)
    await play_on(stage)
    assert (await stage.op(again.id)).outcome is Outcome.SUCCEEDED


async def test_a_restart_that_is_at_work_on_a_host_is_not_taken_over(stage: Stage) -> None:
    vm = await make(stage)
    await start(stage, vm)
    await fall(stage, vm)
    assert (await stage.vm(vm)).run is not None
    with pytest.raises(WrongState):
        await stage.do(StartVm(id=vm))


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
