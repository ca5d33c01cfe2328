"""Folds over all streams, put away and taken up again: they answer as if they had folded all."""

from __future__ import annotations

import pytest

from commands.gateway.view import SHAPE as VIEW
from commands.gateway.view import GatewayView
from commands.kernel.fold import Loaded
from commands.kernel.shapes import Shape
from commands.kernel.snapshots import Keeper
from commands.policies.facts import SHAPE as FACTS
from commands.policies.facts import Facts
from commands.state.vm import VmStatus
from events.envelope import Recorded
from events.log.memory import MemoryLog
from events.log.port import Snapshot
from tests.unit.policies.test_folds import FOLDS, histories


def folded(history: list[Recorded], fold: Facts | GatewayView) -> None:
    for recorded in history:
        fold.take(recorded)


async def through_a_snapshot(fold: Facts | GatewayView, shape: Shape) -> Facts | GatewayView:
    log = MemoryLog()
    await Keeper(log, shape).save(fold)
    fresh = type(fold)()
    await Keeper(log, shape).restore(fresh)
    return fresh


async def test_facts_taken_up_from_any_place_go_on_as_those_that_folded_everything() -> None:
    for history in await histories():
        live = Facts()
        for cut in range(len(history)):
            live.take(history[cut])
            if cut % 7 and cut != len(history) - 1:
                continue
            restored = await through_a_snapshot(live, FACTS)
            assert isinstance(restored, Facts)
            assert restored.position == live.position
            assert restored.tables() == live.tables()
            assert restored.next_due() == live.next_due()
            assert sorted(restored.lost()) == sorted(live.lost())
            whole = Facts()
            folded(history, whole)
            folded(history[cut + 1 :], restored)
            assert restored.tables() == whole.tables()
            assert restored.next_due() == whole.next_due()
            for host in whole.hosts:
                assert restored.vms_on(host) == whole.vms_on(host)
            for recorded in history:
                assert restored.concerned(recorded) == whole.concerned(recorded)


async def test_a_view_taken_up_gives_every_host_the_same_intent_and_changes() -> None:
    for history in await histories():
        live = GatewayView()
        for cut in range(len(history)):
            live.take(history[cut])
            if cut % 7 and cut != len(history) - 1:
                continue
            restored = await through_a_snapshot(live, VIEW)
            assert isinstance(restored, GatewayView)
            whole = GatewayView()
            folded(history, whole)
            folded(history[cut + 1 :], restored)
            for stream in {recorded.stream for recorded in history}:
                assert restored.known(stream) == whole.known(stream)
            assert restored.clusters == whole.clusters != {}
            for host in whole.hosts:
                assert restored.intent(host) == whole.intent(host)
                for after in range(whole.position + 1):
                    assert restored.changes(host, after) == whole.changes(host, after)


async def test_what_is_not_whole_is_passed_over_for_the_slot_before() -> None:
    # given two snapshots, the newer cut short by a crash: its head stands, a chunk is older
    history = (await histories())[0]
    log, facts = MemoryLog(), Facts()
    keeper = Keeper(log, FACTS)
    folded(history[:10], facts)
    await keeper.save(facts)
    folded(history[10:20], facts)
    await keeper.save(facts)
    chunk = Snapshot(
        name="facts/1/0", schema_hash=FACTS.schema_hash, position=21, version=0, state=b""
    )
    await log.save_snapshot(chunk)

    # when a process starts
    fresh = Facts()
    await Keeper(log, FACTS).restore(fresh)

    # then it begins from the older
    assert fresh.position == 10


async def test_another_schema_begins_from_nothing() -> None:
    history = (await histories())[0]
    log, facts = MemoryLog(), Facts()
    folded(history, facts)
    await Keeper(log, FACTS).save(facts)
    other = Shape(name=FACTS.name, types=FACTS.types, schema_hash="another")

    fresh = Facts()
    await Keeper(log, other).restore(fresh)

    assert fresh.position == 0


async def test_one_is_written_beside_all_else_once_enough_has_happened() -> None:
    history = (await histories())[0]
    log, facts = MemoryLog(), Facts()
    keeper = Keeper(log, FACTS, events_between=10)
    for recorded in history[:9]:
        facts.take(recorded)
        keeper.look(facts)
    assert await log.snapshot("facts/0", FACTS.schema_hash) is None

    facts.take(history[9])
    keeper.look(facts)
    facts.take(history[10])  # while it is being written
    assert keeper._saving is not None
    await keeper._saving

    found = await log.snapshot("facts/0", FACTS.schema_hash)
    assert found is not None
    assert found.position == 10


async def test_waiting_for_a_position_ends_with_it_or_with_the_limit() -> None:
    history = (await histories())[0]
    view = GatewayView()
    with pytest.raises(TimeoutError):
        await view.reach(1, 0.01)
    folded(history[:3], view)
    await view.reach(3, 0.01)


async def test_what_the_view_knows_of_a_stream_is_what_its_events_fold_to() -> None:
    for history in await histories():
        view = GatewayView()
        states: dict[str, Loaded] = {}
        for recorded in history:
            view.take(recorded)
            fold = FOLDS.get(recorded.kind)
            if fold is None:
                continue
            before = states.get(recorded.stream, Loaded(0, None)).state
            states[recorded.stream] = Loaded(recorded.version, fold.evolve(before, recorded))
            known = view.known(recorded.stream)
            assert known is None or known == states[recorded.stream]
            assert (
                known is not None or recorded.kind not in {"host", "vm"} or gone(states, recorded)
            )


def gone(states: dict[str, Loaded], recorded: Recorded) -> bool:
    return bool(states[recorded.stream].state.status is VmStatus.REMOVED)
