"""Configurations over time: given rows and a batch, what counts afterwards."""

from __future__ import annotations

import datetime as dt

from dwh.configuration import VERSIONED, Changes, Row, changes
from events.types.base import Event
from tests.unit.dwh.samples import (
    MIB,
    START,
    host_added,
    host_reported,
    recorded,
    vm_created,
    vm_removed,
    vm_up,
    vm_updated,
)

KINDS = {kind.kind: kind for kind in VERSIONED}


def at(position: int) -> dt.datetime:
    return START + dt.timedelta(seconds=position)


def apply(kind: str, *events: Event, rows: dict[str, Row] | None = None) -> Changes:
    batch = [recorded(number, f"{kind}/x", event) for number, event in enumerate(events, 1)]
    return changes(KINDS[kind], batch, rows or {})


def test_a_creation_opens_a_row() -> None:
    result = apply("vm", vm_created())
    assert result.closed == {}
    (row,) = result.rows
    assert (row["vm"], row["name"], row["cluster"]) == ("x", "web01", "c1")
    assert (row["memory_bytes"], row["cpus"], row["disks_bytes"]) == (512 * MIB, 2, 10 * MIB)
    assert (row["position"], row["valid_from"], row["valid_to"]) == (1, at(1), None)


def test_a_change_in_the_same_batch_ends_the_row_before() -> None:
    first, second = apply("vm", vm_created(), vm_up(), vm_updated()).rows
    assert (first["valid_from"], first["valid_to"]) == (at(1), at(3))
    assert (second["valid_from"], second["valid_to"]) == (at(3), None)
    assert (second["memory_bytes"], second["cluster"]) == (1024 * MIB, "c1")


def test_a_change_of_a_stored_row_closes_it() -> None:
    before = apply("vm", vm_created()).rows[0]
    plain = {
        name: value
        for name, value in before.items()
        if name not in {"vm", "position", "valid_from", "valid_to"}
    }
    result = apply("vm", vm_updated(), rows={"x": plain})
    assert result.closed == {"x": at(1)}
    assert result.rows[0]["cluster"] == "c1"


def test_what_changes_nothing_makes_no_row() -> None:
    result = apply("host", host_added(), host_reported(), host_reported())
    assert len(result.rows) == 2
    assert result.rows[1]["cpus"] == 8
    assert result.rows[1]["name"] == "node1"


def test_a_removal_ends_the_last_row() -> None:
    result = apply("vm", vm_created(), vm_removed())
    assert [row["valid_to"] for row in result.rows] == [at(2)]
    assert result.closed == {}


def test_other_events_do_nothing() -> None:
    assert apply("vm", vm_up()) == Changes(closed={}, rows=[])
