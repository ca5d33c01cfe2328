"""A VM's files stay while it may run in what a restored log has lost, and it is said for whom."""

from __future__ import annotations

from commands.state.strays import stray_name
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm, DiskInput
from commands.vm.remove import RemoveVm
from events.types.host import (
    HostStateConfirmed,
    HostStateUnconfirmed,
    HostUnmanagedDomainsFound,
)
from tests.unit.policies.puppet import play_on
from tests.unit.policies.stage import GIB, Stage

LOST_FROM = 900


async def restored(stage: Stage, *hosts: str) -> str:
    """Return a VM that lies on the first host, after a restore."""
    vm = await stage.do(
        CreateVm(name="db", cluster=stage.cluster, disks=(DiskInput(size_bytes=GIB),))
    )
    await play_on(stage)
    for host in hosts:
        name = (await stage.host(host)).name
        await stage.append(
            f"host/{host}", HostStateUnconfirmed(name=name, incarnations_from=LOST_FROM)
        )
    return vm


async def confirm(stage: Stage, host: str, *domains: str) -> None:
    name = (await stage.host(host)).name
    await stage.hello(host)
    await stage.append(f"host/{host}", HostStateConfirmed(name=name, reported=True, missing=()))
    if domains:
        await stage.append(f"host/{host}", HostUnmanagedDomainsFound(name=name, domains=domains))
    await stage.settle()


async def test_a_removal_says_which_host_has_not_told_what_it_runs() -> None:
    stage = Stage()
    first, second = await stage.open(hosts=2)
    vm = await restored(stage, first, second)
    await confirm(stage, first)
    await stage.do(RemoveVm(id=vm))
    await stage.settle()
    said = await stage.op()
    assert said.attention is not None
    assert "Host host2 has not reported" in said.attention
    assert (await stage.intent(first)).jobs == ()


async def test_a_removal_says_which_host_runs_a_copy_that_the_log_has_forgotten() -> None:
    stage = Stage()
    first, second = await stage.open(hosts=2)
    vm = await restored(stage, first, second)
    await confirm(stage, first)
    await confirm(stage, second)
    await stage.do(RemoveVm(id=vm))
    await stage.settle()
    assert (await stage.op()).attention is None

    await stage.append(
        f"host/{second}",
        HostUnmanagedDomainsFound(name="host2", domains=("foreign (x)", stray_name(vm, 7))),
    )
    await stage.settle()

    said = await stage.op()
    assert said.attention is not None
    assert "Host host2 runs the VM" in said.attention
    assert said.open


async def test_a_removal_without_a_restore_asks_nobody() -> None:
    stage = Stage()
    await stage.open(hosts=2)
    vm = await restored(stage)
    await stage.do(RemoveVm(id=vm))
    await play_on(stage)
    assert (await stage.vm(vm)).status is VmStatus.REMOVED
    assert (await stage.op()).attention is None
