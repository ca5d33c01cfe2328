"""The inventory as a fold of the whole log: every view, and what one object's events do to others.

An `Inventory` holds the documents that a batch of events needs, in memory; whoever owns it loads
them before and writes what changed afterwards. Nothing in here depends on how the log is cut into
batches, so an inventory that is built anew equals the one that it replaces, byte for byte.
"""

from __future__ import annotations

from typing import Any

import msgspec

from events.audit import AuditRecord, audit_record
from events.envelope import Recorded
from events.types import data_center as data_center_events
from projections.views import (
    affinity,
    cluster,
    data_center,
    host,
    mac_pool,
    operation,
    scheduling_policy,
    vm,
)
from projections.views.affinity import AffinityGroupDocument, AffinityLabelDocument
from projections.views.cluster import ClusterDocument
from projections.views.data_center import DataCenterDocument
from projections.views.host_document import HostDocument
from projections.views.mac_pool import MacPoolDocument
from projections.views.operation import OperationDocument, in_progress
from projections.views.parts import OperationInProgress, Reference, View
from projections.views.scheduling_policy import SchedulingPolicyDocument
from projections.views.shelf import Shelf
from projections.views.telling import (
    count,
    counts_differ,
    host_counts,
    is_mute,
    matters_to_others,
    rename_in,
    show_operation,
)
from projections.views.vm_document import VmDocument, VmStatus

AnyDocument = VmDocument | HostDocument | ClusterDocument | DataCenterDocument | OperationDocument

IGNORED_KINDS = frozenset({"policy", "log"})
"""Kinds of streams that no view shows: who runs a policy is of no interest in the inventory, and a
restore shows in the audit log and at the hosts.
"""


class Inventory:
    """All views over the documents at hand."""

    def __init__(self) -> None:
        self.vms: Shelf[VmDocument] = Shelf()
        self.hosts: Shelf[HostDocument] = Shelf()
        self.clusters: Shelf[ClusterDocument] = Shelf()
        self.data_centers: Shelf[DataCenterDocument] = Shelf()
        self.operations: Shelf[OperationDocument] = Shelf()
        self.affinity_groups: Shelf[AffinityGroupDocument] = Shelf()
        self.affinity_labels: Shelf[AffinityLabelDocument] = Shelf()
        self.mac_pools: Shelf[MacPoolDocument] = Shelf()
        self.scheduling_policies: Shelf[SchedulingPolicyDocument] = Shelf()
        self.audits: list[AuditRecord] = []
        self._shelves: tuple[Shelf[Any], ...] = (
            self.data_centers,
            self.clusters,
            self.hosts,
            self.vms,
            self.operations,
            self.affinity_groups,
            self.affinity_labels,
            self.mac_pools,
            self.scheduling_policies,
        )
        self._vms_on: dict[str, set[str]] = {}
        self._vm_counts: dict[tuple[str, str], list[int]] = {}
        self._apply = {
            "vm": self._apply_vm,
            "host": self._apply_host,
            "cluster": self._apply_cluster,
            "data_center": self._apply_data_center,
            "affinity_group": self._apply_affinity_group,
            "affinity_label": self._apply_affinity_label,
            "mac_pool": lambda _id, recorded: self._turn(mac_pool.VIEW, self.mac_pools, recorded),
            "scheduling_policy": lambda _id, recorded: self._turn(
                scheduling_policy.VIEW, self.scheduling_policies, recorded
            ),
            "operation": self._apply_operation,
        }

    def apply(self, recorded: Recorded) -> None:
        """Fold one event; the documents that it needs are at hand, or the objects do not exist."""
        kind, _, object_id = recorded.stream.partition("/")
        apply = self._apply.get(kind)
        if apply is not None:
            apply(object_id, recorded)
        elif kind not in IGNORED_KINDS:
            message = f"no view says what becomes of streams of kind {kind!r}"
            raise LookupError(message)
        audit = audit_record(recorded)
        if audit is not None:
            self.audits.append(audit)

    def finish(self) -> None:
        """Bring the counts of VMs up to date, which are kept apart while a batch is folded."""
        for (kind, object_id), (total, up, position) in self._vm_counts.items():
            if kind == "host":
                count(self.hosts, object_id, total, up, position)
            elif kind == "cluster":
                count(self.clusters, object_id, total, up, position)
            else:
                count(self.data_centers, object_id, total, up, position)
        self._vm_counts.clear()

    def written(self, *, places_known: bool = False) -> None:
        """Begin the next batch: all changes so far are written.

        With `places_known`, every VM there is is at hand, and where each is need not be told again.
        """
        for shelf in self._shelves:
            shelf.written()
        self.audits.clear()
        if not places_known:
            self._vms_on.clear()

    @property
    def unwritten(self) -> int:
        """How many objects changed, or went, since all was written."""
        return sum(len(shelf.changed) + len(shelf.removed) for shelf in self._shelves)

    def on_host(self, host_id: str, vm_id: str) -> None:
        """Note that a VM at hand may be on a host: silence of the host makes it unknown."""
        self._vms_on.setdefault(host_id, set()).add(vm_id)

    # ------------------------------------------------------------------------------------ VMs

    def _apply_vm(self, object_id: str, recorded: Recorded) -> None:
        before = self.vms.get(object_id)
        after = vm.evolve(before, recorded)
        if after is before:
            return
        if after is None:
            self.vms.remove(object_id, recorded.position)
        else:
            if before is None:
                after = self._named_vm(after, recorded)
                self.vms.create(object_id, after, recorded.position)
            if after.host is not None and (before is None or before.host is not after.host):
                where = self.hosts.get(after.host.id)
                if where is not None and is_mute(where):
                    after = vm.silenced(after, recorded)
            self.vms.put(object_id, after, recorded.position)
            if before is not None and before.name != after.name:
                self._renamed(after, recorded.position)
        if before is None or after is None or counts_differ(before, after):
            self._count_vm(before, after, recorded.position)
            self._moved(object_id, before, after)

    def _named_vm(self, document: VmDocument, recorded: Recorded) -> VmDocument:
        where = self.clusters.get(document.cluster.id)
        return msgspec.structs.replace(
            document,
            cluster=Reference(id=document.cluster.id, name=where.name if where else ""),
            operations=self._operations_on("vm", document.id, recorded),
        )

    def _moved(self, object_id: str, before: VmDocument | None, after: VmDocument | None) -> None:
        was = before.host if before is not None else None
        now = after.host if after is not None else None
        if was is now:
            return
        if was is not None and was.id in self._vms_on:
            self._vms_on[was.id].discard(object_id)
        if now is not None:
            self.on_host(now.id, object_id)

    def _count_vm(self, before: VmDocument | None, after: VmDocument | None, position: int) -> None:
        one = (after is not None) - (before is not None)
        was = before is not None and before.status is VmStatus.UP
        now = after is not None and after.status is VmStatus.UP
        document = after if after is not None else before
        if document is None:
            return
        if one or now is not was:
            self._count("cluster", document.cluster.id, one, now - was, position)
            self._count("data_center", document.data_center.id, one, now - was, position)
        left = before.host if before is not None else None
        taken = after.host if after is not None else None
        if left is not None and taken is not None and left.id == taken.id:
            if now is not was:
                self._count("host", taken.id, 0, now - was, position)
            return
        if left is not None:
            self._count("host", left.id, -1, -was, position)
        if taken is not None:
            self._count("host", taken.id, 1, +now, position)

    def _count(self, kind: str, object_id: str, total: int, up: int, position: int) -> None:
        counts = self._vm_counts.get((kind, object_id))
        if counts is None:
            counts = self._vm_counts[kind, object_id] = [0, 0, 0]
        counts[0] += total
        counts[1] += up
        counts[2] = position

    # ---------------------------------------------------------------------------------- hosts

    def _apply_host(self, object_id: str, recorded: Recorded) -> None:
        before = self.hosts.get(object_id)
        after = host.evolve(before, recorded)
        if after is before:
            return
        if after is None:
            self.hosts.remove(object_id, recorded.position)
        else:
            if before is None:
                after = self._named_host(after, recorded)
                self.hosts.create(object_id, after, recorded.position)
            self.hosts.put(object_id, after, recorded.position)
            if before is not None and before.name != after.name:
                self._renamed(after, recorded.position)
        if before is None or after is None or matters_to_others(before, after):
            self._count_host(before, after, recorded.position)
            self._tell_vms(before, after, recorded)

    def _named_host(self, document: HostDocument, recorded: Recorded) -> HostDocument:
        where = self.clusters.get(document.cluster.id)
        center = self.data_centers.get(document.data_center.id)
        return msgspec.structs.replace(
            document,
            cluster=Reference(id=document.cluster.id, name=where.name if where else ""),
            data_center=Reference(id=document.data_center.id, name=center.name if center else ""),
            operations=self._operations_on("host", document.id, recorded),
        )

    def _count_host(
        self, before: HostDocument | None, after: HostDocument | None, position: int
    ) -> None:
        for document, one in ((before, -1), (after, 1)):
            if document is None:
                continue
            where = self.clusters.get(document.cluster.id)
            if where is not None and where.hosts is not None:
                hosts = host_counts(where.hosts, document, one)
                changed = msgspec.structs.replace(where, hosts=hosts)
                self.clusters.put(where.id, changed, position)
            center = self.data_centers.get(document.data_center.id)
            if center is not None and center.hosts is not None:
                hosts = host_counts(center.hosts, document, one)
                self.data_centers.put(
                    center.id, msgspec.structs.replace(center, hosts=hosts), position
                )

    def _tell_vms(
        self, before: HostDocument | None, after: HostDocument | None, recorded: Recorded
    ) -> None:
        was = before is not None and is_mute(before)
        silent = after is not None and is_mute(after)
        if was is silent:
            return
        host_id = recorded.object_id
        for vm_id in sorted(self._vms_on.get(host_id, ())):
            document = self.vms.get(vm_id)
            if document is None or document.host is None or document.host.id != host_id:
                continue
            told = vm.silenced(document, recorded) if silent else vm.heard_of(document)
            if told is not document:
                self.vms.put(vm_id, told, recorded.position)
                self._count_vm(document, told, recorded.position)

    # --------------------------------------------------------------- clusters and data centers

    def _apply_cluster(self, object_id: str, recorded: Recorded) -> None:
        before = self.clusters.get(object_id)
        after = cluster.evolve(before, recorded)
        if after is before:
            return
        if after is None:
            self.clusters.remove(object_id, recorded.position)
        else:
            if before is None:
                center = self.data_centers.get(after.data_center.id)
                name = center.name if center else ""
                after = msgspec.structs.replace(
                    after,
                    data_center=Reference(id=after.data_center.id, name=name),
                    operations=self._operations_on("cluster", object_id, recorded),
                )
                self.clusters.create(object_id, after, recorded.position)
            self.clusters.put(object_id, after, recorded.position)
            if before is not None and before.name != after.name:
                self._rename_cluster(after, recorded.position)
        for document, one in ((before, -1), (after, 1)):
            center = self.data_centers.get(document.data_center.id) if document else None
            if center is not None and center.clusters is not None:
                changed = msgspec.structs.replace(center, clusters=center.clusters + one)
                self.data_centers.put(center.id, changed, recorded.position)

    def _apply_data_center(self, object_id: str, recorded: Recorded) -> None:
        before = self.data_centers.get(object_id)
        after = data_center.evolve(before, recorded)
        if after is before:
            return
        if after is None:
            self.data_centers.remove(object_id, recorded.position)
            return
        if before is None:
            self.data_centers.create(object_id, after, recorded.position)
        self.data_centers.put(object_id, after, recorded.position)
        if isinstance(recorded.event, data_center_events.DataCenterRenamed):
            self._rename_data_center(after, recorded.position)

    def _rename_data_center(self, document: DataCenterDocument, position: int) -> None:
        name = Reference(id=document.id, name=document.name)
        rename_in(self.clusters, "data_center", name, position)
        rename_in(self.hosts, "data_center", name, position)

    def _rename_cluster(self, document: ClusterDocument, position: int) -> None:
        name = Reference(id=document.id, name=document.name)
        rename_in(self.hosts, "cluster", name, position)
        rename_in(self.vms, "cluster", name, position)
        rename_in(self.affinity_groups, "cluster", name, position)

    # ------------------------------------------------------------------------------- affinity

    def _apply_affinity_group(self, object_id: str, recorded: Recorded) -> None:
        before = self.affinity_groups.get(object_id)
        after = affinity.GROUP_VIEW.evolve(before, recorded)
        if after is not None and before is None:
            where = self.clusters.get(after.cluster.id)
            name = Reference(id=after.cluster.id, name=where.name if where else "")
            after = msgspec.structs.replace(after, cluster=name)
        after = affinity.known(before, after)
        self.affinity_groups.turn(object_id, before, after, recorded.position)

    def _apply_affinity_label(self, object_id: str, recorded: Recorded) -> None:
        before = self.affinity_labels.get(object_id)
        after = affinity.known(before, affinity.LABEL_VIEW.evolve(before, recorded))
        self.affinity_labels.turn(object_id, before, after, recorded.position)
        if before is not None and after is not None and before.name != after.name:
            name = Reference(id=after.id, name=after.name)
            affinity.rename(self.affinity_groups, name, recorded.position)

    def _renamed(self, now: VmDocument | HostDocument, position: int) -> None:
        """Have groups and labels call a member by its new name."""
        name = Reference(id=now.id, name=now.name)
        affinity.rename(self.affinity_groups, name, position)
        affinity.rename(self.affinity_labels, name, position)

    def _turn(self, view: View[Any], shelf: Shelf[Any], recorded: Recorded) -> None:
        """Fold an event of an object that nothing else shows."""
        before = shelf.get(recorded.object_id)
        after = view.evolve(before, recorded)
        shelf.turn(recorded.object_id, before, after, recorded.position)

    # ----------------------------------------------------------------------------- operations

    def _apply_operation(self, object_id: str, recorded: Recorded) -> None:
        before = self.operations.get(object_id)
        after = operation.evolve(before, recorded)
        if after is before or after is None:
            return
        if before is None:
            self.operations.create(object_id, after, recorded.position)
        self.operations.put(object_id, after, recorded.position)
        if before is None or in_progress(before) != in_progress(after):
            self._tell_target(after, recorded.position)

    def _tell_target(self, document: OperationDocument, position: int) -> None:
        shown = in_progress(document)
        target = document.target.id
        match document.target.kind:
            case "vm":
                show_operation(self.vms, target, document.id, shown, position)
            case "host":
                show_operation(self.hosts, target, document.id, shown, position)
            case "cluster":
                show_operation(self.clusters, target, document.id, shown, position)
            case "data_center":
                show_operation(self.data_centers, target, document.id, shown, position)

    def _operations_on(
        self, kind: str, object_id: str, recorded: Recorded
    ) -> tuple[OperationInProgress, ...]:
        """The operation of the command that made the object, where that came before the object."""
        document = self.operations.get(str(recorded.command))
        if document is None or document.target.kind != kind or document.target.id != object_id:
            return ()
        shown = in_progress(document)
        return (shown,) if shown is not None else ()
