"""The inventory's view of hosts."""

from __future__ import annotations

import msgspec

from events.envelope import Recorded
from events.types import host as e
from events.types import host_power as power_events
from events.types import host_ssh as ssh_events
from events.types.base import Event
from events.types.host_failing import (
    HostFailing,
    HostRecovered,
    HostStartFailed,
    HostStartSucceeded,
)
from events.types.host_fitness import HostFitnessFound
from events.types.host_maintenance import HostEvacuationBegun
from events.types.host_refresh import HostRefreshed, HostRefreshRequested
from projections.views import host_maintenance, host_power, host_ssh
from projections.views.host_document import Duty, HostDocument, HostStatus
from projections.views.parts import Change, Changes, Reference, View


def _create(event: e.HostAdded, recorded: Recorded) -> HostDocument:
    return HostDocument(
        id=recorded.object_id,
        name=event.name,
        address=event.address,
        status_since=recorded.time,
        # The names lie in other streams; whoever folds all of them fills these in.
        cluster=Reference(id=event.cluster, name=""),
        data_center=Reference(id=event.data_center, name=""),
        approved=event.approved,
        version=recorded.version,
        created_at=recorded.time,
        created_by=recorded.actor,
        updated_at=recorded.time,
        updated_by=recorded.actor,
    )


_AWAY = frozenset({HostStatus.NON_RESPONSIVE, HostStatus.MAINTENANCE})


def _status(document: HostDocument) -> HostStatus:
    """Where it stands, or what is known of its machine while it is away."""
    standing = _standing(document)
    power = document.power
    if standing not in _AWAY or document.unconfirmed:
        return standing
    if not _known_off(document):
        dumps = power.kdumping and standing is HostStatus.NON_RESPONSIVE
        return HostStatus.KDUMPING if dumps else standing
    if power.boot_overdue:
        return standing
    return HostStatus.DOWN if power.turned_on_at is None else HostStatus.REBOOT


def _known_off(document: HostDocument) -> bool:
    return document.confirmed_off or document.power.fenced_off


def _standing(document: HostDocument) -> HostStatus:
    """Where it stands, whatever is known of its machine; the worst news first."""
    if document.duplicate:
        return HostStatus.ERROR
    if document.ssh.installing:
        return HostStatus.INSTALLING
    if not document.joined:
        return HostStatus.INSTALL_FAILED if document.ssh.failed else HostStatus.INSTALLING
    if not document.approved:
        return HostStatus.PENDING_APPROVAL
    if document.unconfirmed:
        return HostStatus.NON_RESPONSIVE
    if document.ssh.failed:
        return HostStatus.INSTALL_FAILED
    if document.duty is Duty.MAINTENANCE:
        return HostStatus.MAINTENANCE
    if document.silent or _known_off(document):
        return HostStatus.NON_RESPONSIVE
    if document.duty is Duty.PREPARING:
        return HostStatus.PREPARING_FOR_MAINTENANCE
    if document.session is None:
        return HostStatus.UNASSIGNED
    if document.failing_since is not None:
        return HostStatus.ERROR
    return HostStatus.NON_OPERATIONAL if document.unfit else HostStatus.UP


def _join_requested(
    document: HostDocument, event: e.HostJoinRequested, recorded: Recorded
) -> Changes:
    return {
        "joined": True,
        "hardware": event.hardware,
        "key_fingerprint": event.public_key_sha256,
        "certificate_expires": None,
        "ssh": host_ssh.forgotten(document.ssh),
    }


def _approved(document: HostDocument, event: e.HostApproved, recorded: Recorded) -> Changes:
    return {"approved": True, "duplicate": False}


def _certificate_issued(
    document: HostDocument, event: e.HostCertificateIssued, recorded: Recorded
) -> Changes:
    return {"certificate_expires": event.expires}


def _session_started(
    document: HostDocument, event: e.HostSessionStarted, recorded: Recorded
) -> Changes:
    return {
        "session": event.session,
        "boot": event.boot,
        "silent": False,
        "confirmed_off": False,
        **(_NOT_FAILING if event.boot != document.boot else {}),
        "clock_skew_s": None,
        "power": host_power.heard(document.power),
        "ssh": host_ssh.forgotten(document.ssh),
        "last_contact": recorded.time,
    }


def _capabilities_reported(
    document: HostDocument, event: e.HostCapabilitiesReported, recorded: Recorded
) -> Changes:
    return {
        "capabilities": event.capabilities,
        "cpus": event.capabilities.cpus,
        "memory_bytes": event.capabilities.memory_bytes,
        "last_contact": recorded.time,
    }


_NOT_FAILING: Changes = {"failing_since": None, "failing_vms": ()}


def _failing(document: HostDocument, event: HostFailing, recorded: Recorded) -> Changes:
    return {"failing_since": recorded.time, "failing_vms": event.vms}


def _recovered(document: HostDocument, event: HostRecovered, recorded: Recorded) -> Changes:
    return _NOT_FAILING


def _fitness_found(document: HostDocument, event: HostFitnessFound, recorded: Recorded) -> Changes:
    return {"unfit": event.reasons}


def _cluster_changed(
    document: HostDocument, event: e.HostClusterChanged, recorded: Recorded
) -> Changes:
    return {"cluster": Reference(id=event.cluster, name=event.cluster_name)}


def _silent(document: HostDocument, event: e.HostSilent, recorded: Recorded) -> Changes:
    return {"silent": True, "last_contact": event.last_contact}


def _activated(document: HostDocument, event: e.HostActivated, recorded: Recorded) -> Changes:
    ssh = host_ssh.forgotten(document.ssh)
    return {
        "duty": Duty.ACTIVE,
        "maintenance_reason": "",
        "maintenance": None,
        "ssh": ssh,
        **_NOT_FAILING,
    }


def _maintenance_requested(
    document: HostDocument, event: e.HostMaintenanceRequested, recorded: Recorded
) -> Changes:
    return {
        "duty": Duty.PREPARING,
        "maintenance_reason": event.reason,
        "maintenance": host_maintenance.requested(event),
    }


def _evacuation_begun(
    document: HostDocument, event: HostEvacuationBegun, recorded: Recorded
) -> Changes:
    return {"maintenance": host_maintenance.begun(document.maintenance, event)}


def _maintenance_entered(
    document: HostDocument, event: e.HostMaintenanceEntered, recorded: Recorded
) -> Changes:
    return {"duty": Duty.MAINTENANCE}


def _confirmed_off(
    document: HostDocument, event: e.HostConfirmedOff, recorded: Recorded
) -> Changes:
    power = host_power.unswitched(document.power, fenced_off=document.power.fenced_off)
    return {"confirmed_off": True, "unconfirmed": False, "power": power}


def _state_unconfirmed(
    document: HostDocument, event: e.HostStateUnconfirmed, recorded: Recorded
) -> Changes:
    return {
        "session": None,
        "silent": True,
        "unconfirmed": True,
        "ssh": host_ssh.restored(document.ssh),
        # What became of the machine since the backup is not known.
        "confirmed_off": False,
        "power": host_power.unswitched(document.power),
    }


def _state_confirmed(
    document: HostDocument, event: e.HostStateConfirmed, recorded: Recorded
) -> Changes:
    return {"unconfirmed": False}


def _duplicate_refused(
    document: HostDocument, event: e.HostDuplicateRefused, recorded: Recorded
) -> Changes:
    return {"duplicate": True}


def _unmanaged_domains_found(
    document: HostDocument, event: e.HostUnmanagedDomainsFound, recorded: Recorded
) -> Changes:
    return {"unmanaged_domains": event.domains, "last_contact": recorded.time}


def _clock_skewed(document: HostDocument, event: e.HostClockSkewed, recorded: Recorded) -> Changes:
    return {"clock_skew_s": event.skew_s, "last_contact": recorded.time}


def _ssh_ordered(
    document: HostDocument, event: ssh_events.HostSshOrdered, recorded: Recorded
) -> Changes:
    ssh = host_ssh.ordered(document.ssh, document.address, event, joined=document.joined)
    return {"ssh": ssh, "address": event.address or document.address}


def _ssh_key_pinned(
    document: HostDocument, event: ssh_events.HostSshKeyPinned, recorded: Recorded
) -> Changes:
    if event.order != document.ssh.order:
        return {}
    pinned = {"fingerprint": event.fingerprint, "key_type": event.key_type}
    return {"ssh": msgspec.structs.replace(document.ssh, **pinned)}


def _ssh_step(document: HostDocument, event: ssh_events.HostSshStep, recorded: Recorded) -> Changes:
    if event.order != document.ssh.order:
        return {}
    return {"ssh": msgspec.structs.replace(document.ssh, step=event.step, text=event.text)}


def _ssh_ended(
    document: HostDocument, event: ssh_events.HostSshEnded, recorded: Recorded
) -> Changes:
    if event.order != document.ssh.order:
        return {}
    shown = {"ssh": host_ssh.ended(document.ssh, event)}
    if not host_ssh.takes_agent_away(document.ssh, event):
        return shown
    gone = {"hardware": None, "key_fingerprint": None, "certificate_expires": None}
    return {**shown, **gone, "joined": False, "session": None, "silent": False}


def _power(document: HostDocument, event: Event, recorded: Recorded) -> Changes:
    power = host_power.CHANGES[type(event)](document.power, event, recorded)
    if isinstance(event, power_events.HostFencedOff):
        return {"power": power, "unconfirmed": False}
    return {"power": power}


CHANGES: dict[type[Event], Change] = {
    e.HostJoinRequested: _join_requested,
    e.HostApproved: _approved,
    e.HostCertificateIssued: _certificate_issued,
    e.HostSessionStarted: _session_started,
    e.HostCapabilitiesReported: _capabilities_reported,
    HostFitnessFound: _fitness_found,
    HostFailing: _failing,
    HostRecovered: _recovered,
    e.HostClusterChanged: _cluster_changed,
    e.HostSilent: _silent,
    e.HostActivated: _activated,
    e.HostMaintenanceRequested: _maintenance_requested,
    e.HostMaintenanceEntered: _maintenance_entered,
    HostEvacuationBegun: _evacuation_begun,
    e.HostConfirmedOff: _confirmed_off,
    e.HostStateUnconfirmed: _state_unconfirmed,
    e.HostStateConfirmed: _state_confirmed,
    e.HostDuplicateRefused: _duplicate_refused,
    e.HostUnmanagedDomainsFound: _unmanaged_domains_found,
    e.HostClockSkewed: _clock_skewed,
    ssh_events.HostSshOrdered: _ssh_ordered,
    ssh_events.HostSshKeyPinned: _ssh_key_pinned,
    ssh_events.HostSshStep: _ssh_step,
    ssh_events.HostSshEnded: _ssh_ended,
    **dict.fromkeys(host_power.CHANGES, _power),
}


class _HostView(View[HostDocument]):
    def evolve(self, document: HostDocument | None, recorded: Recorded) -> HostDocument | None:
        """Return the host after one event of its stream, its status following from the facts."""
        after = super().evolve(document, recorded)
        if after is None or after is document:
            return after
        status = _status(after)
        if status is after.status:
            return after
        return msgspec.structs.replace(after, status=status, status_since=recorded.time)


VIEW = _HostView(
    "host",
    HostDocument,
    created=e.HostAdded,
    create=_create,
    changes=CHANGES,
    removed=e.HostRemoved,
    # The token is between the admin and the machine; the newest certificate's end is shown from
    # when it is issued.
    # The VMs' own events tell of starts that fail; several in a row show.
    # That a host is asked what it can do shows in the operation, what it says in its capabilities.
    # Which worker does what over SSH, and why it is undone, shows in the operation.
    ignores=host_power.IGNORED.union(
        {
            e.HostEnrolmentTokenIssued,
            HostStartFailed,
            HostStartSucceeded,
            HostRefreshRequested,
            HostRefreshed,
            e.HostCertificateTakenUp,
            ssh_events.HostSshBegun,
            ssh_events.HostSshKeyRefused,
            ssh_events.HostSshCancelRequested,
            ssh_events.HostSshUndoStarted,
        }
    ),
)
evolve = VIEW.evolve
