"""Histories that the tests of verbs begin with: objects in each of their states."""

from __future__ import annotations

import datetime as dt

from commands.kernel.testing import NOW, Given, given
from commands.state.host import HOST, HostStatus
from commands.state.vm import VM, VmStatus
from events.types import host as h
from events.types import host_power as power
from events.types import host_ssh as ssh
from events.types import vm as v
from events.types import vm_migration as m
from events.types.base import Event
from events.types.cluster import ClusterCreated
from events.types.data_center import DataCenterCreated
from events.types.host_fitness import HostFitnessFound, Unfit, UnfitKind
from events.types.operation import OperationStarted
from events.types.run_spec import Disk, Nic, RunSpec, VmConfiguration
from events.types.vm_jobs import VmDisksAssigned, VmDisksFailed, VmDisksReady
from events.types.vm_power import (
    VmRebootRequested,
    VmShutdownRequested,
    VmSuspended,
    VmSuspendRequested,
)

DATA_CENTER = "00000000-0000-0000-0000-00000000000d"
CLUSTER = "00000000-0000-0000-0000-00000000000c"
OTHER_CLUSTER = "00000000-0000-0000-0000-0000000000c2"
HOST_ID = "00000000-0000-0000-0000-0000000000f1"
VM_ID = "00000000-0000-0000-0000-0000000000e1"
NOBODY = "00000000-0000-0000-0000-000000000000"
STARTING = "00000000-0000-0000-0000-0000000000a1"
MIB = 1024 * 1024

DISK = Disk(id="d1", name="disk0", size_bytes=MIB, volume=f"{VM_ID}/d1.qcow2", pci_bus=16)
NIC = Nic(id="n1", name="nic0", mac="56:6f:1a:00:00:01", bridge="br0", pci_bus=17)
CONFIGURATION = VmConfiguration(memory_bytes=256 * MIB, disks=(DISK,), nics=(NIC,), pci_bus_next=18)
SPEC = RunSpec(
    vm=VM_ID,
    name="web01",
    incarnation=1,
    first_host=HOST_ID,
    configuration=CONFIGURATION,
    architecture="x86_64",
    machine_type="pc-q35-7.2",
    cpu_model="qemu64",
)
PLACE = (
    (
        f"data_center/{DATA_CENTER}",
        DataCenterCreated(name="Default", compatibility_version="1.0"),
    ),
    (
        f"cluster/{CLUSTER}",
        ClusterCreated(
            name="Default",
            data_center=DATA_CENTER,
            architecture="x86_64",
            cpu_model="qemu64",
            machine_type="pc-q35-7.2",
            compatibility_version="1.0",
        ),
    ),
)


def place() -> Given:
    """A data center with a cluster."""
    return given(PLACE)


ADDED = h.HostAdded(name="kvm01", cluster=CLUSTER, data_center=DATA_CENTER)
JOINED = h.HostJoinRequested(
    name="kvm01", token="t", public_key_sha256="k", hardware="hw", signing_request="csr"
)
APPROVED = h.HostApproved(name="kvm01")
SESSION = h.HostSessionStarted(name="kvm01", session="s1", boot="b1", protocol=1)
SILENT = h.HostSilent(name="kvm01", last_contact=NOW, timeout_s=60)
DUMPS = power.HostKdumpStarted(name="kvm01", address="192.0.2.7")
FENCED_OFF = power.HostFencedOff(name="kvm01", order="o1", proxy_name="kvm02", agents=("bmc",))
FENCED_ON = power.HostFencedOn(name="kvm01", order="o2", proxy_name="kvm02")
PREPARING = h.HostMaintenanceRequested(name="kvm01")
RESTING = h.HostMaintenanceEntered(name="kvm01")
ORDER = "0192ffff-0000-7000-8000-00000000000f"
SSH_INSTALL = ssh.HostSshOrdered(
    name="kvm01", order=ORDER, task=ssh.SshTask.INSTALL, address="192.0.2.7"
)
SSH_FAILED = ssh.HostSshEnded(
    name="kvm01", order=ORDER, task=ssh.SshTask.INSTALL, succeeded=False, reason="No route."
)
SMALL = h.HostCapabilitiesReported(
    capabilities=h.Capabilities(
        architecture="x86_64", cpus=2, cpu_model="", memory_bytes=512 << 20, machine_types=()
    )
)
UNFIT = HostFitnessFound(
    name="kvm01",
    cluster_name="Default",
    reasons=(
        Unfit(kind=UnfitKind.MEMORY, reason="It has 512 MiB of memory; 1907 MiB are needed."),
    ),
)
_JOINED = (ADDED, JOINED, APPROVED)
HOSTS: dict[HostStatus, tuple[Event, ...]] = {
    HostStatus.INSTALLING: (ADDED,),
    HostStatus.INSTALL_FAILED: (ADDED, SSH_INSTALL, SSH_FAILED),
    HostStatus.PENDING_APPROVAL: (ADDED, JOINED),
    HostStatus.UNASSIGNED: _JOINED,
    HostStatus.UP: (*_JOINED, SESSION),
    HostStatus.NON_RESPONSIVE: (*_JOINED, SESSION, SILENT),
    HostStatus.KDUMPING: (*_JOINED, SESSION, SILENT, DUMPS),
    HostStatus.DOWN: (*_JOINED, SESSION, SILENT, FENCED_OFF),
    HostStatus.REBOOT: (*_JOINED, SESSION, SILENT, FENCED_OFF, FENCED_ON),
    HostStatus.NON_OPERATIONAL: (*_JOINED, SESSION, SMALL, UNFIT),
    HostStatus.ERROR: (*_JOINED, SESSION, h.HostDuplicateRefused(name="kvm01", boots=("a", "b"))),
    HostStatus.PREPARING_FOR_MAINTENANCE: (*_JOINED, SESSION, PREPARING),
    HostStatus.MAINTENANCE: (*_JOINED, SESSION, PREPARING, RESTING),
    HostStatus.REMOVED: (ADDED, h.HostRemoved(name="kvm01", cluster=CLUSTER)),
}


def host(status: HostStatus = HostStatus.UP, *more: Event) -> Given:
    """A host in a state, in its cluster."""
    history = place().and_then(*((f"host/{HOST_ID}", event) for event in (*HOSTS[status], *more)))
    state = history.state(HOST, HOST_ID)
    assert state is not None
    assert more or state.status is status
    return history


CREATED = v.VmCreated(
    name="web01", data_center=DATA_CENTER, cluster=CLUSTER, configuration=CONFIGURATION
)
ASSIGNED = VmDisksAssigned(host=HOST_ID, host_name="kvm01")
READY = VmDisksReady(name="web01")
WANTED = v.VmStartRequested(name="web01")
PLACED = v.VmPlaced(name="web01", host=HOST_ID, host_name="kvm01", incarnation=1, spec=SPEC)
STARTED = v.VmStarted(name="web01", host=HOST_ID, host_name="kvm01", incarnation=1)
UP = v.VmUp(name="web01", host=HOST_ID, host_name="kvm01", incarnation=1)
SUSPENDED = VmSuspended(
    name="web01", host=HOST_ID, host_name="kvm01", incarnation=1, saved_memory="m.save"
)
_DOWN = (CREATED, ASSIGNED, READY)
_UP = (*_DOWN, WANTED, PLACED, STARTED, UP)
VMS: dict[VmStatus, tuple[Event, ...]] = {
    VmStatus.IMAGE_LOCKED: (CREATED,),
    VmStatus.IMAGE_ILLEGAL: (CREATED, ASSIGNED, VmDisksFailed(name="web01", reason="full")),
    VmStatus.DOWN: _DOWN,
    VmStatus.WAITING_FOR_LAUNCH: (*_DOWN, WANTED),
    VmStatus.POWERING_UP: (*_DOWN, WANTED, PLACED, STARTED),
    VmStatus.RESTORING_STATE: (
        *(*_UP, SUSPENDED, WANTED, PLACED),
        v.VmStarted(name="web01", host=HOST_ID, host_name="kvm01", incarnation=1, restored=True),
    ),
    VmStatus.UP: _UP,
    VmStatus.PAUSED: (
        *_UP,
        v.VmPaused(name="web01", incarnation=1, reason=v.PauseReason.IO_ERROR),
    ),
    VmStatus.REBOOT_IN_PROGRESS: (*_UP, VmRebootRequested(name="web01", incarnation=1)),
    VmStatus.POWERING_DOWN: (*_UP, VmShutdownRequested(name="web01", incarnation=1)),
    VmStatus.SAVING_STATE: (*_UP, VmSuspendRequested(name="web01", incarnation=1)),
    VmStatus.MIGRATING: (*_UP, m.VmMigrationRequested(name="web01", incarnation=1)),
    VmStatus.SUSPENDED: (*_UP, SUSPENDED),
    VmStatus.UNKNOWN: _UP,
    VmStatus.REMOVING: (*_DOWN, v.VmRemoveRequested(name="web01", data_center=DATA_CENTER)),
    VmStatus.REMOVED: (*_DOWN, v.VmRemoved(name="web01", cluster=CLUSTER)),
}
"""Unknown is a VM that is up on a host that does not answer: see `vm`."""


def vm(status: VmStatus = VmStatus.DOWN, *more: Event) -> Given:
    """A VM in a state, its disks on a host of its cluster."""
    unknown = status is VmStatus.UNKNOWN
    history = host(HostStatus.NON_RESPONSIVE if unknown else HostStatus.UP)
    history.and_then(
        (f"operation/{STARTING}", start_operation()),
        *((f"vm/{VM_ID}", event) for event in (*VMS[status], *more)),
        correlation=STARTING,
    )
    state = history.state(VM, VM_ID)
    assert state is not None
    assert more or unknown or state.status is status
    return history


def start_operation() -> OperationStarted:
    """The operation of the VM's start."""
    return OperationStarted(
        kind="vm.start",
        target=f"vm/{VM_ID}",
        name="web01",
        steps=("place", "launch", "boot"),
        cancellable=True,
    )


def later(seconds: float) -> dt.datetime:
    """Return a time after the commands' own."""
    return NOW + dt.timedelta(seconds=seconds)
