"""Events of affinity: groups, streams `affinity_group/<id>`, and labels, `affinity_label/<id>`.

A member that is removed is taken out by an event of its own, so that the log tells of it.
"""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from events.claims import Claim, exclusive, release, shared, swapped
from events.types.base import Audit, Event, event


def group_name_key(cluster: str, name: str) -> str:
    """Return the claim key of a group's name, unique within its cluster."""
    return f"affinity_group.name/{cluster}/{name.casefold()}"


def label_name_key(name: str) -> str:
    """Return the claim key of a label's name, unique in the whole installation."""
    return f"affinity_label.name/{name.casefold()}"


class Polarity(enum.StrEnum):
    """What a rule wants: together, apart, or nothing."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    DISABLED = "disabled"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a group: what it wants, and whether that must be (enforcing) or should be."""

    polarity: Polarity = Polarity.DISABLED
    enforcing: bool = False


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A VM, a host or a label: its id, and the name that it had then."""

    id: str
    name: str


class Affinity(msgspec.Struct, frozen=True, kw_only=True):
    """What a group says: its rules, and whom they are about.

    `vm_rule` is about its VMs among each other, `host_rule` about its VMs and its hosts. Labels
    stand for the VMs, or the hosts, that they name. Of soft rules, the highest `priority` wins.
    """

    vm_rule: Rule = Rule()
    host_rule: Rule = Rule()
    priority: float = 1.0
    vms: tuple[Member, ...] = ()
    hosts: tuple[Member, ...] = ()
    vm_labels: tuple[Member, ...] = ()
    host_labels: tuple[Member, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The ids of all labels."""
        return tuple(sorted({label.id for label in (*self.vm_labels, *self.host_labels)}))


@event("affinity_group.created")
class AffinityGroupCreated(Event, frozen=True, kw_only=True):
    """An affinity group came to be in a cluster."""

    name: str
    cluster: str
    description: str = ""
    affinity: Affinity

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10350,
            name="USER_ADDED_AFFINITY_GROUP",
            message="Affinity group {name} was created by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the name; keep the cluster and the labels from being removed."""
        return (
            exclusive(group_name_key(self.cluster, self.name), stream),
            shared(f"cluster/{self.cluster}", stream),
            *(shared(f"affinity_label/{label}", stream) for label in self.affinity.labels),
        )


@event("affinity_group.updated")
class AffinityGroupUpdated(Event, frozen=True, kw_only=True):
    """The group is as told here now; `labels_left` are those that it speaks of no more.

    `removed_member` is the name of the VM or host that was taken out because it is gone.
    """

    name: str
    former_name: str
    cluster: str
    description: str = ""
    affinity: Affinity
    labels_left: tuple[str, ...] = ()
    removed_member: str = ""

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10352,
            name="USER_UPDATED_AFFINITY_GROUP",
            message="Affinity group {name} was changed by {actor}.",
        ),
        Audit(
            code=60_150,
            name="AFFINITY_GROUP_MEMBER_GONE",
            message="{removed_member} was taken out of affinity group {name}, since it is removed.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of the one or the other."""
        return self.audits[1 if self.removed_member else 0]

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the new name and labels, and give the former ones back."""
        former = group_name_key(self.cluster, self.former_name)
        return (
            *swapped(former, group_name_key(self.cluster, self.name), stream, exclusive),
            *(release(f"affinity_label/{label}", stream) for label in self.labels_left),
            *(shared(f"affinity_label/{label}", stream) for label in self.affinity.labels),
        )


@event("affinity_group.removed")
class AffinityGroupRemoved(Event, frozen=True, kw_only=True):
    """An affinity group is gone; its name is free again."""

    name: str
    cluster: str
    labels: tuple[str, ...] = ()

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10354,
            name="USER_REMOVED_AFFINITY_GROUP",
            message="Affinity group {name} was removed by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Free the name, the cluster and the labels."""
        return (
            release(group_name_key(self.cluster, self.name), stream),
            release(f"cluster/{self.cluster}", stream),
            *(release(f"affinity_label/{label}", stream) for label in self.labels),
        )


@event("affinity_label.created")
class AffinityLabelCreated(Event, frozen=True, kw_only=True):
    """An affinity label came to be: a named set of VMs and hosts."""

    name: str
    description: str = ""
    vms: tuple[Member, ...] = ()
    hosts: tuple[Member, ...] = ()

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10380,
            name="USER_ADDED_AFFINITY_LABEL",
            message="Affinity label {name} was created by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the name."""
        return (exclusive(label_name_key(self.name), stream),)


@event("affinity_label.updated")
class AffinityLabelUpdated(Event, frozen=True, kw_only=True):
    """The label is as told here now.

    `removed_member` is the name of the VM or host that was taken out because it is gone.
    """

    name: str
    former_name: str
    description: str = ""
    vms: tuple[Member, ...] = ()
    hosts: tuple[Member, ...] = ()
    removed_member: str = ""

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10382,
            name="USER_UPDATED_AFFINITY_LABEL",
            message="Affinity label {name} was changed by {actor}.",
        ),
        Audit(
            code=60_151,
            name="AFFINITY_LABEL_MEMBER_GONE",
            message="{removed_member} was taken off affinity label {name}, since it is removed.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of the one or the other."""
        return self.audits[1 if self.removed_member else 0]

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the new name, and give the former one back."""
        old, new = label_name_key(self.former_name), label_name_key(self.name)
        return swapped(old, new, stream, exclusive)


@event("affinity_label.removed")
class AffinityLabelRemoved(Event, frozen=True, kw_only=True):
    """An affinity label is gone; no group spoke of it any more."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10384,
            name="USER_REMOVED_AFFINITY_LABEL",
            message="Affinity label {name} was removed by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Free the name; nobody may refer to the label any more."""
        return (release(label_name_key(self.name), stream), exclusive(stream, stream))
