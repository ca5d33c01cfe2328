"""Events of clusters: stream `cluster/<id>`."""

from __future__ import annotations

from typing import ClassVar

from events.claims import Claim, exclusive, release, shared
from events.types.base import Audit, Event, event


def name_key(data_center: str, name: str) -> str:
    """Return the claim key of a cluster's name, unique within its data center."""
    return f"cluster.name/{data_center}/{name.casefold()}"


@event("cluster.created")
class ClusterCreated(Event, frozen=True, kw_only=True):
    """A cluster came to be; its VMs get this CPU model and exact machine type."""

    name: str
    data_center: str
    description: str = ""
    architecture: str
    cpu_model: str
    machine_type: str
    compatibility_version: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=809, name="USER_ADD_CLUSTER", message="Cluster {name} was created by {actor}."),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the name; keep the data center from being removed."""
        return (
            exclusive(name_key(self.data_center, self.name), stream),
            shared(f"data_center/{self.data_center}", stream),
        )


@event("cluster.removed")
class ClusterRemoved(Event, frozen=True, kw_only=True):
    """A cluster is gone; its name is free again."""

    name: str
    data_center: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=813, name="USER_REMOVE_CLUSTER", message="Cluster {name} was removed by {actor}."
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Free the name and the data center; nobody may refer to the cluster any more."""
        return (
            release(name_key(self.data_center, self.name), stream),
            release(f"data_center/{self.data_center}", stream),
            exclusive(stream, stream),
        )
