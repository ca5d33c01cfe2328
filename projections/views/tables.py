"""How documents lie in tables: the columns that can be searched and sorted by, and the JSON.

A column here is one in `projections/schema.sql`; the order of the columns is that of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import resources
from typing import Any

import msgspec

from events.audit import AuditRecord
from events.types.catalogue import TYPES
from projections.views import data_center, host_document, host_words, vm_words
from projections.views.audit import AuditDocument, document_of
from projections.views.cluster import ClusterDocument
from projections.views.data_center import DataCenterDocument
from projections.views.host_document import HostDocument
from projections.views.inventory import Inventory
from projections.views.operation import OperationDocument
from projections.views.pieces import SEPARATOR, pieces_of
from projections.views.shelf import Shelf
from projections.views.small_tables import (
    AFFINITY_GROUPS,
    AFFINITY_LABELS,
    MAC_POOLS,
    SCHEDULING_POLICIES,
)
from projections.views.table import Row, Table, encode, folded
from projections.views.vm_document import VmDocument, summary_of

REVISION = 1
"""Raise it where the documents' meaning changes and nothing else would show it."""


def _vm_row(document: VmDocument, position: int) -> Row:
    shown = vm_words.explained(document)
    search = folded(
        shown.name,
        shown.description,
        shown.hostname,
        shown.host.name if shown.host else "",
        shown.cluster.name,
        *shown.addresses,
    )
    return (
        shown.id,
        shown.name.casefold(),
        str(shown.status),
        shown.status_since,
        shown.host.id if shown.host else None,
        shown.cluster.id,
        shown.data_center.id,
        shown.memory_bytes,
        shown.vcpus,
        shown.high_availability.priority if shown.high_availability.enabled else None,
        shown.created_at,
        shown.configuration_version,
        search,
        SEPARATOR.join(pieces_of(search)),
        position,
        encode(summary_of(shown)),
        encode(shown),
    )


def _host_row(document: HostDocument, position: int) -> Row:
    shown = host_words.explained(document)
    search = folded(shown.name, shown.address, shown.cluster.name, shown.data_center.name)
    return (
        shown.id,
        shown.name.casefold(),
        str(shown.status),
        shown.status_since,
        shown.cluster.id,
        shown.data_center.id,
        shown.created_at,
        search,
        SEPARATOR.join(pieces_of(search)),
        position,
        encode(host_document.summary_of(shown)),
        encode(shown),
    )


def _cluster_row(document: ClusterDocument, position: int) -> Row:
    return (
        document.id,
        document.name.casefold(),
        document.data_center.id,
        document.created_at,
        folded(document.name, document.description, document.data_center.name),
        position,
        encode(document),
    )


def _data_center_row(document: DataCenterDocument, position: int) -> Row:
    shown = data_center.explained(document)
    return (
        shown.id,
        shown.name.casefold(),
        str(shown.status),
        shown.created_at,
        shown.configuration_version,
        folded(shown.name, shown.description),
        position,
        encode(shown),
    )


def _operation_row(document: OperationDocument, position: int) -> Row:
    return (
        document.id,
        document.name.casefold(),
        document.kind,
        str(document.status),
        document.target.kind,
        document.target.id,
        document.actor,
        document.started_at,
        document.ended_at,
        folded(document.name, document.kind, document.reason),
        position,
        encode(document),
    )


def audit_row(record: AuditRecord) -> Row:
    """Return the row of an audit record."""
    document = document_of(record)
    return (
        record.position,
        record.time,
        record.code,
        record.name,
        str(record.severity),
        record.actor,
        document.object.kind,
        document.object.id,
        record.correlation,
        record.message,
        encode(document),
    )


VMS: Table[VmDocument] = Table(
    "vms",
    "vm",
    VmDocument,
    {
        "id": "text",
        "name": "text",
        "status": "text",
        "status_since": "timestamptz",
        "host_id": "text",
        "cluster_id": "text",
        "data_center_id": "text",
        "memory_bytes": "int8",
        "vcpus": "int4",
        "restart_priority": "int4",
        "created_at": "timestamptz",
        "configuration_version": "int4",
        "search": "text",
        "pieces": "text",
        "position": "int8",
        "summary": "bytea",
        "document": "bytea",
    },
    _vm_row,
)
HOSTS: Table[HostDocument] = Table(
    "hosts",
    "host",
    HostDocument,
    {
        "id": "text",
        "name": "text",
        "status": "text",
        "status_since": "timestamptz",
        "cluster_id": "text",
        "data_center_id": "text",
        "created_at": "timestamptz",
        "search": "text",
        "pieces": "text",
        "position": "int8",
        "summary": "bytea",
        "document": "bytea",
    },
    _host_row,
)
CLUSTERS: Table[ClusterDocument] = Table(
    "clusters",
    "cluster",
    ClusterDocument,
    {
        "id": "text",
        "name": "text",
        "data_center_id": "text",
        "created_at": "timestamptz",
        "search": "text",
        "position": "int8",
        "document": "bytea",
    },
    _cluster_row,
)
DATA_CENTERS: Table[DataCenterDocument] = Table(
    "data_centers",
    "data_center",
    DataCenterDocument,
    {
        "id": "text",
        "name": "text",
        "status": "text",
        "created_at": "timestamptz",
        "configuration_version": "int4",
        "search": "text",
        "position": "int8",
        "document": "bytea",
    },
    _data_center_row,
)
OPERATIONS: Table[OperationDocument] = Table(
    "operations",
    "operation",
    OperationDocument,
    {
        "id": "text",
        "name": "text",
        "kind": "text",
        "status": "text",
        "target_kind": "text",
        "target_id": "text",
        "actor": "text",
        "started_at": "timestamptz",
        "ended_at": "timestamptz",
        "search": "text",
        "position": "int8",
        "document": "bytea",
    },
    _operation_row,
)
AUDIT_COLUMNS = {
    "position": "int8",
    "time": "timestamptz",
    "code": "int4",
    "name": "text",
    "severity": "text",
    "actor": "text",
    "object_kind": "text",
    "object_id": "text",
    "correlation": "text",
    "message": "text",
    "document": "bytea",
}
REMOVED_COLUMNS = {"kind": "text", "id": "text", "position": "int8"}
TABLES: tuple[Table[Any], ...] = (
    *(DATA_CENTERS, CLUSTERS, HOSTS, VMS, OPERATIONS),
    *(AFFINITY_GROUPS, AFFINITY_LABELS, MAC_POOLS, SCHEDULING_POLICIES),
)


def shelves(inventory: Inventory) -> Iterator[tuple[Table[Any], Shelf[Any]]]:
    """Yield each table with the documents that belong into it."""
    yield DATA_CENTERS, inventory.data_centers
    yield CLUSTERS, inventory.clusters
    yield HOSTS, inventory.hosts
    yield VMS, inventory.vms
    yield OPERATIONS, inventory.operations
    yield AFFINITY_GROUPS, inventory.affinity_groups
    yield AFFINITY_LABELS, inventory.affinity_labels
    yield MAC_POOLS, inventory.mac_pools
    yield SCHEDULING_POLICIES, inventory.scheduling_policies


def schema_hash() -> str:
    """Return what tells one generation of the views from another: a change makes a rebuild.

    It covers the folds' own source, so that nobody has to remember to raise a number; the price is
    a rebuild after a mere change of words, beside the old inventory and while that is served.
    """
    digest = hashlib.sha256(str(REVISION).encode())
    package = resources.files("projections")
    sources = [package / "schema.sql", package / "audit.sql"]
    sources += sorted(
        (entry for entry in (package / "views").iterdir() if entry.name.endswith(".py")),
        key=lambda entry: entry.name,
    )
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    for name, registered in sorted(TYPES.items()):
        digest.update(f"{name} {registered.schema}\n".encode())
    for shown in (*(table.document for table in TABLES), AuditDocument):
        digest.update(msgspec.json.encode(msgspec.json.schema(shown), order="sorted"))
    return digest.hexdigest()
