"""A VM of which a migration in post-copy left one half only: its run is over, and none before.

The other half is dropped by order, once the first is gone for certain. Then the VM is down, with
the cause, and starts again if it is highly available.
"""

from __future__ import annotations

import pytest

from commands.host.confirm_off import ConfirmHostOff
from commands.state.availability_input import HighAvailabilityInput
from commands.state.vm import VmStatus
from commands.vm.stop import StopVm
from events.types.migration import Held
from events.types.operation import Outcome
from events.types.vm import DownReason
from events.types.vm_migration import VmMigrationLost
from events.wire.agent import IntentVm, Role, VmStateItem
from events.wire.agent import VmState as Reported
from tests.unit.policies.available import restarts
from tests.unit.policies.puppet import play_on
from tests.unit.policies.stage import Stage, absent, running
from tests.unit.policies.test_migrations import asked, attention_of, half_at, held, started, where

AVAILABLE = HighAvailabilityInput(priority=50)


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.open(hosts=3)
    return stage


async def item_of(stage: Stage, host: str, vm: str) -> IntentVm:
    """Return what a host is to do with a VM."""
    (item,) = [item for item in (await stage.intent(host)).vms if item.vm == vm]
    return item


async def prove_off(stage: Stage, host: str) -> None:
    await stage.silence(host)
    await stage.do(ConfirmHostOff(id=host, name=(await stage.host(host)).name))
    await stage.settle()


async def halves(stage: Stage, **more: object) -> tuple[str, str, str, str]:
    """Return a VM whose post-copy broke off, its migration, source and destination."""
    vm = await started(stage, "web", **more)
    operation, source = await asked(stage, vm), await where(stage, vm)
    destination = (await stage.vm(vm)).may_run_on[-1]
    await held(stage, vm, Held.POST_COPY)
    await half_at(stage, vm, destination)
    return vm, operation, source, destination


async def is_down(stage: Stage, vm: str, operation: str, reason: DownReason) -> None:
    """Check that a VM is down, why, and that nothing of it is left anywhere."""
    state, ended = await stage.vm(vm), await stage.op(operation)
    assert (state.status, state.run, state.migration) == (VmStatus.DOWN, None, None)
    assert (state.may_run_on, state.stale_copies, state.jobs) == ((), (), ())
    assert state.ending is not None
    assert state.ending.reason is reason
    assert "broke off in post-copy" in state.ending.detail
    assert ended.outcome is Outcome.FAILED
    assert "went down" in ended.reason
    assert "broke off in post-copy" in ended.reason


@pytest.mark.parametrize("how", ["proved off", "says so"])
async def test_where_the_source_is_lost_the_destination_drops_its_half(
    stage: Stage, how: str
) -> None:
    vm, operation, source, destination = await halves(stage)

    if how == "proved off":
        await prove_off(stage, source)
    else:
        await stage.report(source, absent(vm, 1, reason=DownReason.HOST_LOST))

    item = await item_of(stage, destination, vm)
    assert (item.role, item.only_half) == (Role.ABSENT, True)
    state = await stage.vm(vm)
    assert state.status is VmStatus.MIGRATING
    assert state.may_run_on == (destination,), "until it says so, it may be there"
    await stage.report(destination, absent(vm, 1, reason=item.reason))
    await is_down(stage, vm, operation, DownReason.HOST_LOST)
    assert "vm.migrated" not in await stage.names()
    assert not await restarts(stage, vm), "nobody asked for that"


async def test_where_the_destination_is_proved_off_the_source_drops_its_half(stage: Stage) -> None:
    vm, operation, source, destination = await halves(stage)

    await prove_off(stage, destination)

    item = await item_of(stage, source, vm)
    assert (item.role, item.only_half) == (Role.ABSENT, True)
    assert (await stage.vm(vm)).may_run_on == (source,)
    await stage.report(source, absent(vm, 1, reason=item.reason))
    await is_down(stage, vm, operation, DownReason.CRASHED)


async def test_what_the_source_heard_of_the_destination_is_no_promise(stage: Stage) -> None:
    """given a source that heard that the other half is gone, then that host is asked itself"""
    vm, operation, source, destination = await halves(stage)

    await held(stage, vm, Held.POST_COPY_LOST)
    await held(stage, vm, Held.POST_COPY)

    assert (await item_of(stage, destination, vm)).role is Role.ABSENT
    assert (await item_of(stage, source, vm)).role is Role.RUN, "it keeps its half"
    await stage.pass_time(61)
    assert "has not promised yet" in await attention_of(stage, operation)
    await stage.report(destination, absent(vm, 1, reason=DownReason.CRASHED))
    item = await item_of(stage, source, vm)
    assert (item.role, item.only_half) == (Role.ABSENT, True)
    await stage.report(source, absent(vm, 1, reason=item.reason))
    await is_down(stage, vm, operation, DownReason.CRASHED)


@pytest.mark.parametrize("lost", ["source", "destination"])
async def test_a_highly_available_vm_starts_again_once_both_halves_are_gone(
    stage: Stage, lost: str
) -> None:
    vm, _operation, source, destination = await halves(stage, high_availability=AVAILABLE)
    gone, left = (source, destination) if lost == "source" else (destination, source)

    await stage.silence(gone)
    await stage.pass_time(3_600)
    assert "vm.migration_lost" not in await stage.names(), "silence proves nothing"
    await stage.do(ConfirmHostOff(id=gone, name=(await stage.host(gone)).name))
    await stage.settle()
    await stage.pass_time(3_600)
    placed = [name for name in await stage.names() if name == "vm.placed"]
    assert len(placed) == 1, "the other half is not gone yet"
    assert not await restarts(stage, vm)

    await stage.report(left, absent(vm, 1, reason=DownReason.CRASHED))
    await play_on(stage)

    state = await stage.vm(vm)
    assert state.status is VmStatus.UP
    assert state.run is not None
    assert state.incarnation == 2
    assert state.may_run_on == (state.run.host,)
    assert state.run.host != gone
    (restart,) = await restarts(stage, vm)
    assert restart.outcome is Outcome.SUCCEEDED


async def test_a_host_that_dies_while_it_is_to_drop_its_half_is_waited_for(stage: Stage) -> None:
    vm, operation, source, destination = await halves(stage, high_availability=AVAILABLE)
    await prove_off(stage, source)

    await stage.silence(destination)

    assert "does not answer" in await attention_of(stage, operation)
    await stage.pass_time(3_600)
    assert not await restarts(stage, vm)
    await stage.do(ConfirmHostOff(id=destination, name=(await stage.host(destination)).name))
    await play_on(stage)
    state = await stage.vm(vm)
    assert (state.status, state.incarnation) == (VmStatus.UP, 2)


async def test_a_host_that_does_not_drop_its_half_calls_for_attention(stage: Stage) -> None:
    _vm, operation, source, _destination = await halves(stage)
    await prove_off(stage, source)

    await stage.pass_time(61)

    assert "has not yet ended what is left" in await attention_of(stage, operation)


async def test_what_turns_out_to_be_whole_runs_on(stage: Stage) -> None:
    """given halves that had met again, when their source dies before anybody was told"""
    vm, operation, source, destination = await halves(stage, high_availability=AVAILABLE)
    await prove_off(stage, source)
    assert (await item_of(stage, destination, vm)).role is Role.ABSENT

    await stage.report(destination, running(vm, 1))

    state = await stage.vm(vm)
    assert (state.status, state.incarnation, state.migration) == (VmStatus.UP, 1, None)
    item = await item_of(stage, destination, vm)
    assert (item.role, item.only_half) == (Role.RUN, False)
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED


async def test_a_requested_stop_wins_over_a_restart(stage: Stage) -> None:
    vm, _operation, source, destination = await halves(stage, high_availability=AVAILABLE)
    await prove_off(stage, source)

    await stage.do(StopVm(id=vm))
    await stage.settle()
    item = await item_of(stage, destination, vm)
    assert (item.role, item.only_half, item.reason) == (Role.ABSENT, False, DownReason.ADMIN)
    # It may have ended it by the order before.
    await stage.report(destination, absent(vm, 1, reason=DownReason.CRASHED))
    await play_on(stage)

    assert (await stage.vm(vm)).status is VmStatus.DOWN
    assert not await restarts(stage, vm)


async def test_a_half_that_is_told_of_after_its_source_was_proved_off_is_dropped(
    stage: Stage,
) -> None:
    vm = await started(stage, "web")
    operation, source = await asked(stage, vm), await where(stage, vm)
    destination = (await stage.vm(vm)).may_run_on[-1]
    await prove_off(stage, source)
    assert (await item_of(stage, destination, vm)).role is Role.RUN, "it may have all of it"

    await half_at(stage, vm, destination)

    item = await item_of(stage, destination, vm)
    assert (item.role, item.only_half) == (Role.ABSENT, True)
    await stage.report(destination, absent(vm, 1, reason=item.reason))
    await is_down(stage, vm, operation, DownReason.HOST_LOST)


async def test_a_source_that_says_migrated_while_half_is_missing_is_not_believed_for_ever(
    stage: Stage,
) -> None:
    vm = await started(stage, "web")
    operation, home = await asked(stage, vm), await where(stage, vm)
    destination = (await stage.vm(vm)).may_run_on[-1]
    await half_at(stage, vm, destination)

    await stage.report(home, absent(vm, 1, reason=DownReason.MIGRATED))
    assert (await item_of(stage, destination, vm)).role is Role.RUN, "it may go on any moment"
    await stage.pass_time(61)

    await stage.report(destination, absent(vm, 1, reason=DownReason.CRASHED))
    await is_down(stage, vm, operation, DownReason.CRASHED)


async def test_what_is_lost_is_told_once(stage: Stage) -> None:
    vm, _operation, source, destination = await halves(stage)
    await prove_off(stage, source)
    await half_at(stage, vm, destination)
    await stage.pass_time(600)

    told = [r for r in await stage.history() if isinstance(r.event, VmMigrationLost)]

    assert [r.addressee for r in told] == [destination]


async def test_a_source_held_at_the_switch_over_and_lost_is_not_taken_for_a_half(
    stage: Stage,
) -> None:
    """given a destination that may have all of it, then nothing there is dropped by this"""
    vm = await started(stage, "web")
    operation, source = await asked(stage, vm), await where(stage, vm)
    destination = (await stage.vm(vm)).may_run_on[-1]
    await stage.silence(source)
    await held(stage, vm, Held.SWITCH_OVER)

    await stage.do(ConfirmHostOff(id=source, name=(await stage.host(source)).name))
    await stage.settle()

    assert (await item_of(stage, destination, vm)).role is Role.RUN
    paused = VmStateItem(vm=vm, incarnation=1, state=Reported.PAUSED)
    await stage.report(destination, paused, running(vm, 1))
    assert (await stage.vm(vm)).status is VmStatus.UP
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED
