"""Starting with the host, and after a power loss of the whole site."""

from __future__ import annotations

import pytest

from commands.state.availability_input import StartWithHostInput
from commands.state.vm import VmStatus
from commands.vm.start_with_host import SetStartWithHost
from commands.vm.stop import StopVm
from events.types.vm import DownReason
from events.types.vm_availability import RestartCause
from tests.unit.policies.available import (
    RULES,
    decided,
    fall,
    host_of,
    make,
    restarts,
    start,
)
from tests.unit.policies.puppet import hosts_of, play_on
from tests.unit.policies.stage import GIB, Stage, absent


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.open(2)
    return stage


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
    vm = await make(stage, priority=0)
    await start(stage, vm)
    await fall(stage, vm, DownReason.GUEST)
    for host in await hosts_of(stage):
        await reboot(stage, host)
    await stage.do(SetStartWithHost(id=vm))
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
