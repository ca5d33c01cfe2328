"""Sessions: what an agent acts on, what it tells, and what it keeps while nobody listens."""

import asyncio
import shutil

import msgspec
import pytest

from events.types.vm import DownReason
from events.wire.agent import CapabilitiesItem, FullStateItem, VmState
from hostagent import desk as desk_module
from hostagent.journal import JOURNAL_NAME
from hostagent.records import Lost
from hostagent.simulated_state import Do, Faults
from tests.unit.hostagent.conftest import Host
from tests.unit.hostagent.samples import OTHER, VM, run_item


async def test_reports_are_numbered_within_their_session(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)
    host.engine.replace_session()
    await host.engine.until(lambda e: e.reports[-1].session == "session-2")

    for session in {report.session for report in host.engine.reports}:
        numbers = [r.sequence for r in host.engine.reports if r.session == session]
        assert numbers == list(range(1, len(numbers) + 1))


async def test_a_hello_that_is_doubted_is_said_again_with_the_engines_word(host: Host) -> None:
    host.engine.doubt = "a word"
    await host.start()
    await host.engine.until(lambda e: e.reports)
    host.engine.replace_session()
    await host.engine.until(lambda e: len(e.hellos) == 3)
    assert [hello.doubt for hello in host.engine.hellos] == ["", "a word", ""]


async def test_a_lost_answer_repeats_the_same_report(host: Host) -> None:
    host.engine.lose_answers = 2
    await host.start()

    host.engine.order(run_item())

    await host.engine.until_state(VM, VmState.RUNNING)


async def test_what_may_still_be_under_way_is_the_last_of_its_session(host: Host) -> None:
    """given a report whose answer was lost, then the next one is of another session"""
    await host.start()
    await host.engine.until(lambda e: e.reports)
    host.engine.lose_answers = 2
    host.engine.order(run_item())
    await host.engine.until(lambda e: e.session == "session-2")
    await host.engine.until_state(VM, VmState.RUNNING)
    await host.engine.until(lambda e: e.reports[-1].session == "session-2")

    assert len(host.engine.hellos) == 2
    told = [(report.session, report.sequence) for report in host.engine.reports]
    assert told == sorted(set(told))


async def test_what_never_left_ends_no_session(host: Host) -> None:
    """given an engine where nobody listens for a while, then the session goes on"""
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)

    host.engine.refusing = True
    host.control(Do.CRASH, VM)
    await asyncio.sleep(0.1)
    host.engine.refusing = False

    await host.engine.until_state(VM, VmState.ABSENT)
    assert len(host.engine.hellos) == 1


async def test_a_new_session_begins_with_all_that_is_on_the_host(host: Host) -> None:
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)

    host.engine.replace_session()
    await host.engine.until(
        lambda e: e.session == "session-2" and e.reports[-1].session == e.session
    )

    first = next(r for r in host.engine.reports if r.session == "session-2")
    full = first.items[0]
    assert isinstance(full, FullStateItem)
    assert [(vm.vm, vm.state) for vm in full.vms] == [(VM, VmState.RUNNING)]


async def test_a_full_state_lists_what_is_ordered_but_not_yet_started(host: Host) -> None:
    host.engine.order(run_item())

    await host.start(Faults(hang_starts=True))

    await host.engine.until(lambda e: any(isinstance(i, FullStateItem) for i in e.items))
    full = next(i for i in host.engine.items if isinstance(i, FullStateItem))
    assert [(vm.vm, vm.state) for vm in full.vms] == [(VM, VmState.STARTING)]


async def test_a_full_state_does_not_speak_of_orders_that_came_after_it(host: Host) -> None:
    await host.start()
    await host.engine.until(lambda e: len(e.reports) == 1)
    host.engine.lose_answers = 1_000
    host.engine.replace_session()
    await host.engine.until(lambda e: len(e.reports) == 2)
    before = host.engine.position

    host.engine.order(run_item())
    await asyncio.sleep(0.1)

    assert host.engine.reports[1].applied_position == before


async def test_an_engine_away_for_long_gets_the_newest_facts(host: Host) -> None:
    await host.start()
    host.engine.order(run_item(VM))
    host.engine.order(run_item(OTHER))
    await host.engine.until_state(VM, VmState.RUNNING)
    await host.engine.until_state(OTHER, VmState.RUNNING)
    told = len(host.engine.items)

    host.engine.away = True
    for _ in range(300):
        host.control(Do.RESET, OTHER)
        await asyncio.sleep(0)
    host.control(Do.CRASH, VM)
    await asyncio.sleep(0.2)
    assert len(host.agent.desk.outbox) <= 3
    assert await host.incarnations() == [(OTHER, 1)]
    host.engine.away = False

    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.CRASHED
    await host.engine.until(lambda e: e.states[OTHER, 1].resets == 300)
    assert len(host.engine.items) - told < 50


async def test_vms_run_on_while_the_engine_is_away_and_starts_are_put_off(host: Host) -> None:
    host.engine.poll_s = 0.05
    await host.start()
    host.engine.order(run_item())
    await host.engine.until_state(VM, VmState.RUNNING)

    host.engine.away = True
    await asyncio.sleep(0.3)

    assert await host.incarnations() == [(VM, 1)]


async def test_an_agent_that_stood_still_asks_again_before_it_starts_anything(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.start()
    await host.engine.until(lambda e: e.reports)
    host.faults(away=True)
    host.engine.order(run_item())
    await asyncio.sleep(0.05)
    # The engine goes away, withdraws the start, and the machine sleeps for an hour.
    host.engine.away = True
    await asyncio.sleep(0.05)
    really = desk_module.moment
    monkeypatch.setattr(desk_module, "moment", lambda: really() + 3_600)

    host.faults()
    await asyncio.sleep(0.2)

    assert await host.incarnations() == []
    monkeypatch.setattr(desk_module, "moment", really)
    host.engine.absent(VM, reason=DownReason.WITHDRAWN)
    host.engine.away = False
    assert (await host.engine.until_state(VM, VmState.ABSENT)).reason is DownReason.WITHDRAWN


async def test_what_the_engine_has_is_not_told_again(host: Host) -> None:
    host.engine.compare_interval_s = 0.05
    await host.start()
    host.engine.order(run_item())
    await host.engine.until(lambda e: (VM, 1) in e.states and e.states[VM, 1].guest_up)
    await asyncio.sleep(0.3)
    told = len(host.engine.items)

    await asyncio.sleep(0.4)

    assert len(host.engine.items) == told


async def test_changed_abilities_are_told(host: Host) -> None:
    host.engine.compare_interval_s = 0.05
    await host.start()
    await host.engine.until(lambda e: e.reports)

    host.driver._capabilities = msgspec.structs.replace(
        host.driver._capabilities, bridges=("br0", "br7")
    )

    await host.engine.until(lambda e: any(isinstance(i, CapabilitiesItem) for i in e.items))


async def test_an_agent_greets_while_the_hypervisor_is_away_if_it_knew_it_before(
    host: Host,
) -> None:
    await host.start()
    await host.engine.until(lambda e: e.reports)

    await host.restart(Faults(away=True))

    await host.engine.until(lambda e: len(e.hellos) == 2)
    await host.engine.until(
        lambda e: any(isinstance(i, FullStateItem) and not i.known for i in e.items)
    )


async def test_a_lost_journal_is_rebuilt_from_what_runs(host: Host) -> None:
    await host.start()
    host.engine.order(run_item(VM))
    await host.engine.until_state(VM, VmState.RUNNING)
    await host.kill()
    (host.folder / "state" / JOURNAL_NAME).unlink()
    # Ordered before the journal was lost: begun, for all that the agent can tell.
    host.engine.order(run_item(OTHER))

    await host.start()

    state = await host.engine.until_state(OTHER, VmState.ABSENT)
    assert state.reason is DownReason.START_FAILED
    assert "journal" in state.detail
    assert await host.incarnations() == [(VM, 1)]
    host.engine.order(run_item(OTHER, 2))
    await host.engine.until_state(OTHER, VmState.RUNNING, 2)
    assert not host.agent.desk.journal.known.lost


async def test_nothing_starts_after_a_loss_until_the_engine_heard_what_runs(host: Host) -> None:
    await host.start()
    await host.engine.until(lambda e: e.reports)
    await host.agent.desk.journal.write(Lost())
    host.engine.lose_answers = 10_000
    host.engine.replace_session()
    await host.engine.until(lambda e: len(e.hellos) == 2)

    host.engine.order(run_item())
    await asyncio.sleep(0.3)
    assert await host.incarnations() == []
    host.engine.lose_answers = 0

    await host.engine.until_state(VM, VmState.RUNNING)


async def test_a_disk_that_refuses_the_journal_keeps_vms_from_starting(host: Host) -> None:
    await host.start()
    await host.engine.until(lambda e: e.reports)
    folder = host.folder / "state"
    shutil.move(folder, host.folder / "moved")

    host.engine.order(run_item())
    await asyncio.sleep(0.2)
    assert await host.incarnations() == []
    shutil.move(host.folder / "moved", folder)

    await host.engine.until_state(VM, VmState.RUNNING)
