"""The document of a virtual machine: its statuses, and how its hardware shows."""

from __future__ import annotations

import enum

import msgspec

from events.types import vm as e
from events.types.migration import VmMigrationSettings
from events.types.run_spec import (
    Boot,
    Disk,
    DiskBus,
    Nic,
    SerialNumber,
    Topology,
    VmConfiguration,
)
from events.types.vm_memory import BalloonProblem
from events.types.vm_tuning import UNTUNED, Dedicated, Tuning
from projections.views.parts import Changes, Link, OperationInProgress, Reference, Time
from projections.views.vm_availability import HighAvailability, Restart, StartWithHost


class VmStatus(enum.StrEnum):
    """States of a VM, in oVirt's words where it has them."""

    IMAGE_LOCKED = "image_locked"
    IMAGE_ILLEGAL = "image_illegal"
    DOWN = "down"
    WAITING_FOR_LAUNCH = "waiting_for_launch"
    POWERING_UP = "powering_up"
    RESTORING_STATE = "restoring_state"
    UP = "up"
    PAUSED = "paused"
    REBOOT_IN_PROGRESS = "reboot_in_progress"
    POWERING_DOWN = "powering_down"
    SAVING_STATE = "saving_state"
    MIGRATING = "migrating"
    SUSPENDED = "suspended"
    UNKNOWN = "unknown"
    REMOVING = "removing"


class DiskStatus(enum.StrEnum):
    """States of a disk: being made or removed, ready, or of no use."""

    LOCKED = "locked"
    OK = "ok"
    ILLEGAL = "illegal"


class DiskDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A disk of a VM; sizes in bytes, `volume` and `image` relative to the storage folder."""

    id: str
    name: str
    status: DiskStatus
    size_bytes: int
    volume: str
    image: str | None
    bus: DiskBus
    pci_bus: int | None
    bootable: bool
    read_only: bool


class SavedMemory(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where the memory of a suspended VM lies, and of which run it is."""

    host: Reference
    incarnation: int


class VmDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A VM as the API shows it; sizes in bytes.

    `status` is `unknown` while a host that may run the VM does not answer; `last_known_status` is
    then what it was, and otherwise the same as `status`. `status_reason` says why it is so and
    `next` what happens next, or what a person can do. `may_run_on` names the hosts where a copy may
    be running. `chosen_hosts` are those that it may run on (`pinned`), or is to run on if it can.
    `restart` is there where a policy starts the VM, or started its current run.
    `running_configuration` is there while the VM runs with other settings than its
    configuration, which counts from the next run. `tuning` is how its processors and memory lie on
    those of its host; `dedicated` are the CPUs that are its own there, `dedicated_at_destination`
    those where it is on its way to.
    """

    id: str
    name: str
    description: str
    status: VmStatus
    status_since: Time
    status_reason: str = ""
    next: str = ""
    last_known_status: VmStatus
    last_known_status_since: Time
    host: Reference | None = None
    cluster: Reference
    data_center: Link
    incarnation: int = 0
    stop_requested: bool = False
    may_run_on: tuple[Reference, ...] = ()
    disks_host: Reference | None = None
    saved_memory: SavedMemory | None = None
    pause_reason: e.PauseReason | None = None
    down_reason: e.DownReason | None = None
    down_detail: str = ""
    hostname: str = ""
    addresses: tuple[str, ...] = ()
    operating_system: str = ""
    memory_bytes: int
    vcpus: int
    topology: Topology
    tuning: Tuning = UNTUNED
    dedicated: Dedicated | None = None
    dedicated_at_destination: Dedicated | None = None
    boot: Boot
    cdrom: str | None
    disks: tuple[DiskDocument, ...]
    nics: tuple[Nic, ...]
    serial_number: SerialNumber | None = None
    memory_guaranteed_bytes: int | None = None
    ballooning: bool = True
    balloon_problem: BalloonProblem = BalloonProblem.NONE
    delete_protected: bool
    next_run_configuration_exists: bool = False
    running_configuration: VmConfiguration | None = None
    high_availability: HighAvailability = HighAvailability()
    start_with_host: StartWithHost = StartWithHost()
    restart: Restart | None = None
    migration: VmMigrationSettings = VmMigrationSettings()
    chosen_hosts: tuple[Reference, ...] = ()
    pinned: bool = False
    operations: tuple[OperationInProgress, ...] = ()
    version: int
    configuration_version: int = 1
    created_at: Time
    created_by: str
    updated_at: Time
    updated_by: str


class VmSummary(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The fields of a VM that a list shows: what people look for, and little beside it."""

    id: str
    name: str
    status: VmStatus
    status_since: Time
    host: Reference | None
    cluster: Reference
    memory_bytes: int
    vcpus: int
    hostname: str
    addresses: tuple[str, ...]


def summary_of(document: VmDocument) -> VmSummary:
    """Return what a list shows of a VM."""
    return VmSummary(
        id=document.id,
        name=document.name,
        status=document.status,
        status_since=document.status_since,
        host=document.host,
        cluster=document.cluster,
        memory_bytes=document.memory_bytes,
        vcpus=document.vcpus,
        hostname=document.hostname,
        addresses=document.addresses,
    )


def _disk_document(disk: Disk, status: DiskStatus) -> DiskDocument:
    return DiskDocument(
        id=disk.id,
        name=disk.name,
        status=status,
        size_bytes=disk.size_bytes,
        volume=disk.volume,
        image=disk.image,
        bus=disk.bus,
        pci_bus=disk.pci_bus,
        bootable=disk.bootable,
        read_only=disk.read_only,
    )


def hardware(configuration: VmConfiguration, disks: dict[str, DiskStatus]) -> Changes:
    """Return the fields that show a configuration; `disks` gives the status of those not ready."""
    return {
        "memory_bytes": configuration.memory_bytes,
        "vcpus": configuration.topology.count,
        "topology": configuration.topology,
        "tuning": configuration.tuning,
        "boot": configuration.boot,
        "cdrom": configuration.cdrom,
        "disks": tuple(
            _disk_document(d, disks.get(d.id, DiskStatus.OK)) for d in configuration.disks
        ),
        "nics": configuration.nics,
        "serial_number": configuration.serial_number,
        "memory_guaranteed_bytes": configuration.memory_guaranteed_bytes,
        "ballooning": configuration.ballooning,
    }


def configuration_of(document: VmDocument) -> VmConfiguration:
    """Return the configuration that a document shows (without the next free bus number)."""
    return VmConfiguration(
        memory_bytes=document.memory_bytes,
        topology=document.topology,
        tuning=document.tuning,
        boot=document.boot,
        cdrom=document.cdrom,
        nics=document.nics,
        serial_number=document.serial_number,
        memory_guaranteed_bytes=document.memory_guaranteed_bytes,
        ballooning=document.ballooning,
        disks=tuple(
            Disk(
                id=disk.id,
                name=disk.name,
                size_bytes=disk.size_bytes,
                volume=disk.volume,
                image=disk.image,
                bus=disk.bus,
                pci_bus=disk.pci_bus,
                bootable=disk.bootable,
                read_only=disk.read_only,
            )
            for disk in document.disks
        ),
    )
