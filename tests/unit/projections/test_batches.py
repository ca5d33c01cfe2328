"""However the log is cut into batches, the inventory is the same."""

import random

import pytest

from projections.views.inventory import Inventory
from projections.views.tables import audit_row, shelves
from tests.unit.projections.history import History, busy_history

Rows = dict[str, dict[str, tuple[object, ...]]]


def build(history: History, cuts: list[int]) -> tuple[Rows, dict[str, dict[str, int]]]:
    """The rows that a database would hold after the batches that end at the cuts."""
    inventory = Inventory()
    rows: Rows = {}
    removed: dict[str, dict[str, int]] = {}
    recorded = history.recorded()
    for first, last in zip([0, *cuts], [*cuts, len(recorded)], strict=True):
        for vm in inventory.vms.documents.values():
            if vm.host is not None:
                inventory.on_host(vm.host.id, vm.id)
        for event in recorded[first:last]:
            inventory.apply(event)
        inventory.finish()
        for table, shelf in shelves(inventory):
            held = rows.setdefault(table.name, {})
            fresh, changed = table.rows(shelf)
            assert not {row[0] for row in fresh} & held.keys(), "a new one is there already"
            assert {row[0] for row in changed} <= held.keys(), "a changed one is not there"
            for row in fresh + changed:
                held[row[0]] = row
            for object_id in shelf.removed:
                held.pop(object_id, None)
            removed.setdefault(table.name, {}).update(shelf.removed)
        for record in inventory.audits:
            rows.setdefault("events", {})[str(record.position)] = audit_row(record)
        inventory.written()
    return rows, removed


@pytest.mark.parametrize("seed", range(4))
def test_rows_do_not_depend_on_the_batches(seed: int) -> None:
    history = busy_history(30, 1_500, hosts=6, seed=seed, renaming=True)
    dice = random.Random(seed)
    count = len(history.events)
    whole = build(history, [])
    assert build(history, list(range(1, count))) == whole
    assert build(history, sorted(dice.sample(range(1, count), 40))) == whole
    assert whole[0]["vms"]


def test_counts_equal_those_of_the_documents() -> None:
    history = busy_history(40, 2_000, hosts=6, seed=9)
    inventory = Inventory()
    for event in history.recorded():
        inventory.apply(event)
    inventory.finish()
    vms = list(inventory.vms.documents.values())
    for document in inventory.clusters.documents.values():
        mine = [vm for vm in vms if vm.cluster.id == document.id]
        assert document.vms is not None
        assert document.vms.total == len(mine)
        assert document.vms.up == sum(vm.status == "up" for vm in mine)
    for host in inventory.hosts.documents.values():
        there = [vm for vm in vms if vm.host is not None and vm.host.id == host.id]
        assert host.vms is not None
        assert (host.vms.total, host.vms.up) == (
            len(there),
            sum(vm.status == "up" for vm in there),
        )
