"""What a change of one object shows at others: names, counts, operations that are in progress."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from projections.views.affinity import AffinityGroupDocument
from projections.views.cluster import ClusterDocument
from projections.views.data_center import DataCenterDocument, HostCounts
from projections.views.host_document import Duty, HostDocument, HostStatus
from projections.views.parts import (
    Counts,
    OperationInProgress,
    Reference,
    with_operation,
    without_operation,
)
from projections.views.shelf import Shelf
from projections.views.vm_document import VmDocument, VmStatus

_JOINING = frozenset(
    {HostStatus.INSTALLING, HostStatus.INSTALL_FAILED, HostStatus.PENDING_APPROVAL}
)

_NOT_HEARD = frozenset({HostStatus.NON_RESPONSIVE, HostStatus.KDUMPING})
_SWITCHED = frozenset({HostStatus.DOWN, HostStatus.REBOOT})


def counts_differ(before: VmDocument, after: VmDocument) -> bool:
    """Tell whether a VM's change shows in the counts of its host or its cluster."""
    if before.host is not after.host:
        return True
    return (before.status is VmStatus.UP) is not (after.status is VmStatus.UP)


def is_mute(document: HostDocument) -> bool:
    """Tell whether a host is not heard, so that what runs there is not known.

    Of one that is known to be off, each VM's own event tells that it has ended; in maintenance none
    was there.
    """
    if document.duplicate or document.status in _NOT_HEARD:
        return True
    return document.status in _SWITCHED and document.duty is not Duty.MAINTENANCE


def matters_to_others(before: HostDocument, after: HostDocument) -> bool:
    """Tell whether a host's change shows in the counts, or at the VMs that run there."""
    if before.status is not after.status or before.cluster.id != after.cluster.id:
        return True
    return is_mute(before) is not is_mute(after)


def host_counts(counts: HostCounts, document: HostDocument, one: int) -> HostCounts:
    """Return counts with a host more, or one less."""
    joining = document.status in _JOINING
    return HostCounts(
        total=counts.total + one,
        up=counts.up + (one if document.status is HostStatus.UP else 0),
        joining=counts.joining + (one if joining else 0),
    )


Counted = TypeVar("Counted", HostDocument, ClusterDocument, DataCenterDocument)


def count(shelf: Shelf[Counted], object_id: str, total: int, up: int, position: int) -> None:
    """Count VMs at an object that is at hand."""
    document = shelf.get(object_id)
    if document is None or document.vms is None:
        return
    counts = Counts(total=document.vms.total + total, up=document.vms.up + up)
    position = max(position, shelf.changed.get(object_id, 0))
    shelf.put(object_id, msgspec.structs.replace(document, vms=counts), position)


Target = TypeVar("Target", VmDocument, HostDocument, ClusterDocument, DataCenterDocument)


def show_operation(
    shelf: Shelf[Target],
    target: str,
    operation_id: str,
    shown: OperationInProgress | None,
    position: int,
) -> None:
    """Show how an operation is at its target, or, with None, that it has ended."""
    document = shelf.get(target)
    if document is None:
        return
    if shown is None:
        operations = without_operation(document.operations, operation_id)
    else:
        operations = with_operation(document.operations, shown)
    if operations != document.operations:
        shelf.put(target, msgspec.structs.replace(document, operations=operations), position)


Naming = TypeVar("Naming", VmDocument, HostDocument, ClusterDocument, AffinityGroupDocument)


def rename_in(shelf: Shelf[Naming], field: str, name: Reference, position: int) -> None:
    """Have all documents at hand whose `field` refers to an object call it by its new name."""
    for document in [d for d in shelf.documents.values() if getattr(d, field).id == name.id]:
        shelf.put(document.id, msgspec.structs.replace(document, **{field: name}), position)
