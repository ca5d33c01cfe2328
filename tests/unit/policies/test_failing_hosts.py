"""Hosts on which starts fail are left alone for a while, and come back by themselves."""

from __future__ import annotations

import datetime as dt

import pytest

from commands.host.activate import ActivateHost
from commands.host.confirm_off import ConfirmHostOff
from commands.host.maintenance import MaintainHost
from commands.host.token import IssueEnrolmentToken
from commands.kernel.refusal import Refusal, WrongState
from commands.state import host_failing
from commands.state.host import HostStatus
from commands.state.host_failing import VMS_MAX, WINDOW_S, Failing
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm
from commands.vm.start import StartVm
from events.types.host_failing import HostFailing, HostRecovered, HostStartFailed
from tests.unit.policies.puppet import hosts_of, play_on
from tests.unit.policies.stage import Stage

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.open(1)
    return stage


async def fail(stage: Stage, *vms: str) -> None:
    """Have VMs be started, in vain."""
    for vm in vms:
        await stage.do(StartVm(id=vm))
        await play_on(stage, failing={"start"})
        assert (await stage.vm(vm)).status is VmStatus.DOWN


async def make(stage: Stage, count: int = VMS_MAX) -> list[str]:
    return [
        await stage.do(CreateVm(name=f"vm{number}", cluster=stage.cluster))
        for number in range(count)
    ]


async def test_three_vms_in_a_row_that_fail_put_a_host_into_error(stage: Stage) -> None:
    (host,) = await hosts_of(stage)
    vms = await make(stage, VMS_MAX + 1)
    await fail(stage, *vms[: VMS_MAX - 1])
    assert (await stage.host(host)).status is HostStatus.UP
    await fail(stage, vms[VMS_MAX - 1])
    state = await stage.host(host)
    assert state.status is HostStatus.ERROR
    assert not state.mute, "it is heard: its VMs are not unknown"

    await stage.do(StartVm(id=vms[-1]))
    await play_on(stage)
    assert "The host is error." in (await stage.op()).reason


async def test_one_broken_vm_does_not_take_hosts_away(stage: Stage) -> None:
    (host,) = await hosts_of(stage)
    (vm,) = await make(stage, 1)
    await fail(stage, *[vm] * 5)
    assert (await stage.host(host)).status is HostStatus.UP


async def test_a_start_that_succeeds_begins_the_count_anew(stage: Stage) -> None:
    (host,) = await hosts_of(stage)
    vms = await make(stage, VMS_MAX + 1)
    await fail(stage, *vms[: VMS_MAX - 1])
    await stage.do(StartVm(id=vms[-1]))
    await play_on(stage)
    await fail(stage, vms[VMS_MAX - 1])
    assert (await stage.host(host)).status is HostStatus.UP


def test_old_failures_do_not_count() -> None:
    state = Failing()
    for number, age_s in enumerate((WINDOW_S, 60.0)):
        time = NOW - dt.timedelta(seconds=age_s)
        start = host_failing.FailedStart(vm=str(number), vm_name=str(number), time=time)
        state = Failing(starts=(*state.starts, start))
    found = host_failing.after_failure(state, "h", "2", "two", NOW)
    assert [type(event) for event in found] == [HostStartFailed]
    later = host_failing.after_failure(state, "h", "2", "two", NOW - dt.timedelta(seconds=1))
    assert [type(event) for event in later] == [HostStartFailed, HostFailing]


async def test_a_host_in_error_is_activated_rests_or_boots(stage: Stage) -> None:
    (host,) = await hosts_of(stage)
    vms = await make(stage)
    await fail(stage, *vms)
    await stage.do(ActivateHost(id=host))
    assert (await stage.host(host)).status is HostStatus.UP

    await fail(stage, *vms)
    await stage.hello(host)
    assert (await stage.host(host)).status is HostStatus.ERROR, "the same boot says nothing new"
    await stage.hello(host, boot="another")
    assert (await stage.host(host)).status is HostStatus.UP

    await fail(stage, *vms)
    await stage.append(f"host/{host}", HostRecovered(name="host1"))
    assert (await stage.host(host)).status is HostStatus.UP


async def test_a_host_in_error_answers_so_it_is_not_confirmed_off_nor_replaced(
    stage: Stage,
) -> None:
    """given error by failed starts, then what needs a silent host is refused"""
    (host,) = await hosts_of(stage)
    await fail(stage, *await make(stage))
    for command in (ConfirmHostOff(id=host, name="host1"), IssueEnrolmentToken(id=host)):
        with pytest.raises(WrongState):
            await stage.do(command)
    await stage.do(MaintainHost(id=host))
    await play_on(stage)
    assert (await stage.host(host)).status is HostStatus.MAINTENANCE
    with pytest.raises(Refusal):
        await stage.do(MaintainHost(id=host))
