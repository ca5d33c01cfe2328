"""The warehouse's file: what is taken in, once, with its cursor."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from dwh.warehouse import EVENT_TABLES, Warehouse, WarehouseUnavailableError
from events.codec import UnknownEventError
from events.stream.port import START as BEGINNING
from events.stream.port import Cursor
from events.types.affinity import Affinity, AffinityGroupCreated, Member
from events.wire.telemetry import TelemetryBatch
from tests.unit.dwh.samples import (
    LOG,
    MIB,
    batch,
    host_added,
    stored,
    telemetry,
    vm_created,
    vm_down,
    vm_up,
    vm_updated,
)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    warehouse = Warehouse(tmp_path)
    yield warehouse
    warehouse.close()


def rows(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    return warehouse.connection.cursor().execute(sql).fetchall()


LIFE = (
    stored(1, "host/h1", host_added()),
    stored(2, "vm/v1", vm_created()),
    stored(3, "vm/v1", vm_up(), 2),
    stored(4, "vm/v1", vm_down(), 3),
)


def test_events_come_with_audit_configuration_and_cursor(warehouse: Warehouse) -> None:
    assert warehouse.read_cursor() == BEGINNING
    warehouse.take_events(batch(*LIFE))
    assert warehouse.read_cursor() == Cursor(LOG, 4, 7)
    assert rows(warehouse, "SELECT count(*), max(position) FROM events") == [(4, 4)]
    assert rows(warehouse, "SELECT payload ->> 'name' FROM events WHERE position = 2") == [
        ("web01",)
    ]
    assert rows(warehouse, "SELECT code, severity FROM audit ORDER BY position")[-1] == (
        119,
        "error",
    )
    found = rows(warehouse, "SELECT vm, memory_bytes, valid_to FROM vm_configuration")
    assert found == [("v1", 512 * MIB, None)]


def test_a_changed_configuration_is_closed_over_batches(warehouse: Warehouse) -> None:
    warehouse.take_events(batch(*LIFE))
    warehouse.take_events(batch(stored(5, "vm/v1", vm_updated(), 4)))
    found = rows(
        warehouse,
        "SELECT memory_bytes, cluster, valid_from, valid_to FROM vm_configuration"
        " ORDER BY valid_from",
    )
    assert [row[:2] for row in found] == [(512 * MIB, "c1"), (1024 * MIB, "c1")]
    assert found[0][3] == found[1][2]
    assert found[1][3] is None


def test_runs_are_a_view(warehouse: Warehouse) -> None:
    warehouse.take_events(batch(*LIFE))
    ((vm, name, host_name, up, down, reason),) = rows(
        warehouse, "SELECT vm, name, host_name, up, down, reason FROM vm_runs"
    )
    assert (vm, name, host_name, reason) == ("v1", "web01", "node1", "crashed")
    assert (down - up).total_seconds() == 1


def test_a_batch_that_does_not_follow_is_refused_whole(warehouse: Warehouse) -> None:
    warehouse.take_events(batch(*LIFE[:2]))
    with pytest.raises(ValueError, match="events from 4 on, but 2 is stored"):
        warehouse.take_events(batch(LIFE[3]))
    with pytest.raises(ValueError, match="events from 1 on"):
        warehouse.take_events(batch(*LIFE[:2]))
    assert rows(warehouse, "SELECT count(*) FROM events") == [(2,)]


def test_an_unknown_event_stops_right_before_it(warehouse: Warehouse) -> None:
    unknown = msgspec.structs.replace(LIFE[3], name="vm.abducted")
    with pytest.raises(UnknownEventError):
        warehouse.take_events(batch(*LIFE[:3], unknown))
    assert warehouse.read_cursor() == Cursor(LOG, 3)
    assert rows(warehouse, "SELECT max(position) FROM events") == [(3,)]


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Warehouse(tmp_path)
    first.take_events(batch(*LIFE))
    first.take_telemetry(TelemetryBatch(telemetry=[telemetry(1), telemetry(2)], offsets={0: 5}))
    first.close()
    second = Warehouse(tmp_path)
    second.take_telemetry(TelemetryBatch(telemetry=[telemetry(2), telemetry(3)]))
    assert second.read_cursor() == Cursor(LOG, 4, 7)
    assert second.telemetry_offsets() == {0: 5}
    assert rows(second, "SELECT count(*) FROM host_samples") == [(3,)]
    second.close()


def test_telemetry_is_taken_once(warehouse: Warehouse) -> None:
    frames = [telemetry(1, vms=3), telemetry(2, vms=3, dropped=4), telemetry(2, vms=3)]
    warehouse.take_telemetry(TelemetryBatch(telemetry=frames))
    warehouse.take_telemetry(TelemetryBatch(telemetry=[telemetry(1), telemetry(2)]))
    warehouse.take_telemetry(TelemetryBatch(telemetry=[telemetry(1, boot="b2")]))
    warehouse.take_telemetry(TelemetryBatch(telemetry=[telemetry(1, host="h2")]))
    assert rows(warehouse, "SELECT count(*) FROM host_samples") == [(4,)]
    assert rows(warehouse, "SELECT count(*) FROM vm_samples") == [(8,)]
    assert warehouse.watermarks.doubles == 3
    assert warehouse.watermarks.dropped == 4


def test_another_log_is_seeded_anew_and_the_old_one_kept(warehouse: Warehouse) -> None:
    warehouse.take_events(batch(*LIFE))
    warehouse.take_telemetry(TelemetryBatch(telemetry=[telemetry(1)]))
    other = uuid.UUID("12345678-0000-4000-8000-000000000002")
    warehouse.reseed(other)
    assert warehouse.read_cursor() == Cursor(other, 0)
    warehouse.take_events(batch(*LIFE[:2], log_id=other))
    assert rows(warehouse, "SELECT count(*) FROM events") == [(2,)]
    assert rows(warehouse, "SELECT count(*) FROM events_before_12345678") == [(4,)]
    assert rows(warehouse, "SELECT count(*) FROM vm_samples") == [(1,)]
    assert rows(warehouse, "SELECT vm FROM vm_runs") == []
    seeds = rows(warehouse, "SELECT log_id, previous_log_id, previous_position FROM seeds")
    assert seeds == [(str(LOG), None, None), (str(other), str(LOG), 4)]


def test_a_second_process_is_told(tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").write_bytes(b"this is no database" * 1000)
    with pytest.raises(WarehouseUnavailableError, match=r"warehouse\.duckdb cannot be opened"):
        Warehouse(tmp_path)


def test_tables_that_came_later_are_filled_from_the_events(tmp_path: Path) -> None:
    """given a warehouse of a release without some tables, they tell what was before as well"""
    group = AffinityGroupCreated(
        name="pair", cluster="c1", affinity=Affinity(vms=(Member(id="v1", name="web01"),))
    )
    first = Warehouse(tmp_path)
    first.take_events(batch(*LIFE, stored(5, "affinity_group/g1", group)))
    wanted = {
        name: rows(first, f"FROM {name}")
        for name in EVENT_TABLES
        if name.endswith("_configuration")
    }
    first.close()
    assert wanted["affinity_group_configuration"]
    with duckdb.connect(tmp_path / "warehouse.duckdb") as older:
        older.execute("DROP TABLE affinity_group_configuration")
        older.execute("DROP TABLE configuration_revisions")
        older.execute("UPDATE vm_configuration SET name = 'of an older fold'")
    second = Warehouse(tmp_path)
    assert {name: rows(second, f"FROM {name}") for name in wanted} == wanted
    second.take_events(batch(stored(6, "vm/v1", vm_updated(), 4)))
    assert rows(second, "SELECT count(*) FROM vm_configuration WHERE valid_to IS NULL") == [(1,)]
    second.close()
