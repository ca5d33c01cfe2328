"""From what admins ask for to a VM's configuration: ids, addresses and ports given once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Protocol

import msgspec

from commands.kernel.command import Context
from commands.kernel.fields import END, MIB, FileName
from commands.kernel.refusal import InvalidField
from commands.state.serial_input import SerialNumberInput
from events.types.run_spec import (
    FIRST_PCI_BUS,
    Boot,
    Disk,
    DiskBus,
    Nic,
    Topology,
    VmConfiguration,
)

PROCESSORS_MAX = 512

Memory = Annotated[
    int,
    msgspec.Meta(ge=64 * MIB, le=4 * 1024 * 1024 * MIB, description="Memory, in bytes."),
]
Guaranteed = Annotated[
    int,
    msgspec.Meta(
        ge=64 * MIB,
        le=4 * 1024 * 1024 * MIB,
        description="What the VM's host leaves it of its memory when it runs short, in bytes.",
    ),
]
_Count = Annotated[int, msgspec.Meta(ge=1, le=PROCESSORS_MAX)]
_Device = Annotated[str, msgspec.Meta(pattern="^(disk|cdrom|network)" + END)]


class Processors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The virtual CPUs: sockets x cores x threads, at most 512."""

    sockets: _Count = 1
    cores: _Count = 1
    threads: _Count = 1


class BootInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to boot: `kernel` (a file of the host's storage folder) directly, else `devices`."""

    devices: Annotated[tuple[_Device, ...], msgspec.Meta(min_length=1, max_length=3)] = (
        "disk",
        "cdrom",
    )
    kernel: FileName | None = None
    initrd: FileName | None = None
    command_line: Annotated[str, msgspec.Meta(max_length=2_000, pattern="^[ -~]*" + END)] | None = (
        None
    )


class _DiskWanted(Protocol):
    @property
    def size_bytes(self) -> int: ...
    @property
    def name(self) -> str | None: ...
    @property
    def image(self) -> str | None: ...
    @property
    def bus(self) -> DiskBus: ...
    @property
    def bootable(self) -> bool: ...
    @property
    def read_only(self) -> bool: ...


class _NicWanted(Protocol):
    @property
    def bridge(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def mac(self) -> str | None: ...
    @property
    def linked(self) -> bool: ...


class _Wanted(Protocol):
    @property
    def memory_bytes(self) -> int: ...
    @property
    def memory_guaranteed_bytes(self) -> int | None: ...
    @property
    def ballooning(self) -> bool: ...
    @property
    def cpu(self) -> Processors: ...
    @property
    def boot(self) -> BootInput: ...
    @property
    def cdrom(self) -> str | None: ...
    @property
    def disks(self) -> Sequence[_DiskWanted]: ...
    @property
    def nics(self) -> Sequence[_NicWanted]: ...
    @property
    def serial_number(self) -> SerialNumberInput | None: ...


def require_within(memory_bytes: int, guaranteed_bytes: int | None) -> None:
    """Raise InvalidField where a VM would be guaranteed more memory than it has."""
    if guaranteed_bytes is not None and guaranteed_bytes > memory_bytes:
        raise InvalidField(
            f"{guaranteed_bytes} bytes are guaranteed to a VM of {memory_bytes}.",
            remedy="Guarantee at most its memory, or give it more.",
            field="memory_guaranteed_bytes",
        )


def topology(cpu: Processors) -> Topology:
    """Return the topology; raises InvalidField where there are too many virtual CPUs."""
    wanted = Topology(sockets=cpu.sockets, cores=cpu.cores, threads=cpu.threads)
    if wanted.count > PROCESSORS_MAX:
        raise InvalidField(
            f"The VM would have {wanted.count} virtual CPUs; {PROCESSORS_MAX} is the most.",
            remedy="Lower sockets, cores or threads.",
            field="cpu",
        )
    return wanted


def boot(wanted: BootInput) -> Boot:
    """Return what to boot; raises InvalidField for an initrd or command line without a kernel."""
    if wanted.kernel is None and (wanted.initrd or wanted.command_line):
        raise InvalidField(
            "An initrd or a command line is given, but no kernel.",
            remedy="Name the kernel to boot directly, or leave all three out.",
            field="boot",
        )
    return Boot(
        devices=wanted.devices,
        kernel=wanted.kernel,
        initrd=wanted.initrd,
        command_line=wanted.command_line,
    )


def configuration(
    vm: str, wanted: _Wanted, context: Context, macs: Iterator[str]
) -> VmConfiguration:
    """Return a new VM's configuration; ids come from `context.ids[1:]`.

    NICs get those of `macs` that they do not bring.
    """
    ids = iter(context.ids[1:])
    bus = FIRST_PCI_BUS
    disks: list[Disk] = []
    for number, disk in enumerate(wanted.disks):
        own = next(ids)
        on_pci = disk.bus is DiskBus.VIRTIO
        disks.append(
            Disk(
                id=own,
                name=disk.name or f"disk{number}",
                size_bytes=disk.size_bytes,
                volume=f"{vm}/{own}.qcow2",
                image=disk.image,
                bus=disk.bus,
                pci_bus=bus if on_pci else None,
                bootable=disk.bootable or (number == 0 and not _any_bootable(wanted)),
                read_only=disk.read_only,
            )
        )
        bus += on_pci
    nics: list[Nic] = []
    for number, nic in enumerate(wanted.nics):
        nics.append(
            Nic(
                id=next(ids),
                name=nic.name or f"nic{number}",
                mac=nic.mac or next(macs),
                bridge=nic.bridge,
                pci_bus=bus,
                linked=nic.linked,
            )
        )
        bus += 1
    _require_distinct([d.name for d in disks], "disks")
    _require_distinct([n.name for n in nics], "nics")
    _require_distinct([n.mac for n in nics], "nics")
    require_within(wanted.memory_bytes, wanted.memory_guaranteed_bytes)
    return VmConfiguration(
        memory_bytes=wanted.memory_bytes,
        memory_guaranteed_bytes=wanted.memory_guaranteed_bytes,
        ballooning=wanted.ballooning,
        topology=topology(wanted.cpu),
        boot=boot(wanted.boot),
        disks=tuple(disks),
        nics=tuple(nics),
        cdrom=wanted.cdrom,
        pci_bus_next=bus,
        serial_number=wanted.serial_number.settings() if wanted.serial_number else None,
    )


def _any_bootable(wanted: _Wanted) -> bool:
    return any(disk.bootable for disk in wanted.disks)


def _require_distinct(values: list[str], field: str) -> None:
    twice = {value for value in values if values.count(value) > 1}
    if twice:
        raise InvalidField(
            f"{min(twice)} is there twice among the VM's {field}.",
            remedy="Give each its own.",
            field=field,
        )
