"""What the inventory shows of a host's maintenance while it is prepared or goes on."""

from __future__ import annotations

import msgspec

from events.types.host import HostMaintenanceRequested
from events.types.host_maintenance import HostEvacuationBegun, VmsThatStay
from projections.views.parts import Time


class MaintenanceDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A maintenance as it was asked for. `vms_total` are the VMs that were there when it began;
    those that are left are the host's `vms`.
    """

    vms_that_stay: VmsThatStay = VmsThatStay.WAIT
    deadline: Time | None = None
    vms_total: int | None = None


def requested(event: HostMaintenanceRequested) -> MaintenanceDocument:
    """Return what is shown once it was asked for."""
    return MaintenanceDocument(vms_that_stay=event.vms_that_stay, deadline=event.deadline)


def begun(
    document: MaintenanceDocument | None, event: HostEvacuationBegun
) -> MaintenanceDocument | None:
    """Return what is shown once its VMs begin to leave."""
    if document is None:
        return None
    return msgspec.structs.replace(document, vms_total=event.vms)
