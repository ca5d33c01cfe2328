"""Waits, races and failures of the runner that no single saga shows."""

from __future__ import annotations

import msgspec
import pytest

from commands.host.confirm_off import ConfirmHostOff
from commands.host.maintenance import MaintainHost
from commands.host.remove import RemoveHost
from commands.policies import catalogue
from commands.policies.office import SupersededError
from commands.policies.saga import Saga, Scene, Step
from commands.scheduler.fleet import Fleet
from commands.scheduler.need import HOSTS_TOLD_MAX, VERDICTS_BYTES_MAX, Choice, Need
from commands.state.host import HostState
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm, DiskInput
from commands.vm.remove import RemoveVm
from commands.vm.resume import ResumeVm
from commands.vm.shutdown import ShutDownVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from commands.vm.suspend import SuspendVm
from commands.vm.update import UpdateVm
from events.codec import CODEC, PAYLOAD_BYTES_MAX
from events.envelope import NewEvent
from events.types.host import HostActivated, HostMaintenanceRequested
from events.types.operation import OperationStepRefused, Outcome
from events.types.vm import DownReason
from events.wire.agent import Role
from tests.unit.policies.puppet import check, play_on
from tests.unit.policies.stage import GIB, Stage, absent, running


async def started(stage: Stage, name: str, memory_bytes: int = GIB) -> str:
    vm = await stage.do(CreateVm(name=name, cluster=stage.cluster, memory_bytes=memory_bytes))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    return vm


async def host_of(stage: Stage, vm: str) -> str | None:
    run = (await stage.vm(vm)).run
    return run.host if run else None


async def test_a_vm_that_was_placed_counts_once() -> None:
    """given 15.75 GiB free, when three VMs of 5 GiB start, then all fit, but no fourth"""
    stage = Stage()
    (host,) = await stage.open()
    vms = [await started(stage, f"vm{n}", 5 * GIB) for n in range(3)]
    assert [await host_of(stage, vm) for vm in vms] == [host, host, host]
    assert await host_of(stage, await started(stage, "vm3", 5 * GIB)) is None


async def test_a_running_vm_takes_what_it_was_given_whatever_is_set_now() -> None:
    stage = Stage()
    await stage.open()
    vm = await started(stage, "big", 12 * GIB)
    await play_on(stage)
    await stage.do(UpdateVm(id=vm, memory_bytes=GIB))
    assert await host_of(stage, await started(stage, "other", 8 * GIB)) is None


async def test_the_making_of_disks_on_a_host_that_falls_silent_says_so() -> None:
    stage = Stage()
    (host,) = await stage.open()
    await stage.do(CreateVm(name="db", cluster=stage.cluster, disks=(DiskInput(size_bytes=GIB),)))
    await stage.settle()
    await stage.silence(host)
    assert "host1" in str((await stage.op()).attention)


async def test_a_start_waits_while_a_stale_copy_runs_somewhere() -> None:
    """given a host wrongly confirmed off, when it returns with the VM, then no second one starts"""
    stage = Stage()
    first, second = await stage.open(hosts=2)
    vm = await started(stage, "web01")
    await stage.report(first, running(vm))
    await stage.silence(first)
    await stage.do(ConfirmHostOff(id=first, name="host1"))
    await stage.settle()
    assert (await stage.vm(vm)).status is VmStatus.DOWN
    await stage.hello(first)
    await stage.report(first, running(vm))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    assert await host_of(stage, vm) is None
    assert "host1" in str((await stage.op()).attention)
    assert [(i.role, i.incarnation) for i in (await stage.intent(first)).vms] == [(Role.ABSENT, 1)]
    await check(stage)
    await stage.report(first, absent(vm, 1))
    assert await host_of(stage, vm) in {first, second}


async def lose(stage: Stage, host: str) -> None:
    """Have a host fall silent, and be confirmed off."""
    await stage.silence(host)
    await stage.do(ConfirmHostOff(id=host, name=(await stage.host(host)).name))
    await stage.settle()


async def test_a_stale_copy_ends_with_its_host() -> None:
    stage = Stage()
    first, _second = await stage.open(hosts=2)
    vm = await started(stage, "web01")
    await stage.report(first, running(vm))
    await lose(stage, first)
    await stage.hello(first)
    await stage.report(first, running(vm))
    assert (await stage.vm(vm)).stale_copies == ((first, 1),)
    await lose(stage, first)
    assert (await stage.vm(vm)).stale_copies == ()
    await check(stage)


async def test_a_host_that_returns_before_the_policies_saw_the_proof_keeps_its_vms() -> None:
    """given confirm-off not acted on, when the host says hello in the same boot, then it ran on"""
    stage = Stage()
    first, _second = await stage.open(hosts=2)
    vm = await started(stage, "web01")
    await stage.report(first, running(vm))
    await stage.silence(first)
    await stage.do(ConfirmHostOff(id=first, name="host1"))
    state = await stage.host(first)
    assert state.proved_off
    await stage.hello(first)
    assert await host_of(stage, vm) == first
    assert (await stage.host(first)).proved_off == 0


async def test_a_run_placed_after_the_proof_is_not_ended_by_it() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm = await started(stage, "web01")
    await stage.report(host, running(vm))
    await stage.silence(host)
    await stage.do(ConfirmHostOff(id=host, name="host1"))
    await stage.settle()
    await stage.hello(host, boot="new")
    again = await stage.do(StartVm(id=vm))
    await stage.settle()
    await stage.settle()
    run = (await stage.vm(again)).run
    assert run is not None
    assert run.incarnation == 2


async def test_jobs_about_a_lost_run_are_taken_back() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm = await started(stage, "web01")
    await stage.report(host, running(vm))
    await stage.do(ShutDownVm(id=vm))
    shutdown = stage.operation
    await lose(stage, host)
    assert (await stage.vm(vm)).jobs == ()
    assert (await stage.op(shutdown)).outcome is Outcome.SUCCEEDED


async def test_a_shutdown_succeeds_though_the_vm_was_removed_before_anybody_looked() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm = await started(stage, "web01")
    await stage.report(host, running(vm))
    await stage.do(ShutDownVm(id=vm))
    shutdown = stage.operation
    silent_runner, stage.runner = stage.runner, _Asleep()  # type: ignore[assignment]
    await stage.report(host, absent(vm, 1, reason=DownReason.ADMIN))
    await stage.do(RemoveVm(id=vm))
    stage.runner = silent_runner
    await stage.settle()
    assert (await stage.op(shutdown)).outcome is Outcome.SUCCEEDED


class _Asleep:
    async def turn(self) -> None:
        """Do nothing: the policies' process is stopped."""


async def test_a_claim_that_stands_in_the_way_puts_off_one_operation_only() -> None:
    """given a gate that closes unseen, when a start is placed there, then others still go on"""
    stage = Stage()
    first, second = await stage.open(hosts=2)
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    original = stage.log.append

    async def closing(append: object) -> object:
        stage.log.append = original  # type: ignore[method-assign]
        await stage.append(f"host/{first}", HostMaintenanceRequested(name="host1"))
        return await original(append)  # type: ignore[arg-type]

    await stage.runner.turn()  # folds what is there, and places
    assert await host_of(stage, vm) == first
    other = await stage.do(CreateVm(name="web02", cluster=stage.cluster))
    await stage.do(StartVm(id=other))
    stage.log.append = closing  # type: ignore[method-assign, assignment]
    await stage.settle()
    assert await host_of(stage, other) == second


async def test_an_idle_process_that_lost_its_place_ends_as_soon_as_it_reads_so() -> None:
    stage = Stage()
    await stage.open()
    await stage.new_runner("second").begin()
    with pytest.raises(SupersededError):
        await stage.runner.turn()


async def test_a_policy_that_fails_asks_for_attention_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(scene: Scene) -> tuple[NewEvent, ...]:
        raise ZeroDivisionError(scene.operation.name)

    steps = (Step(name="drain", does="", undo="", cancellable=True),)
    monkeypatch.setitem(
        catalogue.SAGAS, "host.maintenance", Saga(kind="x", steps=steps, advance=broken)
    )
    stage = Stage()
    first, _second = await stage.open(hosts=2)
    await stage.do(MaintainHost(id=first))
    maintenance = stage.operation
    await stage.settle()
    await stage.settle()
    assert "ZeroDivisionError" in str((await stage.op(maintenance)).attention)
    assert (await stage.names()).count("operation.needs_attention") == 1
    vm = await started(stage, "web01")
    assert await host_of(stage, vm) is not None


async def test_a_vm_is_removed_although_a_host_that_held_its_old_memory_is_gone() -> None:
    stage = Stage()
    first, second = await stage.open(hosts=2)
    vm = await started(stage, "web01")
    await play_on(stage)
    await stage.do(SuspendVm(id=vm))
    await play_on(stage)
    await stage.do(ResumeVm(id=vm))
    await stage.settle()
    await stage.report(first, running(vm, 2, restored=True))  # it never says that the file is gone
    await stage.report(first, absent(vm, 2, reason=DownReason.GUEST))
    await stage.do(MaintainHost(id=first))
    await stage.settle()
    await stage.do(RemoveHost(id=first))
    await stage.do(RemoveVm(id=vm))
    await stage.settle()
    assert (await stage.op()).outcome is Outcome.SUCCEEDED
    assert (await stage.vm(vm)).status is VmStatus.REMOVED
    assert second


async def test_a_removal_tells_of_whichever_host_with_files_does_not_answer() -> None:
    """given files on two hosts, when one of them is silent, whichever it is, then it is named"""
    stage = Stage()
    hosts = sorted(await stage.open(hosts=2))
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    for host, other in ((hosts[0], hosts[1]), (hosts[1], hosts[0])):
        await stage.append(f"host/{other}", HostMaintenanceRequested(name="x", reason=""))
        await stage.do(StartVm(id=vm, discard_saved_memory=True))
        await play_on(stage)
        assert await host_of(stage, vm) == host
        await stage.do(SuspendVm(id=vm))
        await play_on(stage)
        await stage.append(f"host/{other}", HostActivated(name="x"))
    await stage.do(StartVm(id=vm, discard_saved_memory=True))
    await play_on(stage)
    await stage.do(StopVm(id=vm))
    await play_on(stage)
    left = (await stage.vm(vm)).discarded_memory
    assert sorted({memory.host for memory in left}) == hosts

    await stage.do(RemoveVm(id=vm))
    removal = stage.operation
    await stage.settle()
    assert (await stage.op(removal)).attention is None
    await stage.silence(hosts[1])
    assert "host2 does not answer" in str((await stage.op(removal)).attention)


def _fleet(hosts: int, name: str) -> Fleet:
    fleet = Fleet()
    for n in range(hosts):
        fleet.put(
            HostState(
                id=f"{n:036}",
                name=name.format(n),
                cluster="c",
                data_center="d",
                address="",
                approved=False,
            )
        )
    return fleet


def _event_of(choice: Choice) -> OperationStepRefused:
    return OperationStepRefused(
        step="place",
        input=1,
        reason=choice.refusal + choice.told_elsewhere,
        verdicts=choice.verdicts,
        verdicts_left_out=choice.left_out,
    )


def test_the_reasons_of_ten_thousand_hosts_fit_into_one_event() -> None:
    need = Need(cluster="c", memory_bytes=GIB, bridges=("b" * 15,) * 16, tried=())
    choice = _fleet(10_000, "{:064}").choose(need)
    assert choice.host is None
    assert 200 < len(choice.verdicts) < 10_000
    assert choice.left_out == 10_000 - len(choice.verdicts)
    assert f"{10_000 - HOSTS_TOLD_MAX} more" in choice.refusal
    left_out = f"Of {choice.left_out} hosts no verdict is kept: 'vm placement' tells each host's."
    assert left_out in choice.told_elsewhere
    payload = CODEC.encode(_event_of(choice))[2]
    assert VERDICTS_BYTES_MAX // 2 < len(payload) < PAYLOAD_BYTES_MAX // 2
    few = _fleet(10_000, "{}").choose(msgspec.structs.replace(need, explained_max=3))
    assert (len(few.verdicts), few.left_out) == (3, 9_997)


def test_each_host_of_a_cluster_of_some_hundreds_has_its_verdict() -> None:
    choice = _fleet(400, "kvm{:03}.example.org").choose(Need(cluster="c", memory_bytes=GIB))
    assert len(choice.verdicts) == 400
    assert all(verdict.reasons for verdict in choice.verdicts)
    assert (choice.left_out, choice.told_elsewhere) == (0, "")
    assert _event_of(choice).verdicts_left_out == 0


def test_the_longest_names_leave_room_for_a_few() -> None:
    need = Need(cluster="c", bridges=tuple(f"bridge{n:09}" for n in range(16)))
    assert len(_fleet(300, "n" * 250 + "{:05}").choose(need).verdicts) > HOSTS_TOLD_MAX


async def stopped_before_it_ran(stage: Stage, host: str) -> tuple[str, str | None]:
    """Return a VM that was powered off while a host did not take it, unseen by the policies."""
    vm = await started(stage, "web01")
    start = stage.operation
    await stage.pass_time(61)
    await stage.do(StopVm(id=vm))
    stage.runner, asleep = _Asleep(), stage.runner  # type: ignore[assignment]
    await stage.report(host, absent(vm, 1, reason=DownReason.ADMIN))
    stage.runner = asleep
    assert (await stage.vm(vm)).status is VmStatus.DOWN
    return vm, start


async def test_a_start_that_is_being_undone_never_brings_a_removed_vm_back() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm, start = await stopped_before_it_ran(stage, host)
    await stage.do(RemoveVm(id=vm))
    await stage.settle()
    assert (await stage.vm(vm)).status is VmStatus.REMOVED
    assert (await stage.op(start)).outcome is Outcome.FAILED


async def test_a_start_that_is_being_undone_leaves_the_next_one_alone() -> None:
    stage = Stage()
    (host,) = await stage.open()
    vm, first = await stopped_before_it_ran(stage, host)
    await stage.do(StartVm(id=vm))
    second = stage.operation
    await stage.settle()
    run = (await stage.vm(vm)).run
    assert run is not None
    assert (run.incarnation, run.withdrawn) == (2, False)
    await stage.report(host, running(vm, 2))
    assert (await stage.op(first)).outcome is Outcome.FAILED
    assert (await stage.op(second)).outcome is Outcome.SUCCEEDED
    assert (await stage.vm(vm)).status is VmStatus.UP
