"""What a host reports of its hardware and software; sizes in bytes.

Everything here is bounded, so that a report fits into one event whatever machine it is of.
"""

from __future__ import annotations

import enum

import msgspec

FLAGS_MAX = 1_000
CORES_TEXT_MAX = 32_768
NUMA_NODES_MAX = 64
NICS_MAX = 256
DEVICES_MAX = 512
MDEV_TYPES_MAX = 256
"""Of all devices together."""
USB_DEVICES_MAX = 256
BLOCK_DEVICES_MAX = 512
PAGE_SIZES_MAX = 8
TEXT_MAX = 120
"""The most characters of any name that a machine gives itself."""


class Virtualization(enum.StrEnum):
    """How the host runs guests."""

    UNKNOWN = ""  # its agent does not say
    KVM = "kvm"
    EMULATION = "emulation"  # QEMU's TCG: slow, and able to run everywhere


class CpuTopology(msgspec.Struct, frozen=True, kw_only=True):
    """How the CPUs are made up: sockets of the whole host, cores of a socket, threads of a core."""

    sockets: int = 0
    cores: int = 0
    threads: int = 0


class NumaNode(msgspec.Struct, frozen=True, kw_only=True):
    """A NUMA node: its CPUs by their numbers, as ranges (`0-3,8`), and its memory."""

    node: int
    cpus: str
    memory_bytes: int


class HugePages(msgspec.Struct, frozen=True, kw_only=True):
    """How many huge pages of one size are set aside."""

    size_bytes: int
    count: int


class HostNic(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface. `speed_mbps` is 0 where it is not known; `bridge` is what it is in."""

    name: str
    mac: str
    up: bool
    speed_mbps: int = 0
    bridge: str = ""


class MdevType(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of mediated device (a vGPU, say) that a PCI device can be shared as.

    `id` is what the kernel calls it (`nvidia-222`), `name` and `description` what its driver does;
    so many are `available` still.
    """

    id: str
    name: str = ""
    description: str = ""
    available: int = 0


class PciDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A PCI device: `class_code`, `vendor` and `product` in hex; `iommu_group` where it has one.

    One with SR-IOV has so many `virtual_functions` now, of `virtual_functions_max`; each of them is
    a device of its own, which names its `physical_function` by address.
    """

    address: str
    class_code: str
    vendor: str
    product: str
    driver: str = ""
    iommu_group: int | None = None
    virtual_functions: int = 0
    virtual_functions_max: int = 0
    physical_function: str = ""
    mdev_types: tuple[MdevType, ...] = ()


class UsbDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A USB device: where it is plugged in (bus, then ports); `vendor` and `product` in hex; `name`
    is what it calls itself.
    """

    address: str
    vendor: str
    product: str
    name: str = ""


class BlockDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of the host."""

    name: str
    size_bytes: int
    model: str = ""
    rotational: bool = False
    removable: bool = False


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """What software the host runs; "" where it is not known."""

    kernel: str = ""
    libvirt: str = ""
    qemu: str = ""
    operating_system: str = ""


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """All that a host says of itself beyond what placement needs.

    `tsc_hz` is the rate of the CPUs' time-stamp counter, 0 where it is not known. `cores` are the
    CPUs of each core, with spaces between the cores: `0,4 1,5`; "" where that is not known.
    `iommu` says whether the IOMMU is on, without which no PCI device can be handed to a VM; None
    where the agent does not tell.
    `truncated` names the lists that are longer in truth than what is shown.
    """

    cpu_vendor: str = ""
    tsc_hz: int = 0
    cpu_flags: tuple[str, ...] = ()
    topology: CpuTopology = CpuTopology()
    cores: str = ""
    numa_nodes: tuple[NumaNode, ...] = ()
    huge_pages: tuple[HugePages, ...] = ()
    nics: tuple[HostNic, ...] = ()
    iommu: bool | None = None
    devices: tuple[PciDevice, ...] = ()
    usb_devices: tuple[UsbDevice, ...] = ()
    block_devices: tuple[BlockDevice, ...] = ()
    versions: Versions = Versions()
    truncated: tuple[str, ...] = ()
