"""A host's hardware, from a machine's files and libvirt's XML."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from events.types.host_hardware import (
    DEVICES_MAX,
    MDEV_TYPES_MAX,
    NICS_MAX,
    TEXT_MAX,
    USB_DEVICES_MAX,
    BlockDevice,
    CpuTopology,
    HostNic,
    HugePages,
    MdevType,
    NumaNode,
    PciDevice,
    UsbDevice,
    Versions,
)
from hostagent.libvirt_hardware import HARDWARE_BYTES_MAX, hardware

GIB = 1024**3
CELL = """<cell id='{cell}'><memory unit='KiB'>8388608</memory><cpus num='4'>{cpus}</cpus></cell>"""


def _cell(cell: int) -> str:
    cpus = "".join(
        f"<cpu id='{cell * 4 + n}' socket_id='{cell}' core_id='{n % 2}'"
        f" siblings='{cell * 4 + n % 2},{cell * 4 + n % 2 + 2}'/>"
        for n in range(4)
    )
    return CELL.format(cell=cell, cpus=cpus)


XML = f"""<capabilities><host><cpu><arch>x86_64</arch><vendor>Intel</vendor>
<topology sockets='1' dies='1' cores='2' threads='2'/>
<counter name='tsc' frequency='2399998000' scaling='no'/></cpu>
<topology><cells num='2'>{_cell(0)}{_cell(1)}</cells></topology></host></capabilities>"""
CPU_INFO = """processor\t: 0
vendor_id\t: GenuineIntel
flags\t\t: fpu vmx nx sse

processor\t: 1
flags\t\t: other
"""


def _files(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _nic(root: Path, name: str, *, up: bool = True, kind: str = "", device: bool = False) -> Path:
    folder = root / "sys/class/net" / name
    folder.mkdir(parents=True)
    (folder / "address").write_text(f"52:54:00:00:00:{len(name):02}\n")
    (folder / "operstate").write_text("up\n" if up else "down\n")
    (folder / "uevent").write_text(f"INTERFACE={name}\n" + (f"DEVTYPE={kind}\n" if kind else ""))
    if device:
        (folder / "device").mkdir()
        (folder / "speed").write_text("10000\n" if up else "-1\n")
    if kind == "bridge":
        (folder / "bridge").mkdir()
    return folder


def _pci(root: Path, address: str, code: str, group: int | None = None, driver: str = "") -> None:
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    for name, text in (("class", code), ("vendor", "0x8086"), ("device", "0x1572")):
        (folder / name).write_text(f"{text}\n")
    if group is not None:
        (folder / "iommu_group").symlink_to(f"../../../../kernel/iommu_groups/{group}")
    if driver:
        (folder / "driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")


def _usb(root: Path, address: str, **texts: str) -> None:
    folder = root / "sys/bus/usb/devices" / address
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(f"{text}\n")


def test_usb_devices_are_those_that_are_plugged_in(tmp_path: Path) -> None:
    _usb(tmp_path, "usb1", idVendor="1d6b", idProduct="0002", bDeviceClass="09")  # a root hub
    _usb(tmp_path, "1-1:1.0", bInterfaceClass="ff")  # a function of a device
    dongle = {"idVendor": "0529", "idProduct": "0001", "bDeviceClass": "ff"}
    _usb(tmp_path, "1-1", **dongle, manufacturer="AKS ", product="HASP 2.16")
    _usb(tmp_path, "1-2.4", idVendor="abcd", idProduct="1234", bDeviceClass="00")
    found = hardware(tmp_path, tmp_path / "none", XML, Versions())
    assert found.usb_devices == (
        UsbDevice(address="1-1", vendor="0529", product="0001", name="AKS HASP 2.16"),
        UsbDevice(address="1-2.4", vendor="abcd", product="1234"),
    )
    for number in range(USB_DEVICES_MAX):
        _usb(tmp_path, f"2-{number}", **dongle, product="x" * 500)
    many = hardware(tmp_path, tmp_path / "none", XML, Versions())
    assert len(many.usb_devices) == USB_DEVICES_MAX
    assert many.truncated == ("usb_devices",)
    assert len(many.usb_devices[-1].name) == TEXT_MAX


def test_a_machine_is_described(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPU_INFO)
    bridge = _nic(tmp_path, "br0", kind="bridge")
    eth0 = _nic(tmp_path, "eth0", device=True)
    (eth0 / "master").symlink_to(bridge)
    _nic(tmp_path, "eth11", device=True, up=False)
    _nic(tmp_path, "lo")
    _nic(tmp_path, "vnet3")  # a VM's tap
    _pci(tmp_path, "0000:3b:00.0", "0x020000", group=31, driver="i40e")
    _pci(tmp_path, "0000:00:1f.0", "0x060100", group=9)  # a bridge
    _files(
        tmp_path / "sys",
        kernel__mm__hugepages__other__nr="",
        block__sda__size="2097152\n",
        block__sda__removable="0\n",
        block__sda__queue__rotational="1\n",
        block__sda__device__model="ACME 1\n",
        block__loop0__size="8\n",
    )
    pages = tmp_path / "sys/kernel/mm/hugepages/hugepages-1048576kB"
    pages.mkdir()
    (pages / "nr_hugepages").write_text("16\n")
    _files(tmp_path / "etc", **{"os-release": 'NAME="X"\nPRETTY_NAME="Debian 12"\n'})

    found = hardware(tmp_path, tmp_path / "cpuinfo", XML, Versions(kernel="6.1"))

    assert found.cpu_vendor == "Intel"
    assert found.cpu_flags == ("fpu", "nx", "sse", "vmx")
    assert found.topology == CpuTopology(sockets=2, cores=2, threads=2)
    assert found.cores == "0,2 1,3 4,6 5,7"
    assert found.tsc_hz == 2_399_998_000
    assert found.numa_nodes == (
        NumaNode(node=0, cpus="0-3", memory_bytes=8 * GIB),
        NumaNode(node=1, cpus="4-7", memory_bytes=8 * GIB),
    )
    assert found.huge_pages == (HugePages(size_bytes=GIB, count=16),)
    assert found.nics == (
        HostNic(name="br0", mac="52:54:00:00:00:03", up=True),
        HostNic(name="eth0", mac="52:54:00:00:00:04", up=True, speed_mbps=10_000, bridge="br0"),
        HostNic(name="eth11", mac="52:54:00:00:00:05", up=False),
    )
    assert found.devices == (
        PciDevice(
            address="0000:3b:00.0",
            class_code="020000",
            vendor="8086",
            product="1572",
            driver="i40e",
            iommu_group=31,
        ),
    )
    assert found.block_devices == (
        BlockDevice(name="sda", size_bytes=GIB, model="ACME 1", rotational=True),
    )
    assert found.versions == Versions(kernel="6.1", operating_system="Debian 12")
    assert found.truncated == ()


def test_what_a_device_can_be_shared_as_is_described(tmp_path: Path) -> None:
    """given SR-IOV, and a GPU of mediated devices, then functions and types are told"""
    _pci(tmp_path, "0000:3b:00.0", "0x020000", group=31, driver="i40e")
    _pci(tmp_path, "0000:3b:02.0", "0x020000", group=40, driver="iavf")
    _pci(tmp_path, "0000:af:00.0", "0x030200", driver="nvidia")
    devices = tmp_path / "sys/bus/pci/devices"
    (devices / "0000:3b:00.0/sriov_numvfs").write_text("1\n")
    (devices / "0000:3b:00.0/sriov_totalvfs").write_text("64\n")
    (devices / "0000:3b:02.0/physfn").symlink_to("../0000:3b:00.0")
    types = devices / "0000:af:00.0/mdev_supported_types"
    for kind, name, count in (("nvidia-222", "GRID T4-1B", "16"), ("nvidia-9", "", "")):
        (types / kind).mkdir(parents=True)
        (types / kind / "available_instances").write_text(f"{count}\n")
        if name:
            (types / kind / "name").write_text(f"{name}\n")
            (types / kind / "description").write_text("num_heads=4, \nframebuffer=1024M\n")

    found = hardware(tmp_path, tmp_path / "none", XML, Versions())

    physical, virtual, gpu = found.devices
    assert (physical.virtual_functions, physical.virtual_functions_max) == (1, 64)
    assert physical.physical_function == ""
    assert virtual.physical_function == "0000:3b:00.0"
    assert (virtual.virtual_functions, virtual.virtual_functions_max) == (0, 0)
    assert gpu.mdev_types == (
        MdevType(
            id="nvidia-222",
            name="GRID T4-1B",
            description="num_heads=4, framebuffer=1024M",
            available=16,
        ),
        MdevType(id="nvidia-9"),
    )
    assert found.truncated == ()


def test_types_of_mediated_devices_are_bounded_for_the_whole_machine(tmp_path: Path) -> None:
    for device in range(3):
        _pci(tmp_path, f"0000:0{device}:00.0", "0x030200")
        types = tmp_path / f"sys/bus/pci/devices/0000:0{device}:00.0/mdev_supported_types"
        for number in range(MDEV_TYPES_MAX // 2 + 5):
            (types / f"nvidia-{number:04}").mkdir(parents=True)
    found = hardware(tmp_path, tmp_path / "none", XML, Versions())
    counts = [len(device.mdev_types) for device in found.devices]
    assert counts == [MDEV_TYPES_MAX // 2 + 5, MDEV_TYPES_MAX // 2 - 5, 0]
    assert found.truncated == ("mdev_types",)


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ((), None),
        (("class/net",), False),
        (("class/iommu",), False),
        (("class/iommu/dmar0",), True),
    ],
)
def test_whether_the_iommu_is_on_is_told_where_the_kernel_says_it(
    tmp_path: Path, folders: tuple[str, ...], *, said: bool | None
) -> None:
    for folder in folders:
        (tmp_path / "sys" / folder).mkdir(parents=True)
    assert hardware(tmp_path, tmp_path / "none", XML, Versions()).iommu is said


def test_a_machine_that_shows_nothing_is_described_as_that(tmp_path: Path) -> None:
    found = hardware(
        tmp_path, tmp_path / "none", "<capabilities><host/></capabilities>", Versions()
    )
    assert msgspec.json.encode(found) == msgspec.json.encode(type(found)())


def test_a_giant_machine_fits_into_an_event(tmp_path: Path) -> None:
    for number in range(DEVICES_MAX + 5):
        _pci(tmp_path, f"{'f' * TEXT_MAX}{number:04}", "0x020000", driver="d" * TEXT_MAX)
    for number in range(NICS_MAX + 1):
        _nic(tmp_path, f"eth{number}", device=True)
    found = hardware(tmp_path, tmp_path / "none", XML, Versions())
    assert len(msgspec.json.encode(found)) <= HARDWARE_BYTES_MAX
    assert set(found.truncated) == {"devices", "nics"}
    assert len(found.nics) == NICS_MAX
    assert found.devices == (), "a list is shown to its bound, or not at all"


def test_this_machine_is_described() -> None:
    found = hardware(Path("/"), Path("/proc/cpuinfo"), XML, Versions())
    assert found.cpu_flags
    assert len(msgspec.json.encode(found)) <= HARDWARE_BYTES_MAX
