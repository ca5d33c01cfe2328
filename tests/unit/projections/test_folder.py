"""The folder over a store in memory: what it loads, and the order in which a build is written."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from events.codec import CODEC
from events.stream.port import Batch, Cursor
from projections.folder import Folder
from projections.store import Changes
from tests.simulation.projection import MemoryStore, differences
from tests.unit.projections.history import History, busy_history

BATCH_EVENTS = 37


class TellingStore(MemoryStore):
    """A store that notes what it is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def complete_audits(self) -> None:
        self.asked.append("complete the audit records")
        await super().complete_audits()

    async def write(self, changes: Sequence[Changes], before: Cursor, after: Cursor) -> None:
        self.asked += [change.part.table for change in changes]
        await super().write(changes, before, after)


async def folded(history: History, *, building: bool, cached_max: int) -> TellingStore:
    store = TellingStore()
    folder = Folder(
        store,  # type: ignore[arg-type]
        CODEC,
        building=building,
        cached_max=cached_max,
        unwritten_max=40 if building and cached_max < len(history.events) else 1_000_000,
    )
    await folder.load()
    for first in range(0, len(history.events), BATCH_EVENTS):
        events = history.events[first : first + BATCH_EVENTS]
        cursor = Cursor(history.log_id, first + len(events))
        await folder.take(Batch(events=events, cursor=cursor))
    await folder.flush()
    return store


@pytest.mark.parametrize(("building", "cached_max"), [(False, 0), (False, 10), (True, 5)])
async def test_what_is_not_at_hand_is_loaded(*, building: bool, cached_max: int) -> None:
    history = busy_history(30, 1_500, seed=3, renaming=True)
    whole = await folded(history, building=True, cached_max=1_000_000)
    assert differences(await folded(history, building=building, cached_max=cached_max), whole) == []


async def test_a_build_completes_its_audit_records_before_documents_are_rendered() -> None:
    history = busy_history(5, 200)
    store = await folded(history, building=True, cached_max=1_000_000)
    completed = store.asked.index("complete the audit records")
    assert set(store.asked[:completed]) == {"events"}
    assert {"vms", "hosts", "operations"} <= set(store.asked[completed:])
    assert "events" not in store.asked[completed:]
    following = await folded(history, building=False, cached_max=1_000_000)
    assert "complete the audit records" not in following.asked
