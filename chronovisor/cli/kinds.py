"""The kinds of objects, as the CLI lists and shows them."""

from __future__ import annotations

import msgspec


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind: its words, its collection, the columns of its table, and what narrows a list."""

    word: str
    collection: str
    one: str
    columns: tuple[str, ...]
    filters: tuple[str, ...]
    sort: str
    at: bool = True
    named: bool = True
    limit: int = 1_000


_NAMED = ("name", "search")
_PLACED = ("cluster", "data_center")
KINDS: tuple[Kind, ...] = (
    Kind(
        word="data-center",
        collection="data_centers",
        one="data center",
        columns=("name", "status", "storage_type", "clusters", "id"),
        filters=(*_NAMED, "status"),
        sort="name",
    ),
    Kind(
        word="cluster",
        collection="clusters",
        one="cluster",
        columns=("name", "data_center", "cpu_model", "machine_type", "id"),
        filters=(*_NAMED, "data_center"),
        sort="name",
    ),
    Kind(
        word="host",
        collection="hosts",
        one="host",
        columns=("name", "status", "cluster", "vms", "address", "id"),
        filters=(*_NAMED, "status", *_PLACED),
        sort="name",
    ),
    Kind(
        word="vm",
        collection="vms",
        one="VM",
        columns=("name", "status", "host", "cluster", "memory_bytes", "addresses", "id"),
        filters=(*_NAMED, "status", *_PLACED, "host", "highly_available"),
        sort="name",
    ),
    Kind(
        word="scheduling-policy",
        collection="scheduling_policies",
        one="scheduling policy",
        columns=("name", "balancer", "description", "id"),
        filters=_NAMED,
        sort="name",
    ),
    Kind(
        word="mac-pool",
        collection="mac_pools",
        one="MAC pool",
        columns=("name", "ranges", "addresses", "allow_duplicates", "level", "id"),
        filters=_NAMED,
        sort="name",
    ),
    Kind(
        word="affinity-group",
        collection="affinity_groups",
        one="affinity group",
        columns=(
            *("name", "cluster", "vm_rule", "vm_enforcing", "host_rule", "host_enforcing"),
            *("vms", "hosts", "id"),
        ),
        filters=(*_NAMED, "cluster"),
        sort="name",
    ),
    Kind(
        word="affinity-label",
        collection="affinity_labels",
        one="affinity label",
        columns=("name", "vms", "hosts", "id"),
        filters=_NAMED,
        sort="name",
    ),
    Kind(
        word="operation",
        collection="operations",
        one="operation",
        columns=("kind", "name", "status", "percent", "started_at", "reason", "id"),
        filters=(*_NAMED, "status", "kind", "target", "actor", "open"),
        sort="-started",
        named=False,
        limit=100,
    ),
    Kind(
        word="event",
        collection="events",
        one="audit record",
        columns=("time", "severity", "name", "message", "actor"),
        filters=(
            *("name", "code", "severity", "actor", "object", "correlation"),
            *("search", "since", "until"),
        ),
        sort="-position",
        at=False,
        named=False,
        limit=100,
    ),
)
BY_WORD = {kind.word: kind for kind in KINDS}
