"""Jobs: each done once, with an outcome, whatever happens in between."""

import asyncio

import msgspec
import pytest

from events.types.job import Job, JobKind
from events.types.run_spec import Disk
from events.types.vm import DownReason
from events.wire.agent import JobItem, JobState, VmState, VmStateItem
from hostagent.desk import utc_now
from hostagent.records import JobBegun
from hostagent.simulated_state import Do, Faults
from tests.unit.hostagent.conftest import Host
from tests.unit.hostagent.samples import OTHER, VM, a_job, run_item

MEMORY = f"{VM}/memory-1.save"


def disk(number: int) -> Disk:
    return Disk(id=f"d{number}", name=f"d{number}", size_bytes=1024, volume=f"v/{number}.qcow2")


async def started(host: Host, faults: Faults | None = None) -> None:
    await host.start(faults)
    host.engine.order(run_item())
    await host.engine.until(lambda e: (VM, 1) in e.states and e.states[VM, 1].guest_up)


async def begun_before(host: Host, job: Job) -> None:
    """Leave the journal as an agent does that died right after it began the job."""
    await host.agent.desk.journal.write(
        JobBegun(job=job.id, kind=job.kind, vm=job.vm, incarnation=job.incarnation, time=utc_now())
    )


async def test_disks_are_made_with_progress(host: Host) -> None:
    await host.start(Faults(copy_s=0.05))

    job = host.engine.order_job(a_job(JobKind.DISK_CREATE, incarnation=0, disks=(disk(1), disk(2))))

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
    assert await host.driver.volume_size("v/1.qcow2") == 1024
    assert await host.driver.volume_size("v/2.qcow2") == 1024
    told = [item.percent for item in host.engine.items if isinstance(item, JobItem)]
    percents = [percent for percent in told if percent is not None]
    assert percents == sorted(percents)
    assert any(0 < percent < 100 for percent in percents)


async def test_disks_begun_before_are_finished(host: Host) -> None:
    await host.start()
    job = a_job(JobKind.DISK_CREATE, incarnation=0, disks=(disk(1), disk(2)))
    await begun_before(host, job)
    await host.driver.create_disk(disk(1), lambda _percent: None)
    await host.kill()
    host.engine.order_job(job)

    await host.start()

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
    assert await host.driver.volume_size("v/2.qcow2") == 1024


async def test_a_disk_of_another_size_fails_the_job(host: Host) -> None:
    await host.start()
    await host.driver.create_disk(
        msgspec.structs.replace(disk(1), size_bytes=512), lambda _percent: None
    )

    job = host.engine.order_job(a_job(JobKind.DISK_CREATE, incarnation=0, disks=(disk(1),)))

    outcome = await host.engine.until_outcome(job)
    assert (outcome.state, "512" in outcome.reason) == (JobState.FAILED, True)


async def test_a_path_out_of_the_folder_fails_the_job(host: Host) -> None:
    await host.start()

    job = host.engine.order_job(
        a_job(JobKind.VOLUMES_REMOVE, incarnation=0, volumes=("../../etc/passwd",))
    )

    assert (await host.engine.until_outcome(job)).state is JobState.FAILED


async def test_volumes_are_removed_also_if_begun_before(host: Host) -> None:
    await host.start()
    await host.driver.create_disk(disk(1), lambda _percent: None)
    job = a_job(JobKind.VOLUMES_REMOVE, incarnation=0, volumes=("v/1.qcow2", "v/2.qcow2"))
    await begun_before(host, job)
    host.engine.order_job(job)

    await host.restart()

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
    assert await host.driver.volume_size("v/1.qcow2") is None


async def test_volumes_of_a_running_vm_are_not_removed(host: Host) -> None:
    await host.start()
    await host.driver.create_disk(disk(1), lambda _percent: None)
    host.engine.order(run_item(disks=(disk(1),)))
    await host.engine.until_state(VM, VmState.RUNNING)

    job = host.engine.order_job(
        a_job(JobKind.VOLUMES_REMOVE, vm=OTHER, incarnation=0, volumes=("v/1.qcow2",))
    )

    assert "in use" in (await host.engine.until_outcome(job)).reason
    assert await host.driver.volume_size("v/1.qcow2") == 1024


async def test_a_shutdown_ends_with_the_admin_as_reason(host: Host) -> None:
    await started(host, Faults(shutdown_s=0.1))

    job = host.engine.order_job(a_job(JobKind.VM_SHUTDOWN, timeout_s=5))

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
    assert host.engine.states[VM, 1].reason is DownReason.ADMIN


async def test_a_shutdown_goes_on_after_the_agents_death(host: Host) -> None:
    await started(host, Faults(deaf=True))
    job = host.engine.order_job(a_job(JobKind.VM_SHUTDOWN, timeout_s=5))
    await host.engine.until(lambda e: any(isinstance(item, JobItem) for item in e.items))

    await host.restart(Faults())

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
    assert host.engine.states[VM, 1].reason is DownReason.ADMIN


async def test_a_guest_that_obeyed_while_the_agent_was_dead_was_shut_down_by_the_admin(
    host: Host,
) -> None:
    await started(host, Faults(deaf=True))
    job = host.engine.order_job(a_job(JobKind.VM_SHUTDOWN, timeout_s=5))
    await host.engine.until(lambda e: any(isinstance(item, JobItem) for item in e.items))
    await host.kill()
    host.control(Do.GUEST_POWER_OFF, VM)

    await host.start()

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
    assert host.engine.states[VM, 1].reason is DownReason.ADMIN


async def test_a_shutdown_that_a_guest_ignores_fails_after_its_time(host: Host) -> None:
    await started(host, Faults(deaf=True))

    job = host.engine.order_job(a_job(JobKind.VM_SHUTDOWN, timeout_s=0.2))

    assert "did not shut down" in (await host.engine.until_outcome(job)).reason
    assert await host.incarnations() == [(VM, 1)]
    host.control(Do.GUEST_POWER_OFF, VM)
    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.GUEST


async def test_a_crash_during_a_shutdown_is_a_crash(host: Host) -> None:
    await started(host, Faults(deaf=True))
    job = host.engine.order_job(a_job(JobKind.VM_SHUTDOWN, timeout_s=5))
    await host.engine.until(lambda e: any(isinstance(item, JobItem) for item in e.items))

    host.control(Do.CRASH, VM)

    await host.engine.until_outcome(job)
    assert host.engine.states[VM, 1].reason is DownReason.CRASHED


async def test_a_power_off_goes_before_a_shutdown_that_waits(host: Host) -> None:
    await started(host, Faults(deaf=True))
    job = host.engine.order_job(a_job(JobKind.VM_SHUTDOWN, timeout_s=60))
    await host.engine.until(lambda e: any(isinstance(item, JobItem) for item in e.items))

    host.engine.absent(VM, reason=DownReason.ADMIN)

    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.ADMIN
    assert (await host.engine.until_outcome(job)).state is JobState.DONE


async def test_a_withdrawn_shutdown_presses_no_more(host: Host) -> None:
    await started(host, Faults(deaf=True))
    job = host.engine.order_job(a_job(JobKind.VM_SHUTDOWN, timeout_s=60))
    await host.engine.until(lambda e: any(isinstance(item, JobItem) for item in e.items))

    host.engine.withdraw(job)

    assert "withdrawn" in (await host.engine.until_outcome(job)).reason
    host.faults()
    await asyncio.sleep(0.2)
    assert await host.incarnations() == [(VM, 1)]


async def test_a_job_withdrawn_while_the_agent_was_away_is_given_up(host: Host) -> None:
    await started(host, Faults(deaf=True))
    job = host.engine.order_job(a_job(JobKind.VM_SHUTDOWN, timeout_s=60))
    await host.engine.until(lambda e: any(isinstance(item, JobItem) for item in e.items))

    host.engine.away = True
    host.engine.jobs.clear()
    host.engine.replace_session()
    host.engine.away = False

    assert "withdrawn" in (await host.engine.until_outcome(job)).reason
    host.faults()
    await asyncio.sleep(0.2)
    assert await host.incarnations() == [(VM, 1)]


async def test_a_power_off_goes_through_although_a_job_is_given_up_with_it(host: Host) -> None:
    """given a shutdown put off by an absent hypervisor, when a stop takes its place, then off"""
    await started(host)
    host.faults(away=True)
    job = host.engine.order_job(a_job(JobKind.VM_SHUTDOWN, timeout_s=60))
    await asyncio.sleep(0.1)
    host.engine.absent(VM, reason=DownReason.ADMIN)
    host.engine.withdraw(job)
    await asyncio.sleep(0.1)
    host.faults()

    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.ADMIN
    assert await host.incarnations() == []


async def test_a_copy_is_given_up_when_it_is_withdrawn(host: Host) -> None:
    await host.start(Faults(copy_s=60))
    job = host.engine.order_job(a_job(JobKind.DISK_CREATE, incarnation=0, disks=(disk(1),)))
    await host.engine.until(lambda e: any(isinstance(item, JobItem) for item in e.items))

    host.engine.withdraw(job)

    assert (await host.engine.until_outcome(job)).state is JobState.FAILED
    assert await host.driver.volume_size("v/1.qcow2") is None


async def test_a_reboot_resets_once(host: Host) -> None:
    await started(host)

    job = host.engine.order_job(a_job(JobKind.VM_REBOOT))

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
    await host.engine.until(lambda e: e.states[VM, 1].resets == 1)


async def test_a_reboot_of_unknown_outcome_is_not_repeated(host: Host) -> None:
    await started(host)
    job = a_job(JobKind.VM_REBOOT)
    await begun_before(host, job)
    host.engine.order_job(job)

    await host.restart()

    assert "not known" in (await host.engine.until_outcome(job)).reason
    assert host.engine.states[VM, 1].resets == 0


async def test_a_suspend_saves_ends_and_says_so_before_it_is_done(host: Host) -> None:
    await started(host)

    job = host.engine.order_job(a_job(JobKind.VM_SUSPEND, saved_memory=MEMORY))

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
    assert host.engine.states[VM, 1].reason is DownReason.SUSPENDED
    ends = [
        type(item)
        for item in host.engine.items
        if (isinstance(item, VmStateItem) and item.state is VmState.ABSENT)
        or (isinstance(item, JobItem) and item.state is JobState.DONE)
    ]
    assert ends == [VmStateItem, JobItem]
    assert await host.driver.volume_size(MEMORY)
    host.engine.order(run_item(incarnation=2, restore_from=MEMORY))
    assert (await host.engine.until_state(VM, VmState.RUNNING, 2)).restored


async def test_a_suspend_whose_agent_died_is_known_by_its_memory(host: Host) -> None:
    await started(host)
    job = a_job(JobKind.VM_SUSPEND, saved_memory=MEMORY)
    await begun_before(host, job)
    host.engine.order_job(job)
    await host.kill()
    await host.driver.save(VM, 1, MEMORY)

    await host.start()

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
    assert host.engine.states[VM, 1].reason is DownReason.SUSPENDED


async def test_a_suspend_that_had_not_saved_is_done_again(host: Host) -> None:
    await started(host, Faults(save_s=5))
    job = host.engine.order_job(a_job(JobKind.VM_SUSPEND, saved_memory=MEMORY))
    await host.engine.until(lambda e: any(isinstance(item, JobItem) for item in e.items))

    await host.restart(Faults())

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
    assert host.engine.states[VM, 1].reason is DownReason.SUSPENDED


async def test_a_suspend_of_a_vm_that_crashed_fails_and_the_crash_is_told(host: Host) -> None:
    await started(host)
    job = a_job(JobKind.VM_SUSPEND, saved_memory=MEMORY)
    await begun_before(host, job)
    host.engine.order_job(job)
    await host.kill()
    host.control(Do.CRASH, VM)

    await host.start()

    assert "not saved" in (await host.engine.until_outcome(job)).reason
    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.CRASHED


@pytest.mark.parametrize("kind", [JobKind.VM_REBOOT, JobKind.VM_SUSPEND, JobKind.VM_CONTINUE])
async def test_a_job_on_a_vm_that_is_not_there_fails(host: Host, kind: JobKind) -> None:
    await host.start()

    job = host.engine.order_job(a_job(kind, saved_memory=MEMORY))

    assert "does not run" in (await host.engine.until_outcome(job)).reason


async def test_a_job_waits_for_the_start_of_its_run(host: Host) -> None:
    await host.start(Faults(start_s=0.2))
    host.engine.order(run_item())

    job = host.engine.order_job(a_job(JobKind.VM_REBOOT))

    assert (await host.engine.until_outcome(job)).state is JobState.DONE


async def test_an_outcome_that_was_not_acknowledged_is_told_again(host: Host) -> None:
    await started(host)
    host.engine.lose_answers = 3

    job = host.engine.order_job(a_job(JobKind.VM_REBOOT))
    await host.engine.until_outcome(job)
    host.engine.jobs[job.id] = job
    await host.restart()
    await host.engine.until(lambda e: len(e.hellos) == 2)
    await asyncio.sleep(0.2)

    assert host.engine.outcomes[job.id].state is JobState.DONE
    assert host.engine.states[VM, 1].resets == 1


async def test_jobs_wait_while_the_hypervisor_is_away(host: Host) -> None:
    await started(host)
    host.faults(away=True)

    job = host.engine.order_job(a_job(JobKind.VM_SUSPEND, saved_memory=MEMORY))
    await asyncio.sleep(0.15)
    assert job.id not in host.engine.outcomes
    host.faults()

    assert (await host.engine.until_outcome(job)).state is JobState.DONE
