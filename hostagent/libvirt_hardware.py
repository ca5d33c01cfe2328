"""A host's hardware, from libvirt's description of it and from what its kernel shows in files.

Only what stays as it is while VMs come and go: their taps, and loop devices, are left out. Every
list and text is bounded, so that a report fits into one event whatever machine it is of.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from lxml import etree

from events.types import host_hardware as h
from events.types.host_hardware import (
    BlockDevice,
    CpuTopology,
    Hardware,
    HostNic,
    HugePages,
    MdevType,
    NumaNode,
    PciDevice,
    UsbDevice,
    Versions,
)
from events.types.vm_tuning import spelled
from hostagent.libvirt_xml import parse

HARDWARE_BYTES_MAX = 160 * 1024
"""The most that hardware may take as JSON; an event holds 256 KiB, with all else in it."""
_FILE_BYTES_MAX = 64 * 1024
_SECTOR_BYTES = 512
_DULL_CLASSES = ("0x05", "0x06", "0x08")
"""PCI memory controllers, bridges and system parts: of no use to a VM, and there are many."""
_USB_HUB = "09"
_DULL_BLOCKS = ("loop", "ram", "zram", "nbd", "dm-", "md", "sr", "fd")
_LINKS = ("bond", "vlan", "bridge")
Item = TypeVar("Item")


def hardware(
    root: Path, processor_info: Path, capabilities_xml: str, versions: Versions
) -> Hardware:
    """Return a host's hardware; `root` is its root folder. Blocks for some milliseconds."""
    xml = parse(capabilities_xml)
    vendor, flags = _processor(_text(processor_info))
    system, cut = root / "sys", _Cut()
    found = Hardware(
        cpu_vendor=_short(xml.findtext("host/cpu/vendor") or vendor),
        cpu_flags=cut("cpu_flags", flags, h.FLAGS_MAX),
        tsc_hz=_tsc_hz(xml),
        topology=_topology(xml),
        cores=cut.text("cores", _cores(xml), h.CORES_TEXT_MAX),
        numa_nodes=cut("numa_nodes", _numa_nodes(xml), h.NUMA_NODES_MAX),
        huge_pages=cut("huge_pages", _huge_pages(system), h.PAGE_SIZES_MAX),
        nics=cut("nics", _nics(system), h.NICS_MAX),
        iommu=_iommu(system),
        devices=_with_fewer_mdev_types(
            cut, cut("devices", _devices(system), h.DEVICES_MAX), h.MDEV_TYPES_MAX
        ),
        usb_devices=cut("usb_devices", _usb_devices(system), h.USB_DEVICES_MAX),
        block_devices=cut("block_devices", _block_devices(system), h.BLOCK_DEVICES_MAX),
        versions=_with_system(versions, root),
    )
    return _bounded(msgspec.structs.replace(found, truncated=tuple(cut.names)))


class _Cut:
    """Cuts lists to what is shown of them, and keeps the names of those that were longer."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, items: Iterable[Item], at_most: int) -> tuple[Item, ...]:
        found = tuple(itertools.islice(items, at_most + 1))
        if len(found) > at_most:
            self.names += [name] if name not in self.names else []
        return found[:at_most]

    def text(self, name: str, text: str, at_most: int) -> str:
        """Return a text that is of use only as a whole; "" where it is longer."""
        if len(text) <= at_most:
            return text
        self.names.append(name)
        return ""


def _bounded(found: Hardware) -> Hardware:
    """Leave the longest lists out of what would not fit into an event."""
    for name in ("devices", "usb_devices", "block_devices", "nics"):
        if len(msgspec.json.encode(found)) <= HARDWARE_BYTES_MAX:
            break
        if not getattr(found, name):
            continue
        truncated = tuple(dict.fromkeys((*found.truncated, name)))
        found = msgspec.structs.replace(found, **{name: ()}, truncated=truncated)
    return found


def _processor(text: str) -> tuple[str, tuple[str, ...]]:
    """Return vendor and flags of the first CPU; x86 says `flags`, others `Features`."""
    fields: dict[str, str] = {}
    for line in itertools.takewhile(str.strip, text.splitlines()):
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    flags = fields.get("flags", fields.get("Features", "")).split()
    return fields.get("vendor_id", ""), tuple(sorted({_short(flag) for flag in flags}))


def _topology(xml: etree._Element) -> CpuTopology:
    """Return sockets of the whole host: libvirt's own figure is of one NUMA node."""
    described = xml.find("host/cpu/topology")
    if described is None:
        return CpuTopology()
    cpus = xml.iterfind("host/topology/cells/cell/cpus/cpu")
    sockets = {each.get("socket_id") for each in cpus} - {None}
    dies = int(described.get("dies", "1"))
    return CpuTopology(
        sockets=len(sockets) or int(described.get("sockets", "0")),
        cores=int(described.get("cores", "0")) * dies,
        threads=int(described.get("threads", "0")),
    )


def _cores(xml: etree._Element) -> str:
    """Return the CPUs of each core, as libvirt has them of the kernel; "" where one is missing."""
    cpus = list(xml.iterfind("host/topology/cells/cell/cpus/cpu"))
    cores = [cpu.get("siblings", "") for cpu in cpus]
    return "" if "" in cores else " ".join(dict.fromkeys(cores))


def _tsc_hz(xml: etree._Element) -> int:
    counter = xml.find("host/cpu/counter[@name='tsc']")
    rate = counter.get("frequency", "") if counter is not None else ""
    return int(rate) if rate.isdigit() else 0


def _numa_nodes(xml: etree._Element) -> Iterator[NumaNode]:
    for cell in xml.iterfind("host/topology/cells/cell"):
        cpus = (int(cpu.get("id", "0")) for cpu in cell.iterfind("cpus/cpu"))
        yield NumaNode(
            node=int(cell.get("id", "0")),
            cpus=_short(spelled(cpus)),
            memory_bytes=int(cell.findtext("memory") or 0) * 1024,
        )


def _huge_pages(system: Path) -> Iterator[HugePages]:
    for folder in _entries(system / "kernel" / "mm" / "hugepages"):
        size = folder.name.removeprefix("hugepages-").removesuffix("kB")
        if size.isdigit():
            count = _number(folder / "nr_hugepages")
            yield HugePages(size_bytes=int(size) * 1024, count=count)


def _nics(system: Path) -> Iterator[HostNic]:
    for folder in _entries(system / "class" / "net"):
        if not ((folder / "device").exists() or _kind_of(folder) in _LINKS):
            continue
        master = folder / "master"
        bridged = (master / "bridge").exists()
        yield HostNic(
            name=_short(folder.name),
            mac=_short(_text(folder / "address").strip()),
            up=_text(folder / "operstate").strip() in {"up", "unknown"},
            speed_mbps=max(0, _number(folder / "speed")),
            bridge=_short(master.resolve().name) if bridged else "",
        )


def _kind_of(folder: Path) -> str:
    """Return `bridge`, `bond`, `vlan`, or "" for another interface."""
    for line in _text(folder / "uevent").splitlines():
        if line.startswith("DEVTYPE="):
            return line.partition("=")[2]
    return "bridge" if (folder / "bridge").exists() else ""


def _iommu(system: Path) -> bool | None:
    """Tell whether the kernel uses an IOMMU: it shows each unit then."""
    classes = system / "class"
    return bool(_entries(classes / "iommu")) if classes.is_dir() else None


def _devices(system: Path) -> Iterator[PciDevice]:
    for folder in _entries(system / "bus" / "pci" / "devices"):
        code = _text(folder / "class").strip()
        if code.startswith(_DULL_CLASSES):
            continue
        group = _link(folder / "iommu_group")
        yield PciDevice(
            address=_short(folder.name),
            class_code=_short(code.removeprefix("0x")),
            vendor=_short(_text(folder / "vendor").strip().removeprefix("0x")),
            product=_short(_text(folder / "device").strip().removeprefix("0x")),
            driver=_short(_link(folder / "driver")),
            iommu_group=int(group) if group.isdigit() else None,
            virtual_functions=max(0, _number(folder / "sriov_numvfs")),
            virtual_functions_max=max(0, _number(folder / "sriov_totalvfs")),
            physical_function=_short(_link(folder / "physfn")),
            mdev_types=tuple(
                itertools.islice(_mdev_types(folder / "mdev_supported_types"), h.MDEV_TYPES_MAX + 1)
            ),
        )


def _mdev_types(folder: Path) -> Iterator[MdevType]:
    for kind in _entries(folder):
        yield MdevType(
            id=_short(kind.name),
            name=_short(_text(kind / "name").strip()),
            description=_short(" ".join(_text(kind / "description").split())),
            available=max(0, _number(kind / "available_instances")),
        )


def _with_fewer_mdev_types(
    cut: _Cut, devices: Iterable[PciDevice], left: int
) -> tuple[PciDevice, ...]:
    """Show so many types of mediated devices at most, those of the first devices."""
    shown: list[PciDevice] = []
    for device in devices:
        types = cut("mdev_types", device.mdev_types, left)
        left -= len(types)
        shown.append(msgspec.structs.replace(device, mdev_types=types))
    return tuple(shown)


def _usb_devices(system: Path) -> Iterator[UsbDevice]:
    for folder in _entries(system / "bus" / "usb" / "devices"):
        vendor = _text(folder / "idVendor").strip()
        if not vendor or _text(folder / "bDeviceClass").strip() == _USB_HUB:
            continue  # what has no vendor is a function of a device
        words = (_text(folder / each).strip() for each in ("manufacturer", "product"))
        yield UsbDevice(
            address=_short(folder.name),
            vendor=_short(vendor),
            product=_short(_text(folder / "idProduct").strip()),
            name=_short(" ".join(word for word in words if word)),
        )


def _block_devices(system: Path) -> Iterator[BlockDevice]:
    for folder in _entries(system / "block"):
        if folder.name.startswith(_DULL_BLOCKS):
            continue
        yield BlockDevice(
            name=_short(folder.name),
            size_bytes=_number(folder / "size") * _SECTOR_BYTES,
            model=_short(_text(folder / "device" / "model").strip()),
            rotational=_number(folder / "queue" / "rotational") == 1,
            removable=_number(folder / "removable") == 1,
        )


def _with_system(versions: Versions, root: Path) -> Versions:
    for line in _text(root / "etc" / "os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            name = line.partition("=")[2].strip().strip('"')
            return msgspec.structs.replace(versions, operating_system=_short(name))
    return versions


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    """Return a small file's text; "" where it is not there, or its driver has nothing to say."""
    try:
        with path.open("rb") as source:
            return source.read(_FILE_BYTES_MAX).decode(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.removeprefix("-").isdigit() else 0


def _link(path: Path) -> str:
    try:
        return path.readlink().name
    except OSError:
        return ""


def _short(text: str) -> str:
    return text[: h.TEXT_MAX]
