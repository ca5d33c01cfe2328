"""Events of data centers: stream `data_center/<id>`."""

from __future__ import annotations

import enum
from typing import ClassVar

from events.claims import Claim, exclusive, release, swapped
from events.types.base import Audit, Event, event


class StorageType(enum.StrEnum):
    """Where the VMs' disks of a data center may lie."""

    SHARED = "shared"
    LOCAL = "local"


def name_key(name: str) -> str:
    """Return the claim key of a data center's name; names differ by more than case."""
    return f"data_center.name/{name.casefold()}"


@event("data_center.created")
class DataCenterCreated(Event, frozen=True, kw_only=True):
    """A data center came to be."""

    name: str
    description: str = ""
    storage_type: StorageType = StorageType.SHARED
    compatibility_version: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=950,
            name="USER_ADD_STORAGE_POOL",
            message="Data center {name} was created by {actor} (compatibility"
            " {compatibility_version}).",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the name."""
        return (exclusive(name_key(self.name), stream),)


@event("data_center.renamed")
class DataCenterRenamed(Event, frozen=True, kw_only=True):
    """A data center got another name or description."""

    name: str
    previous_name: str
    description: str = ""

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=952,
            name="USER_UPDATE_STORAGE_POOL",
            message="Data center {previous_name} was updated by {actor}; its name is {name}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Swap the old name for the new one."""
        return swapped(name_key(self.previous_name), name_key(self.name), stream, exclusive)


@event("data_center.version_raised")
class DataCenterVersionRaised(Event, frozen=True, kw_only=True):
    """Clusters of the data center begin with this compatibility version, and none is below it."""

    name: str
    compatibility_version: str
    previous_version: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=952,
            name="USER_UPDATE_STORAGE_POOL",
            message="Data center {name} was updated by {actor}: its compatibility version is"
            " {compatibility_version}; it was {previous_version}.",
        ),
    )


@event("data_center.removed")
class DataCenterRemoved(Event, frozen=True, kw_only=True):
    """A data center is gone; its name is free again."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=954,
            name="USER_REMOVE_STORAGE_POOL",
            message="Data center {name} was removed by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Free the name; nobody may refer to the data center, now or later."""
        return (release(name_key(self.name), stream), exclusive(stream, stream))
