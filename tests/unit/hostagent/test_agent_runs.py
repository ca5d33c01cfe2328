"""An agent starts, watches and ends VMs as the engine wants, each incarnation once."""

import asyncio

import msgspec
import pytest

from events.types.job import JobKind
from events.types.vm import DownReason, PauseReason
from events.wire.agent import FullStateItem, Role, VmState
from hostagent.journal import JournalLockedError
from hostagent.simulated_state import Control, Do, Faults
from tests.unit.hostagent.conftest import TIMINGS, Host
from tests.unit.hostagent.samples import OTHER, VM, a_job, run_item


async def test_an_ordered_vm_starts_and_comes_up(host: Host) -> None:
    await host.start()

    host.engine.order(run_item())

    await host.engine.until(
        lambda e: (VM, 1) in e.states and e.states[VM, 1].guest_up and e.states[VM, 1].addresses
    )
    state = host.engine.states[VM, 1]
    assert state.state is VmState.RUNNING
    assert state.hostname == "web-01"
    assert await host.incarnations() == [(VM, 1)]


async def test_a_guest_is_asked_as_soon_as_it_is_launched_not_a_poll_later(host: Host) -> None:
    seldom = msgspec.structs.replace(TIMINGS, guest_poll_s=3_600.0)
    await host.start(Faults(start_s=0.1), timings=seldom)

    host.engine.order(run_item())

    await host.engine.until(lambda e: (VM, 1) in e.states and e.states[VM, 1].guest_up)


async def test_vms_ordered_before_hello_start_too(host: Host) -> None:
    host.engine.order(run_item(VM))
    host.engine.order(run_item(OTHER))

    await host.start()

    await host.engine.until_state(VM, VmState.RUNNING)
    await host.engine.until_state(OTHER, VmState.RUNNING)


async def test_a_start_that_fails_is_absent_with_its_reason(host: Host) -> None:
    await host.start(Faults(start_failures=-1, start_failure="no memory left"))

    host.engine.order(run_item())

    state = await host.engine.until_state(VM, VmState.ABSENT)
    assert (state.reason, state.detail) == (DownReason.START_FAILED, "no memory left")
    host.faults()
    host.engine.order(run_item())
    await asyncio.sleep(0.2)
    assert await host.incarnations() == [], "a tombstoned incarnation was started"
    host.engine.order(run_item(incarnation=2))
    await host.engine.until_state(VM, VmState.RUNNING, 2)


@pytest.mark.parametrize(
    ("do", "reason"),
    [(Do.CRASH, DownReason.CRASHED), (Do.GUEST_POWER_OFF, DownReason.GUEST)],
)
async def test_an_end_is_reported_with_who_ended_it(host: Host, do: Do, reason: DownReason) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)

    host.control(do, VM)

    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is reason


async def test_a_power_off_destroys_and_says_who_asked(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)

    host.engine.absent(VM, reason=DownReason.ADMIN)

    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.ADMIN
    assert await host.incarnations() == []


async def test_a_withdrawn_start_is_answered_without_a_start(host: Host) -> None:
    host.engine.order(run_item())
    host.engine.absent(VM, reason=DownReason.WITHDRAWN)

    await host.start()

    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.WITHDRAWN


async def test_a_hanging_start_is_ended_by_its_withdrawal(host: Host) -> None:
    await host.start(Faults(hang_starts=True))
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.STARTING)
    await asyncio.sleep(0.1)

    host.engine.absent(VM, reason=DownReason.WITHDRAWN)

    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.WITHDRAWN
    host.faults()
    await asyncio.sleep(0.1)
    assert await host.incarnations() == []


async def test_a_start_that_never_ends_fails_after_its_time(host: Host) -> None:
    await host.start(Faults(hang_starts=True))
    host.engine.order(run_item())

    state = await host.engine.until_state(VM, VmState.ABSENT)

    assert state.reason is DownReason.START_FAILED


async def test_pauses_and_resets_are_told(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)

    host.control(Do.PAUSE, VM)
    paused = await host.engine.until_state(VM, VmState.PAUSED)
    job = host.engine.order_job(a_job(JobKind.VM_CONTINUE))
    await host.engine.until_outcome(job)
    assert host.engine.states[VM, 1].state is VmState.RUNNING
    host.control(Do.RESET, VM)
    host.control(Do.RESET, VM)

    assert paused.pause_reason is PauseReason.IO_ERROR
    await host.engine.until(lambda e: e.states[VM, 1].resets == 2)


async def test_a_guest_without_an_agent_counts_as_up_after_its_time(host: Host) -> None:
    await host.start(Faults(silent=True))
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)
    assert not host.engine.states[VM, 1].guest_up

    await host.engine.until(lambda e: e.states[VM, 1].guest_up)

    assert host.engine.states[VM, 1].hostname == ""


async def test_a_restarted_agent_adopts_what_runs(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until(lambda e: (VM, 1) in e.states and e.states[VM, 1].guest_up)
    before = await host.driver.domains()

    await host.restart()
    await host.engine.until(lambda e: e.reports[-1].session == "session-2")

    assert await host.driver.domains() == before
    assert host.engine.states[VM, 1].guest_up


async def test_what_ended_while_no_agent_looked_is_crashed(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)

    await host.kill()
    host.control(Do.CRASH, VM)
    await host.start()

    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.CRASHED


async def test_what_a_reboot_of_the_host_ended_is_lost(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)

    await host.kill()
    host.driver.power_off()
    await host.start()

    state = await host.engine.until_state(VM, VmState.ABSENT)
    assert state.reason is DownReason.HOST_LOST
    assert len({hello.boot for hello in host.engine.hellos}) == 2


async def test_a_start_interrupted_by_the_agents_death_runs_once(host: Host) -> None:
    await host.start(Faults(start_s=0.3))
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.STARTING)
    await asyncio.sleep(0.1)

    await host.restart(Faults())

    state = await host.engine.until_state(VM, VmState.ABSENT)
    assert state.reason is DownReason.START_FAILED
    await asyncio.sleep(0.5)
    assert await host.incarnations() == [], "the dead agent's start came after its absence"


async def test_a_start_that_ended_while_the_agent_was_dead_is_adopted(host: Host) -> None:
    await host.start(Faults(start_s=0.15))
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.STARTING)
    await asyncio.sleep(0.1)

    await host.kill()
    await asyncio.sleep(0.2)
    await host.start(Faults())

    await host.engine.until_state(VM, VmState.RUNNING)
    assert await host.incarnations() == [(VM, 1)]


async def test_an_older_incarnation_is_told_not_touched_until_it_is_ordered_away(
    host: Host,
) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)
    await host.kill()
    host.engine.vms.clear()
    host.engine.order(run_item(incarnation=2))

    await host.start()
    await host.engine.until(
        lambda e: any(
            isinstance(i, FullStateItem) and {v.incarnation for v in i.vms} == {1, 2}
            for i in e.items
        )
    )
    await asyncio.sleep(0.1)
    assert await host.incarnations() == [(VM, 1)]
    host.engine.absent(VM, 1, reason=DownReason.ADMIN)

    await host.engine.until_state(VM, VmState.ABSENT, 1)
    await host.engine.until_state(VM, VmState.RUNNING, 2)
    assert await host.incarnations() == [(VM, 2)]


async def test_unmanaged_and_stray_domains_are_told_and_left_alone(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)
    host.engine.vms.clear()
    host.engine.states.clear()
    await host.restart()

    host.driver.control(Control(do=Do.ADD_UNMANAGED, name="somebody-elses"))

    await host.engine.until(
        lambda e: any(
            isinstance(i, FullStateItem) and i.unmanaged == ("somebody-elses",) for i in e.items
        )
    )
    assert await host.incarnations() == [(VM, 1)]
    assert host.engine.states[VM, 1].state is VmState.RUNNING


async def test_a_hypervisor_away_is_told_as_not_known_and_nothing_is_done(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)

    host.faults(away=True)
    await host.engine.until(
        lambda e: any(isinstance(i, FullStateItem) and not i.known for i in e.items)
    )
    host.engine.order(run_item(OTHER))
    host.engine.absent(VM, reason=DownReason.ADMIN)
    await asyncio.sleep(0.2)
    assert host.engine.states[VM, 1].state is VmState.RUNNING
    assert (OTHER, 1) not in host.engine.states
    host.faults()

    await host.engine.until_state(VM, VmState.ABSENT)
    await host.engine.until_state(OTHER, VmState.RUNNING)


async def test_a_crash_while_the_hypervisor_is_away_is_found_afterwards(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)
    host.faults(away=True)
    await host.engine.until(
        lambda e: any(isinstance(i, FullStateItem) and not i.known for i in e.items)
    )

    host.control(Do.CRASH, VM)
    host.faults()

    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.CRASHED


async def test_a_held_vm_is_told_as_paused_and_never_resumed(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)
    host.driver.hold(VM)

    job = host.engine.order_job(a_job(JobKind.VM_CONTINUE))

    assert "migration" in (await host.engine.until_outcome(job)).reason
    await host.engine.until_state(VM, VmState.PAUSED)


async def test_an_incoming_vm_is_awaited_and_adopted_when_it_is_there(host: Host) -> None:
    await host.start()
    host.engine.order(run_item(role=Role.INCOMING))
    await asyncio.sleep(0.1)
    assert await host.incarnations() == []

    item = run_item()
    assert item.spec is not None
    await host.driver.start(item.spec)

    await host.engine.until_state(VM, VmState.RUNNING)


async def test_two_agents_do_not_share_a_state_folder(host: Host) -> None:
    await host.start()

    with pytest.raises(JournalLockedError):
        await Host(host.folder).start()


async def test_many_vms_start_a_few_at_a_time(host: Host) -> None:
    await host.start(Faults(start_s=0.05))
    vms = [f"018f0000-0000-7000-8000-{number:012d}" for number in range(40)]

    for vm in vms:
        host.engine.order(run_item(vm))

    await host.engine.until(
        lambda e: all((vm, 1) in e.states and e.states[vm, 1].guest_up for vm in vms), 10
    )
    assert len(await host.incarnations()) == 40


async def test_samples_are_sent_and_named(host: Host) -> None:
    host.engine.telemetry_interval_s = 0.05
    await host.start()
    host.engine.order(run_item())

    await host.engine.until(lambda e: any(batch.vms for batch in e.telemetry))

    batch = next(batch for batch in host.engine.telemetry if batch.vms)
    assert (batch.host, batch.boot) == ("h1", host.agent.identity.boot)
    assert batch.vms[0].vm == VM
    numbers = [batch.sequence for batch in host.engine.telemetry]
    assert numbers == sorted(set(numbers))
