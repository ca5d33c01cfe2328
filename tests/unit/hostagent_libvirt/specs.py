"""A run spec as the engine resolves it, for the tests of the libvirt driver's pure parts."""

import datetime as dt

from events.types.run_spec import Boot, Disk, DiskBus, Nic, RunSpec, Topology, VmConfiguration
from hostagent.domain_xml import Console, HostFacts

VM = "0199c0de-0000-7000-8000-00000000002a"
HOST = "0199c0de-0000-7000-8000-000000000001"
STORAGE = "/var/lib/chronovisor/storage"
FACTS = HostFacts(storage_folder=STORAGE, emulator="/usr/bin/qemu-system-x86_64")
CONSOLE = Console(password="Secret-1", valid_to=dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC))

SYSTEM = Disk(
    id="0199c0de-0000-7000-8000-0000000000d1",
    name="system",
    size_bytes=1 << 30,
    volume="volumes/d1.qcow2",
    pci_bus=16,
    bootable=True,
)
DATA = Disk(
    id="0199c0de-0000-7000-8000-0000000000d2",
    name="data",
    size_bytes=1 << 30,
    volume="volumes/d2.qcow2",
    pci_bus=17,
)
NIC = Nic(
    id="0199c0de-0000-7000-8000-0000000000e1",
    name="nic1",
    mac="52:54:00:12:34:56",
    bridge="br0",
    pci_bus=18,
)


def a_spec(
    *,
    name: str = "web01",
    incarnation: int = 3,
    machine_type: str = "pc-q35-7.2",
    disks: tuple[Disk, ...] = (SYSTEM, DATA),
    nics: tuple[Nic, ...] = (NIC,),
    boot: Boot | None = None,
    cdrom: str | None = None,
    pci_bus_next: int = 19,
    vm: str = VM,
    restore_from: str | None = None,
) -> RunSpec:
    """A VM with two disks and a NIC."""
    return RunSpec(
        vm=vm,
        name=name,
        incarnation=incarnation,
        first_host=HOST,
        configuration=VmConfiguration(
            memory_bytes=512 << 20,
            topology=Topology(sockets=2, cores=2, threads=1),
            boot=boot or Boot(),
            disks=disks,
            nics=nics,
            cdrom=cdrom,
            pci_bus_next=pci_bus_next,
        ),
        architecture="x86_64",
        machine_type=machine_type,
        cpu_model="Westmere",
        restore_from=restore_from,
    )


def a_disk(number: int, bus: DiskBus = DiskBus.VIRTIO, pci_bus: int | None = None) -> Disk:
    """One more disk."""
    return Disk(
        id=f"0199c0de-0000-7000-8000-{number:012x}",
        name=f"disk{number}",
        size_bytes=1 << 20,
        volume=f"volumes/{number}.qcow2",
        bus=bus,
        pci_bus=pci_bus,
    )
