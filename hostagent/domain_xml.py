"""From a run spec to libvirt's domain XML. Pure: the same spec always gives the same machine.

Contract D 5-8 is built here: addresses that never move, an exact machine type and CPU model, our
ids as device aliases, the VM's id as libvirt's name, disks that stop the VM on an error, a console
on loopback behind a random password. What libvirt would choose by itself and we do not say is
what may change between two starts; so nearly everything is said.

PCIe: root port N is bus N. Ports stand from slot 2 of the root complex on, eight functions in each
slot, and exist for every number below `pci_bus_next`, used or not: a removed device leaves its
port behind, and the others stay where they were.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
import string
import uuid
from collections.abc import Iterator
from pathlib import PurePosixPath

import msgspec
from lxml import etree

from events.types.run_spec import Disk, DiskBus, FixedPciBus, Nic, RunSpec
from hostagent.domain_tuning import cpu_and_memory_places, guest_nodes, memory_backing
from hostagent.libvirt_metadata import XML_UNUSABLE, metadata, printable

GUEST_AGENT_CHANNEL = "org.qemu.guest_agent.0"
MANUFACTURER = "Chronovisor"

USB_PCI_BUS = 5  # one of the ports below FIRST_PCI_BUS; the console's tablet hangs on it
FIRST_PORT_SLOT = 2  # slot 0 is the host bridge, slot 1 the display
PORTS_PER_SLOT = 8
LAST_PCI_BUS = (0x1F - FIRST_PORT_SLOT) * PORTS_PER_SLOT  # slot 31 is the chipset's
BALLOON_STATISTICS_PERIOD_S = 10
SATA_PORTS = 6
SCSI_TARGETS_WITHOUT_BUS = 224  # targets from here on are for disks that came without a number

EXACT_MACHINE = re.compile(r"pc-q35-\d[\w.+-]*")


class UnusableSpecError(ValueError):
    """The run spec cannot be turned into a domain; the text is for people."""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the host adds to a run spec: where things are and how QEMU runs on it."""

    storage_folder: str
    emulator: str
    virtualization: str = "qemu"  # or kvm
    disk_cache: str = "none"


class Console(msgspec.Struct, frozen=True, kw_only=True):
    """The console's password and when it ends; VNC looks at the first eight characters only."""

    password: str
    valid_to: dt.datetime

    def __repr__(self) -> str:
        """Say nothing of the password: this may land in a log."""
        return f"Console(valid_to={self.valid_to.isoformat()})"


def storage_path(storage_folder: str, name: str) -> str:
    """Return the absolute path of a name relative to the storage folder.

    The name is judged as text only (symbolic links are the caller's to resolve): no absolute path,
    no `..`, nothing hidden, nothing empty; raises UnusableSpecError.
    """
    parts = name.split("/")
    if XML_UNUSABLE.search(name) or "\n" in name or "\r" in name:
        raise UnusableSpecError("a file name with control characters is refused")
    if not name or any(part == "" or part.startswith(".") for part in parts):
        raise UnusableSpecError(f"{name!r} does not name a file inside the storage folder")
    return str(PurePosixPath(storage_folder).joinpath(*parts))


def files_of(spec: RunSpec) -> tuple[str, ...]:
    """Return the relative names of all files that the domain needs, disks first."""
    configuration = spec.configuration
    boot = configuration.boot
    others = (configuration.cdrom, boot.kernel, boot.initrd)
    return (
        *(disk.volume for disk in configuration.disks),
        *(name for name in others if name is not None),
    )


def domain_xml(spec: RunSpec, facts: HostFacts, console: Console) -> str:
    """Return the domain's XML; raises UnusableSpecError."""
    _check_id(spec.vm)
    if not EXACT_MACHINE.fullmatch(spec.machine_type):
        raise UnusableSpecError(
            f"machine type {spec.machine_type!r} is not an exact one such as pc-q35-7.2"
        )
    root = etree.Element("domain", type=facts.virtualization)
    _text(root, "name", spec.vm)
    _text(root, "uuid", spec.vm)
    root.append(metadata(spec))
    _text(root, "memory", str(spec.configuration.memory_bytes), unit="b")
    memory_backing(root, spec.configuration)
    _text(root, "vcpu", str(spec.configuration.topology.count), placement="static")
    cpu_and_memory_places(root, spec)
    _system(root, spec)
    _operating_system(root, spec, facts)
    _processor(root, spec)
    _clock(root)
    _text(root, "on_poweroff", "destroy")
    _text(root, "on_reboot", "restart")
    _text(root, "on_crash", "destroy")
    devices = etree.SubElement(root, "devices")
    _text(devices, "emulator", facts.emulator)
    _controllers(devices, spec)
    _disks(devices, spec, facts)
    for nic in spec.configuration.nics:
        _nic(devices, nic, _boot_order(spec).get(nic.id))
    _fixed_devices(devices, ballooning=spec.configuration.ballooning)
    _console(devices, console)
    return etree.tostring(root, encoding="unicode", pretty_print=True)


def _check_id(vm: str) -> None:
    try:
        canonical = str(uuid.UUID(vm)) == vm
    except ValueError:
        canonical = False
    if not canonical:
        raise UnusableSpecError(f"{vm!r} is not a UUID in its usual spelling")


def _element(parent: etree._Element, tag: str, /, **attributes: str) -> etree._Element:
    return etree.SubElement(parent, tag, dict(attributes))


def _text(parent: etree._Element, tag: str, text: str, /, **attributes: str) -> None:
    etree.SubElement(parent, tag, dict(attributes)).text = text


def _pci(parent: etree._Element, *, bus: int, slot: int = 0, function: int = 0) -> etree._Element:
    return _element(
        parent,
        "address",
        type="pci",
        domain="0x0000",
        bus=f"{bus:#04x}",
        slot=f"{slot:#04x}",
        function=f"{function:#x}",
    )


def _drive(parent: etree._Element, *, target: int, unit: int) -> None:
    place = {"target": str(target), "unit": str(unit)}
    _element(parent, "address", type="drive", controller="0", bus="0", **place)


def _system(root: etree._Element, spec: RunSpec) -> None:
    """Who the machine says it is. The OEM strings are how a guest can tell which run it is in."""
    information = _element(root, "sysinfo", type="smbios")
    system = _element(information, "system")
    _text(system, "entry", MANUFACTURER, name="manufacturer")
    _text(system, "entry", printable(spec.serial_shown), name="serial")
    _text(system, "entry", spec.vm, name="uuid")
    strings = _element(information, "oemStrings")
    _text(strings, "entry", f"chronovisor.incarnation={spec.incarnation}")
    _text(strings, "entry", printable(f"chronovisor.first_host={spec.first_host}"))


def _operating_system(root: etree._Element, spec: RunSpec, facts: HostFacts) -> None:
    boot = spec.configuration.boot
    system = _element(root, "os")
    _text(system, "type", "hvm", arch=spec.architecture, machine=spec.machine_type)
    if boot.kernel is not None:
        _text(system, "kernel", storage_path(facts.storage_folder, boot.kernel))
        if boot.initrd is not None:
            _text(system, "initrd", storage_path(facts.storage_folder, boot.initrd))
        if boot.command_line:
            _text(system, "cmdline", printable(boot.command_line))
    _element(system, "smbios", mode="sysinfo")


def _processor(root: etree._Element, spec: RunSpec) -> None:
    features = _element(root, "features")
    _element(features, "acpi")
    _element(features, "apic")
    _element(features, "vmport", state="off")
    processor = _element(root, "cpu", mode="custom", match="exact", check="partial")
    _text(processor, "model", spec.cpu_model, fallback="forbid")
    topology = spec.configuration.topology
    _element(
        processor,
        "topology",
        sockets=str(topology.sockets),
        dies="1",
        cores=str(topology.cores),
        threads=str(topology.threads),
    )
    guest_nodes(processor, spec.configuration)


def _clock(root: etree._Element) -> None:
    clock = _element(root, "clock", offset="variable", adjustment="0", basis="utc")
    _element(clock, "timer", name="rtc", tickpolicy="catchup")
    _element(clock, "timer", name="pit", tickpolicy="delay")
    _element(clock, "timer", name="hpet", present="no")
    power = _element(root, "pm")
    _element(power, "suspend-to-mem", enabled="no")
    _element(power, "suspend-to-disk", enabled="no")


def _controllers(devices: etree._Element, spec: RunSpec) -> None:
    """Root ports first: each other controller sits behind one of them."""
    ports = spec.configuration.pci_bus_next
    if ports - 1 > LAST_PCI_BUS:
        raise UnusableSpecError(f"{ports - 1} PCI buses are asked for, {LAST_PCI_BUS} are possible")
    _element(devices, "controller", type="pci", index="0", model="pcie-root")
    for number in range(1, ports):
        slot, function = divmod(number - 1, PORTS_PER_SLOT)
        port = _element(
            devices, "controller", type="pci", index=str(number), model="pcie-root-port"
        )
        _element(port, "model", name="pcie-root-port")
        _element(port, "target", chassis=str(number), port=f"{number:#x}")
        address = _pci(port, bus=0, slot=FIRST_PORT_SLOT + slot, function=function)
        if function == 0:
            address.set("multifunction", "on")
    scsi = _element(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    _pci(scsi, bus=FixedPciBus.SCSI)
    serial = _element(devices, "controller", type="virtio-serial", index="0")
    _pci(serial, bus=FixedPciBus.SERIAL)
    usb = _element(devices, "controller", type="usb", index="0", model="qemu-xhci")
    _pci(usb, bus=USB_PCI_BUS)
    _element(devices, "controller", type="sata", index="0")


def _boot_order(spec: RunSpec) -> dict[str, int]:
    """Return the place in the boot order of each device that has one, by its id.

    Disks that are marked bootable come first; if none is, all disks are tried in their order.
    """
    configuration = spec.configuration
    if configuration.boot.kernel is not None:
        return {}
    marked = [disk.id for disk in configuration.disks if disk.bootable]
    devices = {
        "disk": marked or [disk.id for disk in configuration.disks],
        "cdrom": ["cdrom"],
        "network": [nic.id for nic in configuration.nics],
    }
    unknown = [kind for kind in configuration.boot.devices if kind not in devices]
    if unknown:
        raise UnusableSpecError(f"{unknown[0]!r} is not a boot device; use {', '.join(devices)}")
    order = [each for kind in dict.fromkeys(configuration.boot.devices) for each in devices[kind]]
    return {device: place for place, device in enumerate(order, 1)}


def _disks(devices: etree._Element, spec: RunSpec, facts: HostFacts) -> None:
    order = _boot_order(spec)
    names = {bus: _target_names(bus) for bus in ("vd", "sd")}
    _cdrom(devices, spec, facts, next(names["sd"]), order.get("cdrom"))
    sata_unit = 0  # port 0 is the CD drive's
    for place, disk in enumerate(spec.configuration.disks):
        element = _element(devices, "disk", type="file", device="disk")
        _element(
            element,
            "driver",
            name="qemu",
            type="qcow2",
            cache=facts.disk_cache,
            io="threads",
            error_policy="stop",
            rerror_policy="stop",
            discard="unmap",
        )
        _element(element, "source", file=storage_path(facts.storage_folder, disk.volume))
        # Said to be empty, so that neither libvirt nor QEMU ever follows a name that was written
        # into the image.
        _element(element, "backingStore")
        target = next(names["vd" if disk.bus is DiskBus.VIRTIO else "sd"])
        _element(element, "target", dev=target, bus=disk.bus.value)
        _text(element, "serial", disk.id)
        if disk.read_only:
            _element(element, "readonly")
        if disk.id in order:
            _element(element, "boot", order=str(order[disk.id]))
        _element(element, "alias", name=f"ua-{disk.id}")
        if disk.bus is DiskBus.SATA:
            sata_unit += 1
            if sata_unit >= SATA_PORTS:
                raise UnusableSpecError(f"more than {SATA_PORTS - 1} SATA disks are not possible")
        _disk_address(element, disk, place, sata_unit)


def _cdrom(
    devices: etree._Element, spec: RunSpec, facts: HostFacts, target: str, order: int | None
) -> None:
    element = _element(devices, "disk", type="file", device="cdrom")
    _element(element, "driver", name="qemu", type="raw", error_policy="report")
    if spec.configuration.cdrom is not None:
        path = storage_path(facts.storage_folder, spec.configuration.cdrom)
        _element(element, "source", file=path)
    _element(element, "target", dev=target, bus="sata")
    _element(element, "readonly")
    if order is not None:
        _element(element, "boot", order=str(order))
    _element(element, "alias", name="ua-cdrom")
    _drive(element, target=0, unit=0)


def _disk_address(element: etree._Element, disk: Disk, place: int, sata_unit: int) -> None:
    if disk.bus is DiskBus.VIRTIO:
        if disk.pci_bus is None:
            raise UnusableSpecError(f"disk {disk.name!r} has no PCI bus")
        _pci(element, bus=disk.pci_bus)
        return
    target, unit = 0, sata_unit
    if disk.bus is DiskBus.SCSI:
        target, unit = disk.pci_bus or SCSI_TARGETS_WITHOUT_BUS + place, 0
    _drive(element, target=target, unit=unit)


def _target_names(prefix: str) -> Iterator[str]:
    """Yield vda, vdb, ... vdz, vdaa: names that libvirt wants and no guest sees."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            yield prefix + "".join(letters)


def _nic(devices: etree._Element, nic: Nic, order: int | None) -> None:
    element = _element(devices, "interface", type="bridge")
    _element(element, "mac", address=nic.mac)
    _element(element, "source", bridge=nic.bridge)
    _element(element, "model", type="virtio")
    _element(element, "link", state="up" if nic.linked else "down")
    if order is not None:
        _element(element, "boot", order=str(order))
    _element(element, "alias", name=f"ua-{nic.id}")
    _pci(element, bus=nic.pci_bus)


def _fixed_devices(devices: etree._Element, *, ballooning: bool) -> None:
    """What every VM has; one without a balloon keeps that one's place free."""
    serial = _element(devices, "serial", type="pty")
    _element(serial, "target", type="isa-serial", port="0")
    channel = _element(devices, "channel", type="unix")
    _element(channel, "target", type="virtio", name=GUEST_AGENT_CHANNEL)
    _element(channel, "address", type="virtio-serial", controller="0", bus="0", port="1")
    if ballooning:
        balloon = _element(devices, "memballoon", model="virtio")
        _element(balloon, "stats", period=str(BALLOON_STATISTICS_PERIOD_S))
        _pci(balloon, bus=FixedPciBus.BALLOON)
    else:
        _element(devices, "memballoon", model="none")  # libvirt would add one by itself
    random = _element(devices, "rng", model="virtio")
    _text(random, "backend", "/dev/urandom", model="random")
    _pci(random, bus=FixedPciBus.RNG)
    # Lets a guest that panics say so, instead of hanging unnoticed.
    panic = _element(devices, "panic", model="isa")
    _element(panic, "address", type="isa", iobase="0x505")


def _console(devices: etree._Element, console: Console) -> None:
    tablet = _element(devices, "input", type="tablet", bus="usb")
    _element(tablet, "address", type="usb", bus="0", port="1")
    graphics = _element(
        devices,
        "graphics",
        type="vnc",
        autoport="yes",
        passwd=console.password,
        passwdValidTo=console_time(console.valid_to),
    )
    _element(graphics, "listen", type="address", address="127.0.0.1")
    video = _element(devices, "video")
    _element(video, "model", type="vga", vram="16384", heads="1", primary="yes")
    _pci(video, bus=0, slot=1)


def console_time(moment: dt.datetime) -> str:
    """Return a time as libvirt reads it: UTC without saying so."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
