"""The inventory's view of data centers."""

from __future__ import annotations

import enum

import msgspec

from events.envelope import Recorded
from events.types import data_center as e
from projections.views.parts import Changes, Counts, OperationInProgress, Time, View


class DataCenterStatus(enum.StrEnum):
    """States of a data center, in oVirt's words."""

    UNINITIALIZED = "uninitialized"
    UP = "up"
    NOT_OPERATIONAL = "not_operational"


class HostCounts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many hosts there are, how many are up, and how many have not joined yet."""

    total: int = 0
    up: int = 0
    joining: int = 0


class DataCenterDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A data center as the API shows it; `guide` lists what it still needs before it can work."""

    id: str
    name: str
    description: str
    status: DataCenterStatus = DataCenterStatus.UNINITIALIZED
    status_reason: str = ""
    guide: tuple[str, ...] = ()
    storage_type: e.StorageType
    compatibility_version: str
    clusters: int | None = 0
    hosts: HostCounts | None = HostCounts()
    vms: Counts | None = Counts()
    operations: tuple[OperationInProgress, ...] = ()
    version: int
    configuration_version: int = 1
    created_at: Time
    created_by: str
    updated_at: Time
    updated_by: str


def _create(event: e.DataCenterCreated, recorded: Recorded) -> DataCenterDocument:
    return DataCenterDocument(
        id=recorded.object_id,
        name=event.name,
        description=event.description,
        storage_type=event.storage_type,
        compatibility_version=event.compatibility_version,
        version=recorded.version,
        created_at=recorded.time,
        created_by=recorded.actor,
        updated_at=recorded.time,
        updated_by=recorded.actor,
    )


def _renamed(
    document: DataCenterDocument, event: e.DataCenterRenamed, recorded: Recorded
) -> Changes:
    return {
        "name": event.name,
        "description": event.description,
        "configuration_version": document.configuration_version + 1,
    }


def _raised(
    document: DataCenterDocument, event: e.DataCenterVersionRaised, recorded: Recorded
) -> Changes:
    return {
        "compatibility_version": event.compatibility_version,
        "configuration_version": document.configuration_version + 1,
    }


VIEW: View[DataCenterDocument] = View(
    "data_center",
    DataCenterDocument,
    created=e.DataCenterCreated,
    create=_create,
    changes={e.DataCenterRenamed: _renamed, e.DataCenterVersionRaised: _raised},
    removed=e.DataCenterRemoved,
)
evolve = VIEW.evolve


def explained(document: DataCenterDocument) -> DataCenterDocument:
    """Return the document with its status, the reason and the guide, which follow from the counts.

    What is not counted (an answer about the past) leaves the status as it is.
    """
    if document.clusters is None or document.hosts is None:
        return document
    guide = []
    if document.clusters == 0:
        guide.append("Create a cluster in this data center.")
    if document.hosts.total == 0:
        guide.append("Add a host to a cluster of this data center.")
    elif document.hosts.total == document.hosts.joining:
        guide.append("Let an added host join: run 'chronovisor agent join' on it and approve it.")
    if guide:
        status, reason = DataCenterStatus.UNINITIALIZED, "It still lacks what the guide lists."
    elif document.hosts.up == 0:
        status, reason = DataCenterStatus.NOT_OPERATIONAL, "None of its hosts is up."
        guide.append("Bring a host up: activate it, or see why it does not answer.")
    else:
        status, reason = DataCenterStatus.UP, ""
    return msgspec.structs.replace(
        document, status=status, status_reason=reason, guide=tuple(guide)
    )
