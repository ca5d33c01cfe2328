"""The inventory's view of virtual machines."""

from __future__ import annotations

import msgspec

from events.envelope import Recorded
from events.types import vm as e
from events.types import vm_migration as m
from events.types.base import Event
from events.types.job import JobKind
from events.types.run_spec import VmConfiguration
from events.types.vm_copies import VmStaleCopyFound, VmStaleCopyGone
from events.types.vm_hosts import VmHostsChosen
from events.types.vm_jobs import (
    VmDisksAssigned,
    VmDisksFailed,
    VmDisksReady,
    VmJobDone,
    VmJobFailed,
    VmJobOrdered,
    VmJobWithdrawn,
)
from events.types.vm_memory import BalloonProblem, VmBalloonReported
from events.types.vm_power import (
    VmMemoryDiscarded,
    VmRebooted,
    VmRebootFailed,
    VmRebootRequested,
    VmShutdownFailed,
    VmShutdownRequested,
    VmStopRequested,
    VmSuspended,
    VmSuspendFailed,
    VmSuspendRequested,
)
from projections.views import migration, vm_availability
from projections.views.parts import Change, Changes, Link, Reference, View
from projections.views.vm_document import (
    DiskDocument,
    DiskStatus,
    SavedMemory,
    VmDocument,
    VmStatus,
    configuration_of,
    hardware,
)


def _pending(running: VmConfiguration | None, configuration: VmConfiguration) -> Changes:
    """What a VM runs with, shown only where it differs from its configuration."""
    if running is not None:
        running = msgspec.structs.replace(running, pci_bus_next=configuration.pci_bus_next)
        if running == configuration:
            running = None
    return {
        "running_configuration": running,
        "next_run_configuration_exists": running is not None,
    }


def _create(event: e.VmCreated, recorded: Recorded) -> VmDocument:
    locked = event.configuration.disks
    status = VmStatus.IMAGE_LOCKED if locked else VmStatus.DOWN
    return VmDocument(
        id=recorded.object_id,
        name=event.name,
        description=event.description,
        status=status,
        status_since=recorded.time,
        last_known_status=status,
        last_known_status_since=recorded.time,
        # The name lies in another stream; whoever folds both fills it in.
        cluster=Reference(id=event.cluster, name=""),
        data_center=Link(id=event.data_center),
        delete_protected=event.delete_protected,
        version=recorded.version,
        created_at=recorded.time,
        created_by=recorded.actor,
        updated_at=recorded.time,
        updated_by=recorded.actor,
        **hardware(event.configuration, {disk.id: DiskStatus.LOCKED for disk in locked}),
    )


def known(document: VmDocument, status: VmStatus, recorded: Recorded) -> Changes:
    """What changes where the VM is known, or last known, to be in this status."""
    if document.last_known_status is status:
        return {}
    changes: Changes = {"last_known_status": status, "last_known_status_since": recorded.time}
    if document.status is not VmStatus.UNKNOWN:
        changes["status"] = status
        changes["status_since"] = recorded.time
    return changes


def silenced(document: VmDocument, recorded: Recorded) -> VmDocument:
    """Return the VM after a host that may run it fell silent: nobody knows how it is."""
    if document.status is VmStatus.UNKNOWN:
        return document
    return msgspec.structs.replace(document, status=VmStatus.UNKNOWN, status_since=recorded.time)


def heard_of(document: VmDocument) -> VmDocument:
    """Return the VM after its host answered again: it is as it was, until it is told otherwise."""
    if document.status is not VmStatus.UNKNOWN:
        return document
    return msgspec.structs.replace(
        document,
        status=document.last_known_status,
        status_since=document.last_known_status_since,
    )


def _updated(document: VmDocument, event: e.VmUpdated, recorded: Recorded) -> Changes:
    statuses = {disk.id: disk.status for disk in document.disks}
    running = document.running_configuration
    if running is None and document.host is not None:
        running = configuration_of(document)
    return {
        "name": event.name,
        "description": event.description,
        "delete_protected": event.delete_protected,
        "configuration_version": document.configuration_version + 1,
        **hardware(event.configuration, statuses),
        **_pending(running, event.configuration),
    }


def _disks_assigned(document: VmDocument, event: VmDisksAssigned, recorded: Recorded) -> Changes:
    return {"disks_host": Reference(id=event.host, name=event.host_name)}


def _all_disks(document: VmDocument, status: DiskStatus) -> tuple[DiskDocument, ...]:
    return tuple(msgspec.structs.replace(disk, status=status) for disk in document.disks)


def _disks_ready(document: VmDocument, event: VmDisksReady, recorded: Recorded) -> Changes:
    return {
        "disks": _all_disks(document, DiskStatus.OK),
        **known(document, VmStatus.DOWN, recorded),
    }


def _disks_failed(document: VmDocument, event: VmDisksFailed, recorded: Recorded) -> Changes:
    return {
        "disks": _all_disks(document, DiskStatus.ILLEGAL),
        "down_detail": event.reason,
        **known(document, VmStatus.IMAGE_ILLEGAL, recorded),
    }


def _job_done(document: VmDocument, event: VmJobDone, recorded: Recorded) -> Changes:
    if event.kind is not JobKind.DISK_CREATE:
        return {}
    return {"disks": _all_disks(document, DiskStatus.OK)}


def _start_requested(
    document: VmDocument, event: e.VmStartRequested, recorded: Recorded
) -> Changes:
    return {
        "down_reason": None,
        "down_detail": "",
        "restart": None,
        **known(document, VmStatus.WAITING_FOR_LAUNCH, recorded),
    }


def _start_abandoned(
    document: VmDocument, event: e.VmStartAbandoned, recorded: Recorded
) -> Changes:
    before = VmStatus.SUSPENDED if document.saved_memory is not None else VmStatus.DOWN
    return {
        "down_reason": e.DownReason.START_FAILED,
        "down_detail": event.reason,
        **known(document, before, recorded),
    }


def _placed(document: VmDocument, event: e.VmPlaced, recorded: Recorded) -> Changes:
    host = Reference(id=event.host, name=event.host_name)
    others = tuple(other for other in document.may_run_on if other.id != event.host)
    return {
        "host": host,
        "incarnation": event.incarnation,
        "stop_requested": False,
        "hostname": "",
        "addresses": (),
        "balloon_problem": BalloonProblem.NONE,
        "may_run_on": (*others, host),
        "dedicated": event.spec.dedicated,
        **_pending(event.spec.configuration, configuration_of(document)),
    }


def _adopted(document: VmDocument, event: e.VmAdopted, recorded: Recorded) -> Changes:
    host = Reference(id=event.host, name=event.host_name)
    changes: Changes = {
        "host": host,
        "incarnation": event.incarnation,
        "stop_requested": False,
        "pause_reason": None,
        "hostname": "",
        "addresses": (),
        "balloon_problem": BalloonProblem.NONE,
        "down_reason": None,
        "down_detail": "",
        "may_run_on": (host,),
        "dedicated": event.spec.dedicated,
        "dedicated_at_destination": None,
        **_pending(event.spec.configuration, configuration_of(document)),
        **known(document, VmStatus.POWERING_UP, recorded),
    }
    if event.memory_host is not None:
        changes["saved_memory"] = None
    if event.disks:
        changes["disks_host"] = host
    return changes


def _started(document: VmDocument, event: e.VmStarted, recorded: Recorded) -> Changes:
    status = VmStatus.RESTORING_STATE if event.restored else VmStatus.POWERING_UP
    changes = {} if document.stop_requested else known(document, status, recorded)
    if event.restored:
        changes["saved_memory"] = None
    return changes


def _up(document: VmDocument, event: e.VmUp, recorded: Recorded) -> Changes:
    return {"pause_reason": None, **known(document, VmStatus.UP, recorded)}


def _guest_reported(document: VmDocument, event: e.VmGuestReported, recorded: Recorded) -> Changes:
    return {
        "hostname": event.hostname,
        "addresses": event.addresses,
        "operating_system": event.operating_system,
    }


def _balloon_reported(
    document: VmDocument, event: VmBalloonReported, recorded: Recorded
) -> Changes:
    return {"balloon_problem": event.problem}


def _paused(document: VmDocument, event: e.VmPaused, recorded: Recorded) -> Changes:
    return {"pause_reason": event.reason, **known(document, VmStatus.PAUSED, recorded)}


def _continued(document: VmDocument, event: e.VmContinued, recorded: Recorded) -> Changes:
    return {"pause_reason": None, **known(document, VmStatus.UP, recorded)}


def _shutdown_requested(
    document: VmDocument, event: VmShutdownRequested, recorded: Recorded
) -> Changes:
    return known(document, VmStatus.POWERING_DOWN, recorded)


def _stop_requested(document: VmDocument, event: VmStopRequested, recorded: Recorded) -> Changes:
    stopping = document.host is not None
    return {"stop_requested": stopping, **known(document, VmStatus.POWERING_DOWN, recorded)}


def _reboot_requested(
    document: VmDocument, event: VmRebootRequested, recorded: Recorded
) -> Changes:
    return known(document, VmStatus.REBOOT_IN_PROGRESS, recorded)


def _rebooted(document: VmDocument, event: VmRebooted, recorded: Recorded) -> Changes:
    if document.last_known_status is VmStatus.REBOOT_IN_PROGRESS:
        return known(document, VmStatus.UP, recorded)
    return {}


def _suspend_requested(
    document: VmDocument, event: VmSuspendRequested, recorded: Recorded
) -> Changes:
    return known(document, VmStatus.SAVING_STATE, recorded)


def _up_as_before(document: VmDocument, event: Event, recorded: Recorded) -> Changes:
    return known(document, VmStatus.UP, recorded)


def _run_ended(document: VmDocument, host: str, status: VmStatus, recorded: Recorded) -> Changes:
    """The run is over for certain, so the VM's status is known whatever its host says."""
    return {
        "host": None,
        "may_run_on": tuple(other for other in document.may_run_on if other.id != host),
        "stop_requested": False,
        "pause_reason": None,
        "hostname": "",
        "addresses": (),
        "balloon_problem": BalloonProblem.NONE,
        "running_configuration": None,
        "next_run_configuration_exists": False,
        "dedicated": None,
        "status": status,
        "last_known_status": status,
        "status_since": recorded.time,
        "last_known_status_since": recorded.time,
    }


def _suspended(document: VmDocument, event: VmSuspended, recorded: Recorded) -> Changes:
    memory = SavedMemory(
        host=Reference(id=event.host, name=event.host_name), incarnation=event.incarnation
    )
    return {
        "saved_memory": memory,
        "down_reason": e.DownReason.SUSPENDED,
        "down_detail": "",
        **_run_ended(document, event.host, VmStatus.SUSPENDED, recorded),
    }


def _memory_discarded(
    document: VmDocument, event: VmMemoryDiscarded, recorded: Recorded
) -> Changes:
    changes: Changes = {"saved_memory": None}
    if document.last_known_status is VmStatus.SUSPENDED:
        changes |= known(document, VmStatus.DOWN, recorded)
    return changes


def _down(document: VmDocument, event: e.VmDown, recorded: Recorded) -> Changes:
    memory = None if event.restored else document.saved_memory
    if document.last_known_status is VmStatus.WAITING_FOR_LAUNCH:
        # It never ran there; its start goes on with another host, or is given up by an event.
        status = VmStatus.WAITING_FOR_LAUNCH
    else:
        status = VmStatus.DOWN if memory is None else VmStatus.SUSPENDED
    return {
        "saved_memory": memory,
        "down_reason": event.reason,
        "down_detail": event.detail,
        **_run_ended(document, event.host, status, recorded),
    }


def _migration_requested(
    document: VmDocument, event: m.VmMigrationRequested, recorded: Recorded
) -> Changes:
    return known(document, VmStatus.MIGRATING, recorded)


def _migration_started(
    document: VmDocument, event: m.VmMigrationStarted, recorded: Recorded
) -> Changes:
    destination = Reference(id=event.destination, name=event.destination_name)
    there = event.dedicated
    return {
        "may_run_on": (*document.may_run_on, destination),
        "dedicated_at_destination": there,
    }


def _migration_departed(
    document: VmDocument, event: m.VmMigrationDeparted, recorded: Recorded
) -> Changes:
    return {
        "host": Reference(id=event.destination, name=event.destination_name),
        "may_run_on": tuple(other for other in document.may_run_on if other.id != event.host),
        "dedicated": document.dedicated_at_destination,
        "dedicated_at_destination": None,
    }


def _migration_dropped(
    document: VmDocument, event: m.VmMigrationDropped, recorded: Recorded
) -> Changes:
    left = tuple(other for other in document.may_run_on if other.id != event.destination)
    return {"may_run_on": left, "dedicated_at_destination": None}


def _not_migrating(document: VmDocument, event: Event, recorded: Recorded) -> Changes:
    if document.last_known_status is VmStatus.MIGRATING:
        return {"pause_reason": None, **known(document, VmStatus.UP, recorded)}
    return {}


def _migration_held(document: VmDocument, event: m.VmMigrationHeld, recorded: Recorded) -> Changes:
    return {"pause_reason": e.PauseReason.OTHER}


def _migration_mended(
    document: VmDocument, event: m.VmMigrationMended, recorded: Recorded
) -> Changes:
    return {"pause_reason": None}


def _migrated(document: VmDocument, event: m.VmMigrated, recorded: Recorded) -> Changes:
    changes = _not_migrating(document, event, recorded)
    if event.disks_from:
        changes["disks_host"] = Reference(id=event.host, name=event.host_name)
    return changes


def _remove_requested(
    document: VmDocument, event: e.VmRemoveRequested, recorded: Recorded
) -> Changes:
    return {
        "disks": _all_disks(document, DiskStatus.LOCKED),
        **known(document, VmStatus.REMOVING, recorded),
    }


def _hosts_chosen(document: VmDocument, event: VmHostsChosen, recorded: Recorded) -> Changes:
    chosen = tuple(Reference(id=host.id, name=host.name) for host in event.hosts)
    return {"chosen_hosts": chosen, "pinned": event.pinned}


CHANGES: dict[type[Event], Change] = {
    e.VmUpdated: _updated,
    VmDisksAssigned: _disks_assigned,
    VmDisksReady: _disks_ready,
    VmDisksFailed: _disks_failed,
    VmJobDone: _job_done,
    e.VmStartRequested: _start_requested,
    e.VmStartAbandoned: _start_abandoned,
    e.VmPlaced: _placed,
    e.VmAdopted: _adopted,
    e.VmStarted: _started,
    e.VmUp: _up,
    e.VmGuestReported: _guest_reported,
    VmBalloonReported: _balloon_reported,
    e.VmPaused: _paused,
    e.VmContinued: _continued,
    VmShutdownRequested: _shutdown_requested,
    VmStopRequested: _stop_requested,
    VmShutdownFailed: _up_as_before,
    VmRebootRequested: _reboot_requested,
    VmRebooted: _rebooted,
    VmRebootFailed: _up_as_before,
    VmSuspendRequested: _suspend_requested,
    VmSuspendFailed: _up_as_before,
    VmSuspended: _suspended,
    VmMemoryDiscarded: _memory_discarded,
    e.VmDown: _down,
    e.VmRemoveRequested: _remove_requested,
    m.VmMigrationRequested: _migration_requested,
    m.VmMigrationStarted: _migration_started,
    m.VmMigrationDeparted: _migration_departed,
    m.VmMigrationDropped: _migration_dropped,
    m.VmMigrated: _migrated,
    m.VmMigrationHeld: _migration_held,
    m.VmMigrationMended: _migration_mended,
    m.VmMigrationFailed: _not_migrating,
    **vm_availability.CHANGES,
    VmHostsChosen: _hosts_chosen,
    **migration.VM_CHANGES,
}

VIEW: View[VmDocument] = View(
    "vm",
    VmDocument,
    created=e.VmCreated,
    create=_create,
    changes=CHANGES,
    removed=e.VmRemoved,
    ignores=frozenset(
        {
            VmJobOrdered,  # a job is a step of an operation, and shown there
            VmJobFailed,
            VmJobWithdrawn,
            e.VmStartWithdrawn,  # asked of the host; what came of it is told by vm.down
            VmStaleCopyFound,  # the VM's state is untouched; the audit log tells of it
            VmStaleCopyGone,
            m.VmMigrationCancelling,  # asked of the host; its operation shows what came of it
            m.VmMigrationArrived,
            m.VmMigrationRetried,
            m.VmMigrationRecalled,
            m.VmMigrationReleased,
            m.VmMigrationLost,  # as with what is withdrawn: what comes of it is told by vm.down
        }
    ),
)
evolve = VIEW.evolve
