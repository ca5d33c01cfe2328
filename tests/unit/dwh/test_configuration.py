"""Configurations over time: given rows and a batch, what counts afterwards."""

from __future__ import annotations

import datetime as dt

from dwh.configuration import VERSIONED, Changes, Row, changes
from events.types.affinity import (
    Affinity,
    AffinityGroupCreated,
    AffinityGroupRemoved,
    AffinityGroupUpdated,
    AffinityLabelCreated,
    AffinityLabelRemoved,
    AffinityLabelUpdated,
    Member,
    Polarity,
    Rule,
)
from events.types.base import Event
from events.types.cluster import ClusterCreated, ClusterUpdated
from events.types.cluster_requirements import Requirements
from events.types.data_center import (
    DataCenterCreated,
    DataCenterRenamed,
    DataCenterVersionRaised,
)
from events.types.host import HostClusterChanged
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


def test_a_data_center_follows_its_changes() -> None:
    made = DataCenterCreated(name="Prague", compatibility_version="1.0")
    renamed = DataCenterRenamed(name="Brno", previous_name="Prague")
    raised = DataCenterVersionRaised(
        name="Brno", compatibility_version="1.1", previous_version="1.0"
    )
    rows = apply("data_center", made, renamed, raised).rows
    assert [(row["name"], row["compatibility_version"]) for row in rows] == [
        ("Prague", "1.0"),
        ("Brno", "1.0"),
        ("Brno", "1.1"),
    ]


def test_a_cluster_and_a_hosts_cluster_follow_their_changes() -> None:
    made = ClusterCreated(
        name="main",
        data_center="dc1",
        architecture="x86_64",
        cpu_model="Nehalem",
        machine_type="pc-q35-7.1",
        compatibility_version="1.0",
    )
    changed = ClusterUpdated(
        name="West",
        previous_name="main",
        data_center="dc1",
        description="newer",
        cpu_model="EPYC",
        machine_type="pc-q35-7.2",
        compatibility_version="1.0",
        requirements=Requirements(),
    )
    first, second = apply("cluster", made, changed).rows
    assert (first["cpu_model"], first["valid_to"]) == ("Nehalem", at(2))
    assert (first["name"], second["name"]) == ("main", "West")
    assert (second["cpu_model"], second["data_center"]) == ("EPYC", "dc1")
    assert (second["architecture"], second["valid_to"]) == ("x86_64", None)
    moved = HostClusterChanged(
        name="node1", cluster="c2", cluster_name="other", previous_cluster="c1"
    )
    assert [row["cluster"] for row in apply("host", host_added(), moved).rows] == ["c1", "c2"]


def test_groups_and_labels_have_their_members_over_time() -> None:
    one, two = Member(id="v1", name="web01"), Member(id="v2", name="web02")
    apart = Rule(polarity=Polarity.NEGATIVE, enforcing=True)
    made = AffinityGroupCreated(
        name="apart", cluster="c1", affinity=Affinity(vm_rule=apart, vms=(one,))
    )
    more = AffinityGroupUpdated(
        name="apart",
        former_name="apart",
        cluster="c1",
        affinity=Affinity(vm_rule=apart, vms=(one, two), priority=2.0),
    )
    gone = AffinityGroupRemoved(name="apart", cluster="c1")
    first, second = apply("affinity_group", made, more, gone).rows
    assert (first["vms"], first["vm_rule"], first["vm_enforcing"]) == (["v1"], "negative", True)
    assert (second["vms"], second["priority"], second["valid_to"]) == (["v1", "v2"], 2.0, at(3))
    label = AffinityLabelCreated(name="front", vms=(one,))
    renamed = AffinityLabelUpdated(name="edge", former_name="front", vms=(one,), hosts=(two,))
    found = apply("affinity_label", label, renamed, AffinityLabelRemoved(name="edge")).rows
    assert [(row["name"], row["hosts"]) for row in found] == [("front", []), ("edge", ["v2"])]
