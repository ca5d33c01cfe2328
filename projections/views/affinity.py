"""The inventory's views of affinity groups and of affinity labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from events.envelope import Recorded
from events.types import affinity as e
from projections.views.parts import Changes, Reference, Time, View
from projections.views.shelf import Shelf


class AffinityGroupDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An affinity group as the API shows it.

    `vm_rule` is about its VMs among each other, `host_rule` about its VMs and its hosts. Labels
    stand for what they name. Names are those that members have now; with `at`, those that they had
    when the group was last changed before that time.
    """

    id: str
    name: str
    description: str
    cluster: Reference
    vm_rule: e.Polarity
    vm_enforcing: bool
    host_rule: e.Polarity
    host_enforcing: bool
    priority: float
    vms: tuple[Reference, ...] = ()
    hosts: tuple[Reference, ...] = ()
    vm_labels: tuple[Reference, ...] = ()
    host_labels: tuple[Reference, ...] = ()
    version: int
    created_at: Time
    created_by: str
    updated_at: Time
    updated_by: str


class AffinityLabelDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An affinity label as the API shows it: a named set of VMs and hosts.

    Names are those that members have now; with `at`, those that they had when the label was last
    changed before that time.
    """

    id: str
    name: str
    description: str
    vms: tuple[Reference, ...] = ()
    hosts: tuple[Reference, ...] = ()
    version: int
    created_at: Time
    created_by: str
    updated_at: Time
    updated_by: str


def _references(members: Iterable[e.Member]) -> tuple[Reference, ...]:
    return tuple(Reference(id=member.id, name=member.name) for member in members)


_MEMBERS = ("vms", "hosts", "vm_labels", "host_labels")
Named = TypeVar("Named", AffinityGroupDocument, AffinityLabelDocument)


def known(before: Named | None, after: Named | None) -> Named | None:
    """Return a changed document with the names that its members had in it.

    Those followed every renaming; an event has the names of when each member was added.
    """
    if before is None or after is None or after is before:
        return after
    names = {member.id: member for kind in _MEMBERS for member in getattr(before, kind, ())}
    changes = {
        kind: tuple(names.get(member.id, member) for member in getattr(after, kind))
        for kind in _MEMBERS
        if hasattr(after, kind)
    }
    return msgspec.structs.replace(after, **changes)


def rename(shelf: Shelf[Named], name: Reference, position: int) -> None:
    """Have all groups, or labels, that an object is a member of call it by its new name."""
    for document in list(shelf.documents.values()):
        changes = {}
        for kind in _MEMBERS:
            members: tuple[Reference, ...] = getattr(document, kind, ())
            if any(member.id == name.id for member in members):
                changes[kind] = tuple(name if each.id == name.id else each for each in members)
        if changes:
            shelf.put(document.id, msgspec.structs.replace(document, **changes), position)


def _said(affinity: e.Affinity) -> Changes:
    return {
        "vm_rule": affinity.vm_rule.polarity,
        "vm_enforcing": affinity.vm_rule.enforcing,
        "host_rule": affinity.host_rule.polarity,
        "host_enforcing": affinity.host_rule.enforcing,
        "priority": affinity.priority,
        "vms": _references(affinity.vms),
        "hosts": _references(affinity.hosts),
        "vm_labels": _references(affinity.vm_labels),
        "host_labels": _references(affinity.host_labels),
    }


def _create_group(event: e.AffinityGroupCreated, recorded: Recorded) -> AffinityGroupDocument:
    return AffinityGroupDocument(
        id=recorded.object_id,
        name=event.name,
        description=event.description,
        # The name lies in another stream; whoever folds both fills it in.
        cluster=Reference(id=event.cluster, name=""),
        version=recorded.version,
        created_at=recorded.time,
        created_by=recorded.actor,
        updated_at=recorded.time,
        updated_by=recorded.actor,
        **_said(event.affinity),
    )


def _group_updated(
    document: AffinityGroupDocument, event: e.AffinityGroupUpdated, recorded: Recorded
) -> Changes:
    return {"name": event.name, "description": event.description, **_said(event.affinity)}


def _create_label(event: e.AffinityLabelCreated, recorded: Recorded) -> AffinityLabelDocument:
    return AffinityLabelDocument(
        id=recorded.object_id,
        name=event.name,
        description=event.description,
        vms=_references(event.vms),
        hosts=_references(event.hosts),
        version=recorded.version,
        created_at=recorded.time,
        created_by=recorded.actor,
        updated_at=recorded.time,
        updated_by=recorded.actor,
    )


def _label_updated(
    document: AffinityLabelDocument, event: e.AffinityLabelUpdated, recorded: Recorded
) -> Changes:
    return {
        "name": event.name,
        "description": event.description,
        "vms": _references(event.vms),
        "hosts": _references(event.hosts),
    }


GROUP_VIEW: View[AffinityGroupDocument] = View(
    "affinity_group",
    AffinityGroupDocument,
    created=e.AffinityGroupCreated,
    create=_create_group,
    changes={e.AffinityGroupUpdated: _group_updated},
    removed=e.AffinityGroupRemoved,
)
LABEL_VIEW: View[AffinityLabelDocument] = View(
    "affinity_label",
    AffinityLabelDocument,
    created=e.AffinityLabelCreated,
    create=_create_label,
    changes={e.AffinityLabelUpdated: _label_updated},
    removed=e.AffinityLabelRemoved,
)
