"""A state that was stored and read back goes on as the live one does: folds, over the plays' logs.

Snapshots are stored as JSON, where a tuple, a set and a list look alike; a fold that did not come
back the same would decide otherwise after a restart.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.kernel.fold import Fold
from commands.kernel.handler import Repository
from commands.kernel.refusal import Refusal
from commands.operation.cancel import CancelOperation
from commands.state.cluster import CLUSTER
from commands.state.data_center import DATA_CENTER
from commands.state.host import HOST
from commands.state.operation import OPERATION
from commands.state.vm import VM
from events.codec import CODEC
from events.envelope import Recorded
from events.log.memory import MemoryLog
from events.types.operation import OperationTimerSet
from tests.unit.policies.plays import PLAYS, begin
from tests.unit.policies.puppet import copied, play_on

FOLDS: dict[str, Fold[Any]] = {
    fold.kind: fold for fold in (CLUSTER, DATA_CENTER, HOST, OPERATION, VM)
}


async def histories() -> list[list[Recorded]]:
    """Return what was played: each play to its end, failing, cancelled, and with a host lost."""
    played: list[list[Recorded]] = []
    for play in PLAYS:
        for failing in ((), (play.fails_by or "nothing",)):
            begun = await begin(play)
            cancelled = await copied(begun.stage, begun.begun)
            await play_on(begun.stage, failing=failing)
            await begun.stage.pass_time(61)
            played.append(await begun.stage.history())
            with contextlib.suppress(Refusal):
                await cancelled.do(CancelOperation(id=begun.operation))
            await play_on(cancelled)
            played.append(await cancelled.history())
    return played


@functools.cache
def streams() -> list[tuple[Fold[Any], list[Recorded]]]:
    """Return every stream that was played, with its fold."""
    import asyncio  # noqa: PLC0415

    found: list[tuple[Fold[Any], list[Recorded]]] = []
    for history in asyncio.run(histories()):
        for stream in {recorded.stream for recorded in history}:
            fold = FOLDS.get(stream.partition("/")[0])
            if fold is not None:
                found.append((fold, [r for r in history if r.stream == stream]))
    return found


def test_a_state_read_back_is_the_same_and_goes_on_the_same() -> None:
    for fold, events in streams():
        live: Any = None
        for recorded in events:
            restored = live
            if live is not None:
                restored = msgspec.json.decode(msgspec.json.encode(live), type=fold.state)
                assert restored == live
                assert hash_of(restored) == hash_of(live)
            after = fold.evolve(restored, recorded)
            live = fold.evolve(live, recorded)
            assert after == live


def hash_of(state: Any) -> str:
    """Return the shape of a state with its types: (1,) and [1] differ."""
    return repr(state)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_folding_never_fails_on_events_in_any_order(data: st.DataObject) -> None:
    """given events of a stream left out or told in another order, then the fold bears it"""
    fold, events = data.draw(st.sampled_from(streams()))
    some = data.draw(st.lists(st.sampled_from(events), max_size=12))
    state: Any = None
    for recorded in some:
        state = fold.evolve(state, recorded)
        if state is not None:
            assert msgspec.json.decode(msgspec.json.encode(state), type=fold.state) == state


@pytest.mark.parametrize("events", [150, 450])
async def test_a_repository_restarted_on_a_snapshot_loads_the_same(events: int) -> None:
    begun = await begin(PLAYS[1])
    stage = begun.stage
    for _n in range(events):
        await stage.append(
            OPERATION.stream(begun.operation),
            OperationTimerSet(timer="t", due=stage.now, input=1),
        )
    stream = OPERATION.stream(begun.operation)
    whole = (await Repository(stage.log).load({stream: OPERATION}))[stream]
    assert await stage.log.snapshot(stream, OPERATION.schema_hash) is not None or events < 200
    again = (await Repository(stage.log).load({stream: OPERATION}))[stream]
    folded: Any = None
    for stored in await stage.log.load(stream):
        folded = OPERATION.evolve(folded, CODEC.decode(stored))
    assert whole == again
    assert again.state == folded


async def test_an_empty_log_has_nothing_to_load() -> None:
    loaded = await Repository(MemoryLog()).load({"vm/x": VM})
    assert loaded["vm/x"].version == 0
    assert loaded["vm/x"].state is None
