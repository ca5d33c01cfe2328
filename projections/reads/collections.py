"""The collections that can be read: their paths, and what they can be filtered and sorted by."""

from __future__ import annotations

import enum

import msgspec

from events.types.base import Severity
from projections.views import small_tables, tables
from projections.views.audit import AuditDocument
from projections.views.data_center import DataCenterStatus
from projections.views.host_document import HostStatus, HostSummary
from projections.views.operation import OperationStatus
from projections.views.vm_document import VmStatus, VmSummary


class Match(enum.Enum):
    """How a filter's value is compared with a column."""

    ONE_OF = "one of several values, separated by commas"
    NAME = "a name without regard to case; * stands for any characters"
    WORDS = "words that must all occur, without regard to case"
    NUMBER = "one of several numbers, separated by commas"
    SINCE = "a time (RFC 3339) from which on"
    UNTIL = "a time (RFC 3339) up to which"
    OPEN = "true for what has not ended, false for what has"
    HAS = "true for what has a value, false for what has none"


class Filter(msgspec.Struct, frozen=True):
    """A parameter that narrows a list; `values` are all that it may be, where they are known.

    `in_pieces`: the pieces of the column's texts are indexed.
    """

    match: Match
    column: str
    description: str
    values: tuple[str, ...] = ()
    in_pieces: bool = False


class Sort(msgspec.Struct, frozen=True):
    """A column to sort by; `kind` is its SQL type, for cursors."""

    column: str
    kind: str


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """A list of documents and its members."""

    name: str
    kind: str
    one: str
    document: type[msgspec.Struct]
    summary: type[msgspec.Struct] | None = None
    """The fields that a list shows unless asked for others; without it, the whole document."""

    key: str = "id"
    key_kind: str = "text"
    filters: dict[str, Filter]
    sorts: dict[str, Sort]
    default_sort: str
    versioned: bool = False

    @property
    def path(self) -> str:
        """The list's path."""
        return f"/v1/{self.name}"

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the document's fields."""
        return self.document.__struct_fields__

    @property
    def listed(self) -> tuple[str, ...]:
        """The names of the fields that a list shows unless asked for others."""
        return (self.summary or self.document).__struct_fields__


def _values(statuses: type[enum.StrEnum]) -> tuple[str, ...]:
    return tuple(status.value for status in statuses)


NAME = Filter(Match.NAME, "name", "Name without regard to case; * stands for any characters.")
SEARCH = Filter(Match.WORDS, "search", "Words that must all occur, without regard to case.")
SEARCH_MANY = msgspec.structs.replace(SEARCH, in_pieces=True)
CLUSTER = Filter(Match.ONE_OF, "cluster_id", "Ids of clusters, separated by commas.")
DATA_CENTER = Filter(Match.ONE_OF, "data_center_id", "Ids of data centers, separated by commas.")
BY_NAME = Sort("name", "text")
BY_CREATION = Sort("created_at", "timestamptz")
BY_STATUS_TIME = Sort("status_since", "timestamptz")


def _status(statuses: type[enum.StrEnum]) -> Filter:
    values = _values(statuses)
    return Filter(Match.ONE_OF, "status", "Statuses, separated by commas.", values)


DATA_CENTERS = Collection(
    name="data_centers",
    kind=tables.DATA_CENTERS.kind,
    one="data center",
    document=tables.DATA_CENTERS.document,
    filters={"name": NAME, "search": SEARCH, "status": _status(DataCenterStatus)},
    sorts={"name": BY_NAME, "created": BY_CREATION},
    default_sort="name",
    versioned=True,
)
CLUSTERS = Collection(
    name="clusters",
    kind=tables.CLUSTERS.kind,
    one="cluster",
    document=tables.CLUSTERS.document,
    filters={"name": NAME, "search": SEARCH, "data_center": DATA_CENTER},
    sorts={"name": BY_NAME, "created": BY_CREATION},
    default_sort="name",
)
HOSTS = Collection(
    name="hosts",
    kind=tables.HOSTS.kind,
    one="host",
    document=tables.HOSTS.document,
    summary=HostSummary,
    filters={
        "name": NAME,
        "search": SEARCH_MANY,
        "status": _status(HostStatus),
        "cluster": CLUSTER,
        "data_center": DATA_CENTER,
    },
    sorts={"name": BY_NAME, "created": BY_CREATION, "status_since": BY_STATUS_TIME},
    default_sort="name",
)
VMS = Collection(
    name="vms",
    kind=tables.VMS.kind,
    one="VM",
    document=tables.VMS.document,
    summary=VmSummary,
    filters={
        "name": NAME,
        "search": SEARCH_MANY,
        "status": _status(VmStatus),
        "cluster": CLUSTER,
        "data_center": DATA_CENTER,
        "host": Filter(Match.ONE_OF, "host_id", "Ids of hosts, separated by commas."),
        "highly_available": Filter(
            Match.HAS,
            "restart_priority",
            "true: restarted when it fails; false: not.",
            ("true", "false"),
        ),
    },
    sorts={
        "name": BY_NAME,
        "created": BY_CREATION,
        "status_since": BY_STATUS_TIME,
        "memory": Sort("memory_bytes", "int8"),
        "vcpus": Sort("vcpus", "int4"),
    },
    default_sort="name",
    versioned=True,
)
OPERATIONS = Collection(
    name="operations",
    kind=tables.OPERATIONS.kind,
    one="operation",
    document=tables.OPERATIONS.document,
    filters={
        "name": NAME,
        "search": SEARCH,
        "status": _status(OperationStatus),
        "kind": Filter(Match.ONE_OF, "kind", "Kinds such as vm.start, separated by commas."),
        "target": Filter(Match.ONE_OF, "target_id", "Ids of targets, separated by commas."),
        "actor": Filter(Match.ONE_OF, "actor", "Actors such as admin:bootstrap."),
        "open": Filter(Match.OPEN, "ended_at", "true: not ended; false: ended.", ("true", "false")),
    },
    sorts={"started": Sort("started_at", "timestamptz"), "name": BY_NAME},
    default_sort="-started",
)
AFFINITY_GROUPS = Collection(
    name="affinity_groups",
    kind=small_tables.AFFINITY_GROUPS.kind,
    one="affinity group",
    document=small_tables.AFFINITY_GROUPS.document,
    filters={"name": NAME, "search": SEARCH, "cluster": CLUSTER},
    sorts={"name": BY_NAME, "created": BY_CREATION},
    default_sort="name",
)
AFFINITY_LABELS = Collection(
    name="affinity_labels",
    kind=small_tables.AFFINITY_LABELS.kind,
    one="affinity label",
    document=small_tables.AFFINITY_LABELS.document,
    filters={"name": NAME, "search": SEARCH},
    sorts={"name": BY_NAME, "created": BY_CREATION},
    default_sort="name",
)
MAC_POOLS = Collection(
    name="mac_pools",
    kind=small_tables.MAC_POOLS.kind,
    one="MAC pool",
    document=small_tables.MAC_POOLS.document,
    filters={"name": NAME, "search": SEARCH},
    sorts={"name": BY_NAME, "created": BY_CREATION},
    default_sort="name",
    versioned=True,
)
SCHEDULING_POLICIES = Collection(
    name="scheduling_policies",
    kind=small_tables.SCHEDULING_POLICIES.kind,
    one="scheduling policy",
    document=small_tables.SCHEDULING_POLICIES.document,
    filters={"name": NAME, "search": SEARCH},
    sorts={"name": BY_NAME, "created": BY_CREATION},
    default_sort="name",
)
EVENTS = Collection(
    name="events",
    kind="event",
    one="audit record",
    document=AuditDocument,
    key="position",
    key_kind="int8",
    filters={
        "name": Filter(Match.ONE_OF, "name", "Names such as VM_DOWN, separated by commas."),
        "code": Filter(Match.NUMBER, "code", "Codes such as 61, separated by commas."),
        "severity": Filter(
            Match.ONE_OF, "severity", "Severities, separated by commas.", _values(Severity)
        ),
        "actor": Filter(Match.ONE_OF, "actor", "Actors such as admin:bootstrap."),
        "object": Filter(Match.ONE_OF, "object_id", "Ids of the objects told of."),
        "correlation": Filter(Match.ONE_OF, "correlation", "Ids of the operations."),
        "search": Filter(Match.WORDS, "message", "Words that the message must contain."),
        "since": Filter(Match.SINCE, "time", "Only records from this time (RFC 3339) on."),
        "until": Filter(Match.UNTIL, "time", "Only records up to this time (RFC 3339)."),
    },
    sorts={"position": Sort("position", "int8")},
    default_sort="-position",
)
COLLECTIONS: tuple[Collection, ...] = (
    DATA_CENTERS,
    CLUSTERS,
    HOSTS,
    VMS,
    OPERATIONS,
    AFFINITY_GROUPS,
    AFFINITY_LABELS,
    MAC_POOLS,
    SCHEDULING_POLICIES,
    EVENTS,
)
BY_KIND: dict[str, Collection] = {collection.kind: collection for collection in COLLECTIONS}
