"""How VMs and clusters show how VMs are moved while they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.envelope import Recorded
from events.types import migration_settings as e
from events.types.base import Event
from projections.views.parts import Change, Changes

if TYPE_CHECKING:
    from projections.views.cluster import ClusterDocument
    from projections.views.vm_document import VmDocument


def _of_vm(document: VmDocument, event: e.VmMigrationSet, recorded: Recorded) -> Changes:
    return {"migration": event.migration}


def _of_cluster(
    document: ClusterDocument, event: e.ClusterMigrationSet, recorded: Recorded
) -> Changes:
    return {"migration": event.migration}


VM_CHANGES: dict[type[Event], Change] = {e.VmMigrationSet: _of_vm}
CLUSTER_CHANGES: dict[type[Event], Change] = {e.ClusterMigrationSet: _of_cluster}
