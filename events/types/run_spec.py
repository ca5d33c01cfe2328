"""What a VM is made of: its configuration, as admins edit it, and its run spec, as a host runs it.

Sizes are in bytes. Volumes, images, ISO files and kernels are named by paths relative to the host's
storage folder; an agent never follows a path out of it. `pci_bus` is the number of the PCIe root
port that a device sits behind: it is given once and never changes (contract D 6).
"""

from __future__ import annotations

import enum

import msgspec

from events.types.vm_tuning import UNTUNED, Dedicated, Tuning

FIRST_PCI_BUS = 16
"""Root ports below this number are kept for devices that every VM has; see `FixedPciBus`."""


class FixedPciBus(enum.IntEnum):
    """Root ports of the devices that every VM has."""

    SCSI = 1
    SERIAL = 2
    BALLOON = 3
    RNG = 4


class DiskBus(enum.StrEnum):
    """How a disk shows in the guest."""

    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of a VM. `image` is a file in the storage folder that it is first copied from."""

    id: str
    name: str
    size_bytes: int
    volume: str
    image: str | None = None
    bus: DiskBus = DiskBus.VIRTIO
    pci_bus: int | None = None
    bootable: bool = False
    read_only: bool = False


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface on a named bridge of the host."""

    id: str
    name: str
    mac: str
    bridge: str
    pci_bus: int
    linked: bool = True


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """What the VM boots: a kernel directly if named, else the devices in their order."""

    devices: tuple[str, ...] = ("disk", "cdrom")
    kernel: str | None = None
    initrd: str | None = None
    command_line: str | None = None


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """The virtual CPUs: their number is the product of the three."""

    sockets: int = 1
    cores: int = 1
    threads: int = 1

    @property
    def count(self) -> int:
        """The number of virtual CPUs."""
        return self.sockets * self.cores * self.threads


class SerialPolicy(enum.StrEnum):
    """What a VM shows its guest as the machine's serial number."""

    VM = "vm"  # the VM's id: the same at every start
    HOST = "host"  # the hardware id of the host that the run began on
    CUSTOM = "custom"  # a text of the admin's


class SerialNumber(msgspec.Struct, frozen=True, kw_only=True):
    """A policy for serial numbers; `value` is the text of policy custom."""

    policy: SerialPolicy = SerialPolicy.VM
    value: str = ""


class VmConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """What admins set of a VM's hardware; a change counts from the VM's next run.

    Without a `serial_number` of its own the VM has one by its cluster's policy. Its host leaves it
    at least `memory_guaranteed_bytes`, without which its cluster's over-commitment says how much;
    without `ballooning` it has no balloon, and its host does not know how much the guest uses.
    """

    memory_bytes: int
    topology: Topology = Topology()
    boot: Boot = Boot()
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    cdrom: str | None = None
    pci_bus_next: int = FIRST_PCI_BUS
    tuning: Tuning = UNTUNED
    serial_number: SerialNumber | None = None
    memory_guaranteed_bytes: int | None = None
    ballooning: bool = True

    def memory_kept_bytes(self, given_out_percent: int) -> int:
        """Return how much of its memory the VM is never asked to give back, in bytes.

        Where VMs are given 150 percent of what their hosts have, it is two thirds of the VM's
        memory, unless it says otherwise: so as many fit as are let in (oVirt's default guarantee).
        """
        if not self.ballooning:
            return self.memory_bytes
        if self.memory_guaranteed_bytes is not None:
            return self.memory_guaranteed_bytes
        return self.memory_bytes * 100 // max(100, given_out_percent)


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a host needs to run one incarnation of a VM, resolved.

    `serial` is the SMBIOS serial number that the guest reads as long as this run goes on, wherever
    that is; None for the VM's id. `dedicated` are the CPUs of the host that are this run's alone;
    at another host it has others. Hosts gave out `memory_percent` of their memory, and could take
    it back, when the run began; 100 also where they could not.
    """

    vm: str
    name: str
    incarnation: int
    first_host: str
    configuration: VmConfiguration
    architecture: str
    machine_type: str
    cpu_model: str
    restore_from: str | None = None
    serial: str | None = None
    dedicated: Dedicated | None = None
    memory_percent: int = 100

    @property
    def memory_kept_bytes(self) -> int:
        """How much of its memory this run is never asked to give back."""
        return self.configuration.memory_kept_bytes(self.memory_percent)

    @property
    def serial_shown(self) -> str:
        """The serial number that the guest reads."""
        return self.vm if self.serial is None else self.serial
