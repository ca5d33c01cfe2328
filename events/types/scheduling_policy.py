"""Events of scheduling policies of one's own: stream `scheduling_policy/<id>`."""

from __future__ import annotations

from typing import ClassVar

from events.claims import Claim, exclusive, release, swapped
from events.types.base import Audit, Event, event
from events.types.cluster import Scheduling


def name_key(name: str) -> str:
    """Return the claim key of a scheduling policy's name, unique in the whole installation."""
    return f"scheduling_policy.name/{name.casefold()}"


@event("scheduling_policy.created")
class SchedulingPolicyCreated(Event, frozen=True, kw_only=True):
    """A scheduling policy came to be. `scheduling` has its units, its parameters, and, as policy,
    the built-in one whose balancer it has.
    """

    name: str
    description: str = ""
    scheduling: Scheduling

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=9910,
            name="USER_ADD_CLUSTER_POLICY",
            message="Scheduling policy {name} was created by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the name."""
        return (exclusive(name_key(self.name), stream),)


@event("scheduling_policy.updated")
class SchedulingPolicyUpdated(Event, frozen=True, kw_only=True):
    """The policy is as told here now, for all clusters that use it."""

    name: str
    former_name: str
    description: str = ""
    scheduling: Scheduling

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=9912,
            name="USER_UPDATE_CLUSTER_POLICY",
            message="Scheduling policy {name} was changed by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the new name, and give the former one back."""
        return swapped(name_key(self.former_name), name_key(self.name), stream, exclusive)


@event("scheduling_policy.removed")
class SchedulingPolicyRemoved(Event, frozen=True, kw_only=True):
    """A scheduling policy is gone; its name is free again."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=9914,
            name="USER_REMOVE_CLUSTER_POLICY",
            message="Scheduling policy {name} was removed by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Free the name; no cluster may use it any more."""
        return (release(name_key(self.name), stream), exclusive(stream, stream))
