"""Events of hosts: stream `host/<id>`."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

import msgspec

from events.claims import Claim, exclusive, release, shared
from events.types.base import Audit, Event, Severity, event
from events.types.host_hardware import Hardware, Virtualization
from events.types.host_maintenance import VmsThatStay
from events.types.host_memory import Ksm, Swap


def name_key(name: str) -> str:
    """Return the claim key of a host's name, unique in the whole installation."""
    return f"host.name/{name.casefold()}"


def gate_key(host: str) -> str:
    """Return the claim key that closes a host to new VMs while the host itself holds it."""
    return f"host/{host}/gate"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a host reports of itself; sizes in bytes.

    `migration_address` is where its agent takes VMs in ("" if it does not). `storage_id` names the
    storage folder: hosts that report the same one see the same files ("" if it is the host's own).
    `fence_agents` are the programs that it has for turning other hosts off, without `fence_`.
    `compatibility_versions` are those of clusters that its agent knows, `hardware` all the rest.
    `ksm` is what its kernel says of merging equal pages, None where it has none; `swap` what it has
    swapped out, None where its agent does not tell.
    """

    architecture: str
    cpus: int
    cpu_model: str
    cpu_models: tuple[str, ...] = ()
    memory_bytes: int
    machine_types: tuple[str, ...]
    bridges: tuple[str, ...] = ()
    storage_free_bytes: int = 0
    hypervisor_version: str = ""
    agent_version: str = ""
    hostname: str = ""
    migration_address: str = ""
    storage_id: str = ""
    fence_agents: tuple[str, ...] = ()
    virtualization: Virtualization = Virtualization.UNKNOWN
    compatibility_versions: tuple[str, ...] = ()
    hardware: Hardware | None = None
    ksm: Ksm | None = None
    swap: Swap | None = None


@event("host.added")
class HostAdded(Event, frozen=True, kw_only=True):
    """A host was announced by an admin; `approved` in advance, it may join without another word."""

    name: str
    cluster: str
    data_center: str
    address: str = ""
    approved: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=42, name="USER_ADD_VDS", message="Host {name} was added by {actor}."),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the name; keep the cluster from being removed; nothing may be placed yet."""
        return (
            exclusive(name_key(self.name), stream),
            shared(f"cluster/{self.cluster}", stream),
        )


@event("host.enrolment_token_issued")
class HostEnrolmentTokenIssued(Event, frozen=True, kw_only=True):
    """A single-use token to join was given out; only its SHA-256 (hex) is kept. Ends older ones."""

    token: str
    secret_sha256: str
    expires: dt.datetime


@event("host.join_requested")
class HostJoinRequested(Event, frozen=True, kw_only=True):
    """A machine showed the token and asked for a certificate for its own key; the token is used."""

    name: str
    token: str
    public_key_sha256: str
    hardware: str
    signing_request: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=880,
            name="HOST_CERTIFICATION_ENROLLMENT_STARTED",
            message="Host {name} asks to join with key {public_key_sha256}.",
        ),
    )


@event("host.approved")
class HostApproved(Event, frozen=True, kw_only=True):
    """An admin let the host in; its key and hardware are pinned."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=498, name="VDS_APPROVE", message="Host {name} was approved by {actor}."),
    )


@event("host.certificate_issued")
class HostCertificateIssued(Event, frozen=True, kw_only=True):
    """The internal CA signed the host's key; `fingerprint` is the certificate's SHA-256 (hex).

    A renewal does not end the certificate before it: that counts until this one was taken up.
    """

    name: str
    fingerprint: str
    serial: str
    certificate: str
    expires: dt.datetime

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=881,
            name="HOST_CERTIFICATION_ENROLLMENT_FINISHED",
            message="Host {name} has a certificate until {expires:%Y-%m-%d}.",
        ),
    )


@event("host.certificate_taken_up")
class HostCertificateTakenUp(Event, frozen=True, kw_only=True):
    """The host showed its newest certificate for the first time: older ones count no more."""

    name: str
    fingerprint: str


@event("host.session_started")
class HostSessionStarted(Event, frozen=True, kw_only=True):
    """The host's agent said hello; every earlier session of the host is over."""

    name: str
    session: str
    boot: str
    protocol: int
    returned: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=13,
            name="VDS_DETECTED",
            message="Host {name} answers.",
            resolves="VDS_FAILURE",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record only where the host had been silent or rebooted."""
        return self.audits[0] if self.returned else None


@event("host.capabilities_reported")
class HostCapabilitiesReported(Event, frozen=True, kw_only=True):
    """What the host can do is now this."""

    capabilities: Capabilities


@event("host.silent")
class HostSilent(Event, frozen=True, kw_only=True):
    """Nothing was heard of the host for the whole time-out, and the gateway could listen."""

    name: str
    last_contact: dt.datetime
    timeout_s: float

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=12,
            name="VDS_FAILURE",
            severity=Severity.ERROR,
            message="Host {name} is non-responsive: nothing was heard of it for {timeout_s:g} s.",
        ),
    )


@event("host.activated")
class HostActivated(Event, frozen=True, kw_only=True):
    """The host takes VMs (again)."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=16,
            name="VDS_ACTIVATE",
            message="Host {name} was activated by {actor}.",
            resolves="USER_VDS_MAINTENANCE",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Open the gate."""
        return (release(f"{stream}/gate", stream),)


@event("host.maintenance_requested")
class HostMaintenanceRequested(Event, frozen=True, kw_only=True):
    """The host takes no more VMs; it is in maintenance once the last one is gone.

    Where it is not by `deadline`, what is left is powered off, or the host takes VMs again.
    """

    name: str
    reason: str = ""
    vms_that_stay: VmsThatStay = VmsThatStay.WAIT
    deadline: dt.datetime | None = None

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=600,
            name="USER_VDS_MAINTENANCE",
            message="Host {name} is prepared for maintenance by {actor}. {reason}",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Close the gate to new VMs."""
        return (exclusive(f"{stream}/gate", stream),)


@event("host.maintenance_entered")
class HostMaintenanceEntered(Event, frozen=True, kw_only=True):
    """No VM is on the host any more; it may be worked on."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=15, name="VDS_MAINTENANCE", message="Host {name} is in maintenance."),
    )


@event("host.confirmed_off")
class HostConfirmedOff(Event, frozen=True, kw_only=True):
    """An admin vouched, by typing the host's name, that the machine is off: nothing runs there."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=348,
            name="USER_CLEAR_UNKNOWN_VMS",
            severity=Severity.WARNING,
            message="{actor} confirmed that host {name} is off; what ran there is taken as ended.",
        ),
    )


@event("host.duplicate_refused")
class HostDuplicateRefused(Event, frozen=True, kw_only=True):
    """Two machines use one host's identity: both are refused until an admin looks."""

    name: str
    boots: tuple[str, ...]

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_010,
            name="HOST_DUPLICATE_IDENTITY",
            severity=Severity.ALERT,
            message="Two machines claim to be host {name}; both are refused. Stop one of them,"
            " then approve the host again.",
        ),
    )


@event("host.unmanaged_domains_found")
class HostUnmanagedDomainsFound(Event, frozen=True, kw_only=True):
    """Domains run on the host that Chronovisor did not start; they are left alone."""

    name: str
    domains: tuple[str, ...]

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_011,
            name="HOST_UNMANAGED_DOMAINS",
            severity=Severity.WARNING,
            message="Host {name} runs domains that are not managed: {domains}.",
        ),
    )


@event("host.clock_skewed")
class HostClockSkewed(Event, frozen=True, kw_only=True):
    """The host's clock differs from the engine's by this much."""

    name: str
    skew_s: float

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=604,
            name="VDS_TIME_DRIFT_ALERT",
            severity=Severity.WARNING,
            message="The clock of host {name} is off by {skew_s:.1f} s.",
        ),
    )


@event("host.state_unconfirmed")
class HostStateUnconfirmed(Event, frozen=True, kw_only=True):
    """After a restore: what runs on the host is not known until it reports or an admin confirms.

    No order goes to it before. Its session is over. `incarnations_from`: see `log.restored`.
    """

    name: str
    incarnations_from: int


@event("host.state_confirmed")
class HostStateConfirmed(Event, frozen=True, kw_only=True):
    """After a restore: the host told all that it runs (`reported`), or an admin vouched for it.

    `missing` are the VMs that the log has there and the host did not mention: they are over, or run
    on another host, which is known once all have told.
    """

    name: str
    reported: bool
    missing: tuple[str, ...] = ()

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_071,
            name="HOST_STATE_CONFIRMED",
            severity=Severity.WARNING,
            message="{actor} confirmed that host {name} runs nothing that the log does not know.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of an admin's word; a report is as it should be."""
        return None if self.reported else self.audits[0]


@event("host.cluster_changed")
class HostClusterChanged(Event, frozen=True, kw_only=True):
    """The host, in maintenance, belongs to another cluster of its data center now."""

    name: str
    cluster: str
    cluster_name: str
    previous_cluster: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=43,
            name="USER_UPDATE_VDS",
            message="Host {name} was moved to cluster {cluster_name} by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Refer to the one cluster instead of the other; nothing of VMs may lie on the host."""
        return (
            exclusive(stream, stream),
            release(stream, stream),
            release(f"cluster/{self.previous_cluster}", stream),
            shared(f"cluster/{self.cluster}", stream),
        )


@event("host.removed")
class HostRemoved(Event, frozen=True, kw_only=True):
    """The host is gone; its certificate counts no more; the stream stays as its tombstone.

    `forced`: what lay on it is given up, and goes on referring to the tombstone.
    """

    name: str
    cluster: str
    forced: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=44, name="USER_REMOVE_VDS", message="Host {name} was removed by {actor}."),
        Audit(
            code=60_012,
            name="HOST_REMOVED_BY_FORCE",
            severity=Severity.WARNING,
            message="Host {name} was removed by force by {actor}; the disks there are given up.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of the one or the other."""
        return self.audits[1 if self.forced else 0]

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Free name and cluster; nothing may refer to the host any more, or from now on."""
        freed = (
            release(name_key(self.name), stream),
            release(f"cluster/{self.cluster}", stream),
        )
        if self.forced:
            return (*freed, exclusive(f"{stream}/gate", stream))
        return (*freed, release(f"{stream}/gate", stream), exclusive(stream, stream))
