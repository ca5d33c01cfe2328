"""Configurations over time: from events to rows that count from one time up to another.

`fold` is pure: it takes the rows that count now and an event, and returns what counts afterwards.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from events.envelope import Recorded
from events.types.affinity import (
    Affinity,
    AffinityGroupCreated,
    AffinityGroupRemoved,
    AffinityGroupUpdated,
    AffinityLabelCreated,
    AffinityLabelRemoved,
    AffinityLabelUpdated,
    Member,
)
from events.types.base import Event
from events.types.cluster import ClusterCreated, ClusterRemoved, ClusterUpdated
from events.types.data_center import (
    DataCenterCreated,
    DataCenterRemoved,
    DataCenterRenamed,
    DataCenterVersionRaised,
)
from events.types.host import (
    HostAdded,
    HostCapabilitiesReported,
    HostClusterChanged,
    HostRemoved,
)
from events.types.run_spec import VmConfiguration
from events.types.vm import VmCreated, VmRemoved, VmUpdated

Row = dict[str, Any]
"""A configuration: column to value, without its key, position and validity."""


class Versioned(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of object whose configurations are kept: its table is `<kind>_configuration`.

    `fold(row, event)` returns the row after an event: the same if nothing changed, None if the
    object is gone.
    """

    kind: str
    events: tuple[type[Event], ...]
    fold: Callable[[Row | None, Any], Row | None]
    revision: int = 1
    """Raised where rows follow from events in another way: all are worked out anew then."""

    @property
    def table(self) -> str:
        """The table's name."""
        return f"{self.kind}_configuration"


class Changes(msgspec.Struct, kw_only=True):
    """What a batch does to one table.

    `closed` maps ids to the time at which their open row in the table ends; `rows` are new, some
    of them already ended.
    """

    closed: dict[str, dt.datetime] = {}
    rows: list[Row] = []


def _data_center(row: Row | None, event: Any) -> Row | None:  # noqa: ANN401  one of `events`
    match event:
        case DataCenterCreated():
            return {
                "name": event.name,
                "description": event.description,
                "storage_type": event.storage_type.value,
                "compatibility_version": event.compatibility_version,
            }
        case DataCenterRenamed():
            return {**(row or {}), "name": event.name, "description": event.description}
        case DataCenterVersionRaised():
            return {**(row or {}), "compatibility_version": event.compatibility_version}
        case _:
            return None


def _cluster(row: Row | None, event: Any) -> Row | None:  # noqa: ANN401
    match event:
        case ClusterCreated():
            place = {"data_center": event.data_center, "architecture": event.architecture}
        case ClusterUpdated():
            place = row or {}
        case _:
            return None
    return {
        **place,
        "name": event.name,
        "description": event.description,
        "cpu_model": event.cpu_model,
        "machine_type": event.machine_type,
        "compatibility_version": event.compatibility_version,
    }


def _host(row: Row | None, event: Any) -> Row | None:  # noqa: ANN401
    match event:
        case HostAdded():
            return {
                "name": event.name,
                "cluster": event.cluster,
                "data_center": event.data_center,
                "address": event.address,
            }
        case HostClusterChanged():
            return {**(row or {}), "cluster": event.cluster}
        case HostCapabilitiesReported():
            able = event.capabilities
            return {
                **(row or {}),
                "hostname": able.hostname,
                "architecture": able.architecture,
                "cpus": able.cpus,
                "cpu_model": able.cpu_model,
                "memory_bytes": able.memory_bytes,
                "hypervisor_version": able.hypervisor_version,
                "agent_version": able.agent_version,
            }
        case _:
            return None


def _hardware(configuration: VmConfiguration) -> Row:
    topology = configuration.topology
    return {
        "memory_bytes": configuration.memory_bytes,
        "cpus": topology.count,
        "sockets": topology.sockets,
        "cores": topology.cores,
        "threads": topology.threads,
        "disks": len(configuration.disks),
        "disks_bytes": sum(disk.size_bytes for disk in configuration.disks),
        "nics": len(configuration.nics),
    }


def _vm(row: Row | None, event: Any) -> Row | None:  # noqa: ANN401
    match event:
        case VmCreated():
            return {
                "name": event.name,
                "data_center": event.data_center,
                "cluster": event.cluster,
                "description": event.description,
                "delete_protected": event.delete_protected,
                **_hardware(event.configuration),
            }
        case VmUpdated():
            return {
                **(row or {}),
                "name": event.name,
                "data_center": event.data_center,
                "description": event.description,
                "delete_protected": event.delete_protected,
                **_hardware(event.configuration),
            }
        case _:
            return None


def _ids(members: Iterable[Member]) -> list[str]:
    return [member.id for member in members]


def _rules(affinity: Affinity) -> Row:
    return {
        "vm_rule": affinity.vm_rule.polarity.value,
        "vm_enforcing": affinity.vm_rule.enforcing,
        "host_rule": affinity.host_rule.polarity.value,
        "host_enforcing": affinity.host_rule.enforcing,
        "priority": affinity.priority,
        "vms": _ids(affinity.vms),
        "hosts": _ids(affinity.hosts),
        "vm_labels": _ids(affinity.vm_labels),
        "host_labels": _ids(affinity.host_labels),
    }


def _affinity_group(row: Row | None, event: Any) -> Row | None:  # noqa: ANN401
    del row
    if not isinstance(event, AffinityGroupCreated | AffinityGroupUpdated):
        return None
    return {
        "name": event.name,
        "cluster": event.cluster,
        "description": event.description,
        **_rules(event.affinity),
    }


def _affinity_label(row: Row | None, event: Any) -> Row | None:  # noqa: ANN401
    del row
    if not isinstance(event, AffinityLabelCreated | AffinityLabelUpdated):
        return None
    return {
        "name": event.name,
        "description": event.description,
        "vms": _ids(event.vms),
        "hosts": _ids(event.hosts),
    }


VERSIONED: tuple[Versioned, ...] = (
    Versioned(
        kind="data_center",
        events=(
            DataCenterCreated,
            DataCenterRenamed,
            DataCenterVersionRaised,
            DataCenterRemoved,
        ),
        fold=_data_center,
    ),
    Versioned(
        kind="cluster",
        events=(ClusterCreated, ClusterUpdated, ClusterRemoved),
        fold=_cluster,
    ),
    Versioned(
        kind="host",
        events=(HostAdded, HostCapabilitiesReported, HostClusterChanged, HostRemoved),
        fold=_host,
    ),
    Versioned(kind="vm", events=(VmCreated, VmUpdated, VmRemoved), fold=_vm),
    Versioned(
        kind="affinity_group",
        events=(AffinityGroupCreated, AffinityGroupUpdated, AffinityGroupRemoved),
        fold=_affinity_group,
    ),
    Versioned(
        kind="affinity_label",
        events=(AffinityLabelCreated, AffinityLabelUpdated, AffinityLabelRemoved),
        fold=_affinity_label,
    ),
)
"""All kinds. To keep another: a table in schema.sql, a fold here, and a line in this tuple."""


def changes(kind: Versioned, batch: Iterable[Recorded], open_rows: Mapping[str, Row]) -> Changes:
    """Return what a batch does to a kind's table, given the open rows of the objects in it."""
    answer = Changes(closed={}, rows=[])
    current: dict[str, Row] = dict(open_rows)
    in_batch: dict[str, Row] = {}
    for recorded in batch:
        if not isinstance(recorded.event, kind.events):
            continue
        object_id = recorded.object_id
        before = current.get(object_id)
        after = kind.fold(before, recorded.event)
        if after == before:
            continue
        if object_id in in_batch:
            in_batch.pop(object_id)["valid_to"] = recorded.time
        elif before is not None:
            answer.closed[object_id] = recorded.time
        if after is None:
            current.pop(object_id, None)
            continue
        current[object_id] = after
        row = {
            kind.kind: object_id,
            **after,
            "position": recorded.position,
            "valid_from": recorded.time,
            "valid_to": None,
        }
        in_batch[object_id] = row
        answer.rows.append(row)
    return answer
