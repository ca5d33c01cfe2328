"""The folder over a store in memory: what it loads, and the order in which a build is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from events.codec import CODEC
from events.stream.port import Batch, Cursor
from events.types.host import HostActivated, HostMaintenanceEntered
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
        self.looked_on: list[list[str]] = []

    async def vms_on(self, hosts: Iterable[str]) -> list[Any]:
        self.looked_on.append(sorted(hosts))
        return await super().vms_on(hosts)

    async def complete_audits(self) -> None:
        self.asked.append("complete the audit records")
        await super().complete_audits()

    async def write(self, changes: Sequence[Changes], before: Cursor, after: Cursor) -> None:
        self.asked += [change.part.table for change in changes]
        await super().write(changes, before, after)


async def folded(
    history: History,
    *,
    building: bool,
    cached_max: int,
    vms_max: int | None = None,
    batch_events: int = BATCH_EVENTS,
) -> TellingStore:
    store = TellingStore()
    folder = Folder(
        store,  # type: ignore[arg-type]
        CODEC,
        building=building,
        cached_max=cached_max,
        vms_max=vms_max,
        unwritten_max=40 if building and cached_max < len(history.events) else 1_000_000,
    )
    await folder.load()
    for first in range(0, len(history.events), batch_events):
        events = history.events[first : first + batch_events]
        cursor = Cursor(history.log_id, first + len(events))
        await folder.take(Batch(events=events, cursor=cursor))
    await folder.flush()
    return store


@pytest.mark.parametrize(("building", "cached_max"), [(False, 0), (False, 10), (True, 5)])
async def test_what_is_not_at_hand_is_loaded(*, building: bool, cached_max: int) -> None:
    history = busy_history(30, 1_500, seed=3, renaming=True)
    whole = await folded(history, building=True, cached_max=1_000_000)
    assert differences(await folded(history, building=building, cached_max=cached_max), whole) == []


async def test_a_build_lets_operations_go_and_writes_each_vm_once() -> None:
    history = busy_history(30, 1_500, seed=3, renaming=True)
    whole = await folded(history, building=True, cached_max=1_000_000)
    store = await folded(history, building=True, cached_max=5, vms_max=1_000)
    assert differences(store, whole) == []
    operations = [place for place, table in enumerate(store.asked) if table == "operations"]
    first = {table: store.asked.index(table) for table in ("vms", "hosts", "clusters")}
    assert len(operations) > 5
    assert min(first.values()) > operations[-3]
    assert store.looked_on == []


async def test_a_hosts_vms_are_loaded_only_where_it_falls_silent_or_is_heard_again() -> None:
    history = History()
    center = history.make_data_center()
    where = history.make_cluster(center)
    host_id = history.make_host(center, where)
    history.runs(history.make_vm(center, where), host_id)
    before = len(history.events)
    history.session(host_id, "host1")
    history.silence(host_id, "host1")
    history.session(host_id, "host1", boot="boot-2")
    history.session(host_id, "host1", boot="boot-2")
    stream = f"host/{host_id}"
    history.add(stream, HostMaintenanceEntered(name="host1"))
    history.silence(host_id, "host1")
    history.add(stream, HostActivated(name="host1"))

    store = await folded(history, building=False, cached_max=0, batch_events=1)

    on, off = [host_id], list[str]()
    assert store.looked_on[before:] == [off, on, on, off, off, off, on]
    whole = await folded(history, building=True, cached_max=1_000_000)
    assert differences(store, whole) == []


async def test_a_build_completes_its_audit_records_before_documents_are_rendered() -> None:
    history = busy_history(5, 200)
    store = await folded(history, building=True, cached_max=1_000_000)
    completed = store.asked.index("complete the audit records")
    assert set(store.asked[:completed]) == {"events"}
    assert {"vms", "hosts", "operations"} <= set(store.asked[completed:])
    assert "events" not in store.asked[completed:]
    following = await folded(history, building=False, cached_max=1_000_000)
    assert "complete the audit records" not in following.asked
