"""The tables of affinity groups and labels, MAC pools and scheduling policies."""

from __future__ import annotations

from projections.views.affinity import AffinityGroupDocument, AffinityLabelDocument
from projections.views.mac_pool import MacPoolDocument
from projections.views.scheduling_policy import SchedulingPolicyDocument
from projections.views.table import Row, Table, encode, folded


def _affinity_group_row(document: AffinityGroupDocument, position: int) -> Row:
    members = (*document.vms, *document.hosts, *document.vm_labels, *document.host_labels)
    return (
        document.id,
        document.name.casefold(),
        document.cluster.id,
        document.created_at,
        folded(
            document.name,
            document.description,
            document.cluster.name,
            *(member.name for member in members),
        ),
        position,
        encode(document),
    )


def _affinity_label_row(document: AffinityLabelDocument, position: int) -> Row:
    members = (*document.vms, *document.hosts)
    return (
        document.id,
        document.name.casefold(),
        document.created_at,
        folded(document.name, document.description, *(member.name for member in members)),
        position,
        encode(document),
    )


def _mac_pool_row(document: MacPoolDocument, position: int) -> Row:
    return (
        document.id,
        document.name.casefold(),
        document.created_at,
        document.configuration_version,
        folded(document.name, document.description),
        position,
        encode(document),
    )


def _scheduling_policy_row(document: SchedulingPolicyDocument, position: int) -> Row:
    return (
        document.id,
        document.name.casefold(),
        document.created_at,
        folded(document.name, document.description),
        position,
        encode(document),
    )


AFFINITY_GROUPS: Table[AffinityGroupDocument] = Table(
    "affinity_groups",
    "affinity_group",
    AffinityGroupDocument,
    {
        "id": "text",
        "name": "text",
        "cluster_id": "text",
        "created_at": "timestamptz",
        "search": "text",
        "position": "int8",
        "document": "bytea",
    },
    _affinity_group_row,
)
AFFINITY_LABELS: Table[AffinityLabelDocument] = Table(
    "affinity_labels",
    "affinity_label",
    AffinityLabelDocument,
    {
        "id": "text",
        "name": "text",
        "created_at": "timestamptz",
        "search": "text",
        "position": "int8",
        "document": "bytea",
    },
    _affinity_label_row,
)
MAC_POOLS: Table[MacPoolDocument] = Table(
    "mac_pools",
    "mac_pool",
    MacPoolDocument,
    {
        "id": "text",
        "name": "text",
        "created_at": "timestamptz",
        "configuration_version": "int4",
        "search": "text",
        "position": "int8",
        "document": "bytea",
    },
    _mac_pool_row,
)
SCHEDULING_POLICIES: Table[SchedulingPolicyDocument] = Table(
    "scheduling_policies",
    "scheduling_policy",
    SchedulingPolicyDocument,
    {
        "id": "text",
        "name": "text",
        "created_at": "timestamptz",
        "search": "text",
        "position": "int8",
        "document": "bytea",
    },
    _scheduling_policy_row,
)
