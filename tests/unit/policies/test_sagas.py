"""The sagas, move by move, as users see them."""

from __future__ import annotations

import msgspec
import pytest

from commands.cluster.update import UpdateCluster
from commands.host.activate import ActivateHost
from commands.host.confirm_off import ConfirmHostOff
from commands.host.maintenance import MaintainHost
from commands.kernel.refusal import WrongState
from commands.operation.cancel import CancelOperation
from commands.policies.office import SupersededError
from commands.state.hardware import Processors
from commands.state.host import HostStatus
from commands.state.serial_input import SerialNumberInput
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm, DiskInput, NicInput
from commands.vm.reboot import RebootVm
from commands.vm.remove import RemoveVm
from commands.vm.resume import ResumeVm
from commands.vm.shutdown import ShutDownVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from commands.vm.suspend import SuspendVm
from commands.vm.update import UpdateVm
from events.types.operation import Outcome
from events.types.run_spec import SerialPolicy
from events.types.vm import DownReason
from events.wire.agent import Role
from tests.unit.policies.stage import GIB, Stage, absent, done, failed, running


async def started(stage: Stage, name: str = "web01") -> tuple[str, str]:
    """Return a VM that is up, and its host."""
    vm = await stage.do(CreateVm(name=name, cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    run = (await stage.vm(vm)).run
    assert run is not None
    await stage.report(run.host, running(vm, run.incarnation))
    return vm, run.host


async def test_a_start_is_placed_launched_and_ends_when_the_guest_is_up() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    assert (await stage.vm(vm)).status is VmStatus.WAITING_FOR_LAUNCH
    await stage.settle()
    (item,) = (await stage.intent(host)).vms
    assert (item.vm, item.incarnation, item.role, item.started) == (vm, 1, Role.RUN, False)
    assert item.spec is not None
    assert item.spec.machine_type == "pc-q35-7.2"
    await stage.report(host, running(vm, up=False))
    assert (await stage.vm(vm)).status is VmStatus.POWERING_UP
    assert (await stage.op()).open
    await stage.report(host, running(vm, hostname="web01", addresses=("10.0.0.7",)))
    state = await stage.vm(vm)
    assert state.status is VmStatus.UP
    assert state.guest.addresses == ("10.0.0.7",)
    assert (await stage.op()).outcome is Outcome.SUCCEEDED


async def test_a_start_that_no_host_can_take_says_why_for_each() -> None:
    stage = Stage()
    await stage.open(hosts=2)
    vm = await stage.do(
        CreateVm(
            name="big",
            cluster=stage.cluster,
            memory_bytes=64 * GIB,
            nics=(NicInput(bridge="br9"),),
        )
    )
    await stage.do(StartVm(id=vm))
    await stage.settle()
    operation = await stage.op()
    assert operation.outcome is Outcome.FAILED
    assert operation.reason.count("MiB of memory free") == 2
    assert operation.reason.count("no bridge br9") == 2
    assert (await stage.vm(vm)).status is VmStatus.DOWN


async def test_memory_of_placed_vms_counts_before_they_run() -> None:
    stage = Stage()
    first, second = await stage.open(hosts=2)
    vms = []
    for n in range(3):
        vm = await stage.do(CreateVm(name=f"vm{n}", cluster=stage.cluster, memory_bytes=10 * GIB))
        await stage.do(StartVm(id=vm))
        vms.append(vm)
    await stage.settle()
    runs = [(await stage.vm(vm)).run for vm in vms]
    assert [run.host if run else None for run in runs] == [first, second, None]
    assert (await stage.vm(vms[2])).status is VmStatus.DOWN


async def test_a_failed_launch_is_tried_on_another_host_and_then_given_up() -> None:
    stage = Stage()
    first, second = await stage.open(hosts=2)
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    await stage.report(
        first, absent(vm, 1, reason=DownReason.START_FAILED, detail="QEMU: no such thing")
    )
    run = (await stage.vm(vm)).run
    assert run is not None
    assert (run.host, run.incarnation) == (second, 2)
    await stage.report(
        second, absent(vm, 2, reason=DownReason.START_FAILED, detail="QEMU: no such thing")
    )
    operation = await stage.op()
    assert operation.outcome is Outcome.FAILED
    assert "QEMU: no such thing" in operation.reason
    assert (await stage.vm(vm)).status is VmStatus.DOWN


async def test_a_start_that_a_silent_host_never_took_waits_until_confirm_off() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    operation = stage.operation
    await stage.settle()
    await stage.silence(host)
    await stage.pass_time(61)
    (item,) = (await stage.intent(host)).vms
    assert item.role is Role.ABSENT
    waiting = await stage.op(operation)
    assert waiting.open
    assert waiting.attention is not None
    assert "host1" in waiting.attention
    with pytest.raises(WrongState):
        await stage.do(StartVm(id=vm))
    await stage.do(ConfirmHostOff(id=host, name="host1"))
    await stage.settle()
    state = await stage.vm(vm)
    assert state.may_run_on == ()
    assert state.status is VmStatus.DOWN
    assert (await stage.op(operation)).outcome is Outcome.FAILED


async def test_a_withdrawn_start_goes_on_elsewhere_once_the_host_says_absent() -> None:
    stage = Stage()
    first, second = await stage.open(hosts=2)
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    await stage.pass_time(61)
    state = await stage.vm(vm)
    assert state.may_run_on == (first,)
    assert state.run is not None
    assert state.run.withdrawn
    await stage.report(first, absent(vm, 1, reason=DownReason.WITHDRAWN))
    run = (await stage.vm(vm)).run
    assert run is not None
    assert (run.host, run.incarnation) == (second, 2)


async def test_a_cancelled_start_is_withdrawn_and_leaves_the_vm_down() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    operation = stage.operation
    await stage.settle()
    await stage.do(CancelOperation(id=str(operation)))
    await stage.settle()
    await stage.report(host, absent(vm, 1, reason=DownReason.WITHDRAWN))
    assert (await stage.op(operation)).outcome is Outcome.CANCELLED
    assert (await stage.vm(vm)).status is VmStatus.DOWN


async def test_disks_are_made_by_a_job_and_bind_the_vm_to_their_host() -> None:
    stage = Stage()
    _first, second = await stage.open(hosts=2)
    vm = await stage.do(
        CreateVm(
            name="db01",
            cluster=stage.cluster,
            host=second,
            disks=(DiskInput(size_bytes=GIB, image="base.qcow2"),),
        )
    )
    operation = stage.operation
    await stage.settle()
    (job,) = (await stage.intent(second)).jobs
    assert job.disks[0].image == "base.qcow2"
    assert (await stage.vm(vm)).status is VmStatus.IMAGE_LOCKED
    await stage.report(second, done(job.id, vm))
    assert (await stage.op(operation)).outcome is Outcome.SUCCEEDED
    await stage.do(StartVm(id=vm))
    await stage.settle()
    run = (await stage.vm(vm)).run
    assert run is not None
    assert run.host == second


async def test_disks_that_cannot_be_made_leave_a_vm_that_can_be_removed() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm = await stage.do(
        CreateVm(name="db01", cluster=stage.cluster, disks=(DiskInput(size_bytes=GIB),))
    )
    operation = stage.operation
    await stage.settle()
    (job,) = (await stage.intent(host)).jobs
    await stage.report(host, failed(job.id, vm, "no space left"))
    assert (await stage.op(operation)).reason == "no space left"
    assert (await stage.vm(vm)).status is VmStatus.IMAGE_ILLEGAL
    await stage.do(RemoveVm(id=vm))
    await stage.settle()
    (removal,) = (await stage.intent(host)).jobs
    await stage.report(host, done(removal.id, vm))
    assert (await stage.vm(vm)).status is VmStatus.REMOVED
    assert (await stage.op()).outcome is Outcome.SUCCEEDED


async def test_a_removal_that_fails_is_tried_again_after_a_while() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm = await stage.do(
        CreateVm(name="db01", cluster=stage.cluster, disks=(DiskInput(size_bytes=GIB),))
    )
    await stage.settle()
    (job,) = (await stage.intent(host)).jobs
    await stage.report(host, done(job.id, vm))
    await stage.do(RemoveVm(id=vm))
    await stage.settle()
    for attempt in (1, 2):
        (removal,) = (await stage.intent(host)).jobs
        assert removal.generation == attempt
        await stage.report(host, failed(removal.id, vm, "busy"))
        assert "busy" in str((await stage.op()).attention)
        await stage.pass_time(31)
    (removal,) = (await stage.intent(host)).jobs
    await stage.report(host, done(removal.id, vm))
    assert (await stage.vm(vm)).status is VmStatus.REMOVED


async def test_a_shutdown_ends_with_the_run_and_a_stubborn_guest_stays_up() -> None:
    stage = Stage()
    await stage.open()
    vm, host = await started(stage)
    await stage.do(ShutDownVm(id=vm))
    (job,) = (await stage.intent(host)).jobs
    await stage.report(host, failed(job.id, vm, "the guest did not go down in 300 s"))
    assert (await stage.vm(vm)).status is VmStatus.UP
    assert (await stage.op()).outcome is Outcome.FAILED
    await stage.do(ShutDownVm(id=vm))
    (job,) = (await stage.intent(host)).jobs
    await stage.report(host, done(job.id, vm), absent(vm, 1, reason=DownReason.ADMIN))
    assert (await stage.vm(vm)).status is VmStatus.DOWN
    assert (await stage.op()).outcome is Outcome.SUCCEEDED


async def test_a_stop_wins_over_a_shutdown_that_hangs() -> None:
    stage = Stage()
    await stage.open()
    vm, host = await started(stage)
    await stage.do(ShutDownVm(id=vm))
    shutdown = stage.operation
    await stage.do(StopVm(id=vm))
    intent = await stage.intent(host)
    assert intent.jobs == ()
    assert intent.vms[0].role is Role.ABSENT
    await stage.report(host, absent(vm, 1, reason=DownReason.ADMIN))
    assert (await stage.op()).outcome is Outcome.SUCCEEDED
    assert (await stage.op(shutdown)).outcome is Outcome.SUCCEEDED


async def test_a_reboot_keeps_the_incarnation() -> None:
    stage = Stage()
    await stage.open()
    vm, host = await started(stage)
    await stage.do(RebootVm(id=vm))
    (job,) = (await stage.intent(host)).jobs
    await stage.report(host, running(vm, resets=1), done(job.id, vm))
    state = await stage.vm(vm)
    assert state.status is VmStatus.UP
    assert state.incarnation == 1
    assert (await stage.op()).outcome is Outcome.SUCCEEDED
    assert (await stage.names()).count("vm.rebooted") == 1


async def test_memory_is_saved_restored_once_and_then_discarded() -> None:
    stage = Stage()
    await stage.open(hosts=2)
    vm, host = await started(stage)
    await stage.do(SuspendVm(id=vm))
    (job,) = (await stage.intent(host)).jobs
    await stage.report(host, done(job.id, vm), absent(vm, 1, reason=DownReason.SUSPENDED))
    assert (await stage.vm(vm)).status is VmStatus.SUSPENDED
    assert (await stage.op()).outcome is Outcome.SUCCEEDED
    with pytest.raises(WrongState):
        await stage.do(StartVm(id=vm))
    await stage.do(ResumeVm(id=vm))
    await stage.settle()
    (item,) = (await stage.intent(host)).vms
    assert item.incarnation == 2
    assert item.spec is not None
    assert item.spec.restore_from == job.saved_memory
    await stage.report(host, running(vm, 2, restored=True))
    state = await stage.vm(vm)
    assert state.status is VmStatus.UP
    assert state.memory is None
    (removal,) = (await stage.intent(host)).jobs
    assert removal.volumes == (job.saved_memory,)
    await stage.report(host, absent(vm, 2, reason=DownReason.CRASHED))
    assert (await stage.vm(vm)).status is VmStatus.DOWN


async def test_saved_memory_goes_on_with_the_hardware_that_it_has() -> None:
    """given changes while a VM is suspended, then they wait for a start from nothing"""
    stage = Stage()
    await stage.open()
    vm, host = await started(stage)
    (item,) = (await stage.intent(host)).vms
    assert item.spec is not None
    had = item.spec
    await stage.do(SuspendVm(id=vm))
    (job,) = (await stage.intent(host)).jobs
    await stage.report(host, done(job.id, vm), absent(vm, 1, reason=DownReason.SUSPENDED))
    more = 2 * had.configuration.memory_bytes
    await stage.do(UpdateVm(id=vm, memory_bytes=more, cpu=Processors(sockets=2), name="renamed"))
    number = SerialNumberInput(policy=SerialPolicy.CUSTOM, value="ABC 123")
    await stage.do(UpdateCluster(id=stage.cluster, serial_number=number))
    await stage.do(ResumeVm(id=vm))
    await stage.settle()
    (item,) = (await stage.intent(host)).vms
    assert item.spec == msgspec.structs.replace(
        had, name="renamed", incarnation=2, restore_from=job.saved_memory
    )
    await stage.report(host, running(vm, 2, restored=True))
    await stage.report(host, absent(vm, 2, reason=DownReason.CRASHED))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    (item,) = (await stage.intent(host)).vms
    assert item.spec is not None
    assert item.spec.configuration.memory_bytes == more
    assert item.spec.configuration.topology.sockets == 2
    assert item.spec.serial == "ABC 123"
    assert item.spec.restore_from is None


async def test_maintenance_waits_for_the_last_vm_and_keeps_new_ones_away() -> None:
    stage = Stage()
    await stage.open()
    vm, host = await started(stage)
    await stage.do(MaintainHost(id=host))
    maintenance = stage.operation
    await stage.settle()
    assert "web01" in str((await stage.op(maintenance)).attention)
    other = await stage.do(CreateVm(name="web02", cluster=stage.cluster))
    await stage.do(StartVm(id=other))
    await stage.settle()
    assert (await stage.op()).outcome is Outcome.FAILED
    await stage.report(host, absent(vm, 1, reason=DownReason.GUEST))
    assert (await stage.host(host)).status is HostStatus.MAINTENANCE
    assert (await stage.op(maintenance)).outcome is Outcome.SUCCEEDED
    await stage.do(ActivateHost(id=host))
    assert (await stage.host(host)).status is HostStatus.UP


async def test_a_copy_on_a_host_that_was_confirmed_off_is_destroyed_when_it_returns() -> None:
    stage = Stage()
    first, second = await stage.open(hosts=2)
    vm, host = await started(stage)
    assert host == first
    await stage.silence(first)
    await stage.do(ConfirmHostOff(id=first, name="host1"))
    await stage.settle()
    await stage.do(StartVm(id=vm))
    await stage.settle()
    await stage.report(second, running(vm, 2))
    await stage.hello(first)
    await stage.report(first, running(vm, 1))
    state = await stage.vm(vm)
    assert state.status is VmStatus.UP
    assert state.run is not None
    assert state.run.host == second
    (item,) = (await stage.intent(first)).vms
    assert (item.role, item.incarnation) == (Role.ABSENT, 1)
    await stage.report(first, absent(vm, 1))
    assert (await stage.intent(first)).vms == ()
    assert (await stage.vm(vm)).status is VmStatus.UP


async def test_a_policies_process_that_lost_its_place_fails_at_its_next_move() -> None:
    stage = Stage()
    await stage.open()
    zombie = stage.runner
    stage.runner = stage.new_runner("second")
    await stage.runner.begin()
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    with pytest.raises(SupersededError):
        await zombie.turn()
    await stage.settle()
    assert (await stage.names()).count("vm.placed") == 1
