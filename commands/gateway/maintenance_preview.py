"""What would become of each VM on a host if it went into maintenance now.

By the same rules, and the same scheduler, as the maintenance itself; room that one VM would take is
not there for those after it. Nothing is reserved.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from commands.gateway.placement import Placement
from commands.gateway.view import ViewWorld
from commands.policies.evacuation import Evacuation, Fate, Outlook, outlook, urgency
from commands.policies.saga import EvacuationRules
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import Duty
from events.types.host_maintenance import VmsThatStay
from events.types.vm_migration import MigrationCause

if TYPE_CHECKING:
    from commands.scheduler.fleet import Fleet

VMS_SHOWN_MAX = 1_000


class PreviewRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the maintenance would be asked for."""

    vms_that_stay: VmsThatStay = VmsThatStay.SHUT_DOWN


class VmPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of one VM, and why; `host` is where it would move."""

    vm: str
    vm_name: str
    fate: Fate
    host: str | None = None
    host_name: str = ""
    reason: str = ""


class MaintenancePreview(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of a host's VMs as of `position`, the first to leave first (1,000 at most).

    `fates` counts all of them by what becomes of them.
    """

    host: str
    host_name: str
    position: int
    vms_that_stay: VmsThatStay
    fates: dict[Fate, int]
    vms: tuple[VmPreview, ...]


def preview(
    placement: Placement, host_id: str, cluster: ClusterState, asked: PreviewRequest
) -> MaintenancePreview:
    """Return what a maintenance would do now; raises NotFound."""
    view = placement.view
    host = lookup.host(ViewWorld(view), host_id)
    evacuation = Evacuation(
        key="preview",
        host=host,
        cluster=cluster,
        position=view.position,
        cause=MigrationCause.MAINTENANCE,
        vms_that_stay=asked.vms_that_stay,
    )
    found = _leave(placement.current_fleet(), evacuation, placement)
    return MaintenancePreview(
        host=host_id,
        host_name=host.name,
        position=view.position,
        vms_that_stay=asked.vms_that_stay,
        fates=dict(Counter(each.fate for each in found)),
        vms=tuple(_shown(each) for each in found[:VMS_SHOWN_MAX]),
    )


def _leave(fleet: Fleet, evacuation: Evacuation, placement: Placement) -> list[Outlook]:
    """Have one VM after the other leave, in a draft in which the host is closed already."""
    host, rules, found = evacuation.host, EvacuationRules(), []
    draft = fleet.draft(host.cluster)
    draft.put(msgspec.structs.replace(host, duty=Duty.PREPARING))
    for vm in sorted(placement.view.vms_on(host.id), key=urgency):
        each = outlook(evacuation, vm, rules, draft.choose)
        found.append(each)
        if each.host is not None:
            draft.move(vm, host.id, each.host.id, each.dedicated)
    return found


def _shown(found: Outlook) -> VmPreview:
    return VmPreview(
        vm=found.vm.id,
        vm_name=found.vm.name,
        fate=found.fate,
        host=found.host.id if found.host is not None else None,
        host_name=found.host.name if found.host is not None else "",
        reason=found.reason,
    )
