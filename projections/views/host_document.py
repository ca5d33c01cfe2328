"""The document of a host, and what a list shows of it."""

from __future__ import annotations

import enum

import msgspec

from events.types.host import Capabilities
from events.types.host_fitness import Unfit
from projections.views.host_maintenance import MaintenanceDocument
from projections.views.host_power import PowerDocument
from projections.views.host_ssh import SshDocument
from projections.views.parts import Counts, OperationInProgress, Reference, Time


class HostStatus(enum.StrEnum):
    """States of a host, in oVirt's words where it has them."""

    INSTALLING = "installing"
    INSTALL_FAILED = "install_failed"
    PENDING_APPROVAL = "pending_approval"
    UNASSIGNED = "unassigned"
    UP = "up"
    NON_RESPONSIVE = "non_responsive"
    KDUMPING = "kdumping"
    DOWN = "down"
    REBOOT = "reboot"
    NON_OPERATIONAL = "non_operational"
    ERROR = "error"
    PREPARING_FOR_MAINTENANCE = "preparing_for_maintenance"
    MAINTENANCE = "maintenance"


class Duty(enum.StrEnum):
    """What the admins want of a host."""

    ACTIVE = "active"
    PREPARING = "preparing"
    MAINTENANCE = "maintenance"


class HostDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A host as the API shows it.

    `status` follows from the facts after it: approved, joined, silent, duplicate, duty, session,
    and from those under `power`.
    `confirmed_off`: an admin vouched that the machine is off, and nothing was heard of it since.
    `last_contact` is as exact as the events are: a host that answers is not recorded each time.
    `vms` counts those placed on the host. `unfit` is what it lacks for its cluster.
    `failing_vms` are the ids of those that could not be started on it, `failing_since` when.
    """

    id: str
    name: str
    address: str
    status: HostStatus = HostStatus.INSTALLING
    status_since: Time
    status_reason: str = ""
    next: str = ""
    cluster: Reference
    data_center: Reference
    approved: bool
    joined: bool = False
    silent: bool = False
    unconfirmed: bool = False
    confirmed_off: bool = False
    duplicate: bool = False
    duty: Duty = Duty.ACTIVE
    maintenance_reason: str = ""
    maintenance: MaintenanceDocument | None = None
    session: str | None = None
    boot: str | None = None
    last_contact: Time | None = None
    hardware: str | None = None
    key_fingerprint: str | None = None
    certificate_expires: Time | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    capabilities: Capabilities | None = None
    unfit: tuple[Unfit, ...] = ()
    failing_since: Time | None = None
    failing_vms: tuple[str, ...] = ()
    unmanaged_domains: tuple[str, ...] = ()
    clock_skew_s: float | None = None
    ssh: SshDocument = SshDocument()
    power: PowerDocument = PowerDocument()
    vms: Counts | None = Counts()
    operations: tuple[OperationInProgress, ...] = ()
    version: int
    created_at: Time
    created_by: str
    updated_at: Time
    updated_by: str


class HostSummary(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The fields of a host that a list shows: what people look for, and little beside it.

    `cpus` and `memory_bytes` are null until the host has said what it can do.
    """

    id: str
    name: str
    address: str
    status: HostStatus
    status_since: Time
    status_reason: str
    cluster: Reference
    data_center: Reference
    cpus: int | None
    memory_bytes: int | None
    vms: Counts | None


def summary_of(document: HostDocument) -> HostSummary:
    """Return what a list shows of a host."""
    return HostSummary(
        id=document.id,
        name=document.name,
        address=document.address,
        status=document.status,
        status_since=document.status_since,
        status_reason=document.status_reason,
        cluster=document.cluster,
        data_center=document.data_center,
        cpus=document.cpus,
        memory_bytes=document.memory_bytes,
        vms=document.vms,
    )
