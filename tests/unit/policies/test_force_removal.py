"""What becomes of VMs whose host was removed by force."""

from __future__ import annotations

import pytest

from commands.host.confirm_off import ConfirmHostOff
from commands.host.force_remove import ForceRemoveHost
from commands.host.maintenance import MaintainHost
from commands.host.remove import RemoveHost
from commands.kernel.refusal import InUse, NotFound, WrongState
from commands.policies.facts import Facts
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm, DiskInput
from commands.vm.remove import RemoveVm
from commands.vm.start import StartVm
from events.types.job import Job, JobKind
from events.types.operation import Outcome
from events.types.vm import DownReason
from events.types.vm_jobs import VmJobOrdered
from tests.unit.policies.puppet import play_on
from tests.unit.policies.stage import GIB, Stage, running

DISKS = (DiskInput(size_bytes=GIB),)


async def give_up(stage: Stage, host: str, name: str) -> None:
    """Confirm a host off and remove it by force, before the policies see either."""
    await stage.silence(host)
    await stage.do(ConfirmHostOff(id=host, name=name))
    await stage.do(ForceRemoveHost(id=host, name=name))


async def test_runs_of_a_host_that_was_given_up_end_and_start_elsewhere() -> None:
    stage = Stage()
    first, second = await stage.open(hosts=2)
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster, memory_bytes=GIB))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    await stage.report(first, running(vm))
    with pytest.raises(WrongState, match="proved"):
        await stage.do(ForceRemoveHost(id=first, name="host1"))

    await give_up(stage, first, "host1")
    await stage.settle()

    state = await stage.vm(vm)
    assert (state.status, state.may_run_on) == (VmStatus.DOWN, ())
    assert state.ending is not None
    assert state.ending.reason is DownReason.HOST_LOST
    await stage.do(StartVm(id=vm))
    await stage.settle()
    run = (await stage.vm(vm)).run
    assert run is not None
    assert run.host == second


async def test_without_force_a_host_with_disks_stays() -> None:
    stage = Stage()
    first, _second = await stage.open(hosts=2)
    vm = await stage.do(CreateVm(name="db", cluster=stage.cluster, disks=DISKS))
    await play_on(stage)
    assert (await stage.vm(vm)).disks_host == first
    await stage.do(MaintainHost(id=first))
    await stage.settle()
    with pytest.raises(InUse):
        await stage.do(RemoveHost(id=first))
    assert not (await stage.host(first)).removed


async def test_a_vm_with_lost_disks_starts_nowhere_and_can_be_removed() -> None:
    stage = Stage()
    first, _second = await stage.open(hosts=2)
    vm = await stage.do(CreateVm(name="db", cluster=stage.cluster, disks=DISKS))
    await play_on(stage)
    assert (await stage.vm(vm)).disks_host == first

    await give_up(stage, first, "host1")
    await stage.settle()
    await stage.do(StartVm(id=vm))
    await stage.settle()
    assert (await stage.op()).outcome is Outcome.FAILED
    assert (await stage.vm(vm)).run is None

    await stage.do(RemoveVm(id=vm))
    await stage.settle()
    assert (await stage.op()).outcome is Outcome.SUCCEEDED
    assert (await stage.vm(vm)).status is VmStatus.REMOVED


async def test_what_the_host_had_been_ordered_has_failed() -> None:
    """given disks that are being made, when their host is given up, then the creation fails"""
    stage = Stage()
    (host,) = await stage.open()
    vm = await stage.do(CreateVm(name="db", cluster=stage.cluster, disks=DISKS))
    creation = stage.operation
    await stage.settle()
    assert (await stage.vm(vm)).jobs

    await give_up(stage, host, "host1")
    await stage.settle()

    assert (await stage.op(creation)).outcome is Outcome.FAILED
    state = await stage.vm(vm)
    assert (state.status, state.jobs) == (VmStatus.IMAGE_ILLEGAL, ())


async def test_a_removed_host_takes_nothing_and_its_name_is_free() -> None:
    stage = Stage()
    (host,) = await stage.open()
    await give_up(stage, host, "host1")
    await stage.settle()

    with pytest.raises(NotFound):
        await stage.do(ForceRemoveHost(id=host, name="host1"))
    await stage.do(CreateVm(name="db", cluster=stage.cluster, disks=DISKS))
    await stage.settle()
    assert (await stage.op()).outcome is Outcome.FAILED
    another = await stage.add_host("host1")
    assert another != host


async def test_policies_that_start_anew_see_the_tombstone() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster, memory_bytes=GIB))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    await stage.report(host, running(vm))
    await give_up(stage, host, "host1")

    stage.runner = stage.new_runner("second")
    await stage.runner.begin()
    await stage.settle()

    assert (await stage.vm(vm)).status is VmStatus.DOWN


async def test_work_that_a_removed_host_did_not_tell_of_is_given_up() -> None:
    """given a host removed before it told that a copying is done, then no VM waits for it"""
    stage = Stage()
    first, _second = await stage.open(hosts=2)
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster, memory_bytes=GIB))
    job = Job(id="op/copy", kind=JobKind.VM_MIGRATE, vm=vm, incarnation=1)
    await stage.append(f"vm/{vm}", VmJobOrdered(job=job, host=first))
    await stage.do(MaintainHost(id=first))
    await stage.settle()
    await stage.do(RemoveHost(id=first))
    assert (await stage.vm(vm)).jobs
    facts, again = Facts(), Facts()
    for recorded in await stage.history():
        facts.take(recorded)
    again.restore(facts.position, facts.tables())
    assert again.lost() == facts.lost() == [(vm, first)]
    await stage.settle()
    assert not (await stage.vm(vm)).jobs
    head = await stage.log.head()
    await stage.settle()
    assert await stage.log.head() == head
