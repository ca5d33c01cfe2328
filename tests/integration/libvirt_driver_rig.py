"""A libvirt host for the driver's tests, shared by a module: booting one for each test is dear."""

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import libvirt
import msgspec

from events.types.run_spec import Boot, Disk, Nic, RunSpec, VmConfiguration
from hostagent.driver import Driver
from hostagent.libvirt_driver import LibvirtDriver
from hostagent.libvirt_host import Options
from tests.contract.driver_contract import DriverRig
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import send_signal, wait_until
from tests.harness.workspace import Workspace

MIB = 1024 * 1024
FIRST_HOST = "0199c0de-0000-7000-8000-000000000001"
GUEST_DISK_BYTES = 160 * MIB


class LibvirtRig(DriverRig):
    driver: LibvirtDriver
    patience_s = 60.0

    def __init__(self, host: LibvirtHost, guest: Guest) -> None:
        super().__init__()
        self.host = host
        self.guest_files = guest
        for source in (guest.kernel, guest.initrd, guest.base_disk):
            target = host.images / source.name
            if not target.exists():
                target.write_bytes(source.read_bytes())
        self.driver = self.make_driver()

    def make_driver(self) -> LibvirtDriver:
        return LibvirtDriver(
            self.host.uri,
            self.host.images,
            keepalive_interval_s=1,
            keepalive_count=2,
            options=Options(
                host_process=self.host.pid,
                call_timeout_s=8.0,
                settle_timeout_s=3.0,
                retry_max_s=0.5,
            ),
        )

    def spec(self, vm: str, incarnation: int = 1, *, disks: tuple[Disk, ...] = ()) -> RunSpec:
        nic = Nic(
            id=str(uuid.uuid5(uuid.UUID(vm), "nic")),
            name="nic1",
            mac=f"52:54:00:{vm[-6:-4]}:{vm[-4:-2]}:{vm[-2:]}",
            bridge="br0",
            pci_bus=20,
        )
        words = self.guest_files.command_line("web01", ip4="10.88.0.21/24", stamp=bool(disks))
        return RunSpec(
            vm=vm,
            name="web 01 <&'\"> \u00fc",
            incarnation=incarnation,
            first_host=FIRST_HOST,
            configuration=VmConfiguration(
                memory_bytes=96 * MIB,
                boot=Boot(
                    kernel=self.guest_files.kernel.name,
                    initrd=self.guest_files.initrd.name,
                    command_line=words,
                ),
                disks=disks,
                nics=(nic,),
                pci_bus_next=22,
            ),
            architecture="x86_64",
            machine_type="pc-q35-7.2",
            cpu_model="qemu64",
        )

    def guest_disk(self, **changes: object) -> Disk:
        """A disk that is to be a copy of the guest's base disk."""
        name = str(uuid.uuid4())
        disk = Disk(
            id=name,
            name="system",
            size_bytes=GUEST_DISK_BYTES,
            volume=f"volumes/{name}.qcow2",
            image=self.guest_files.base_disk.name,
            pci_bus=16,
        )
        return msgspec.structs.replace(disk, **changes)

    def path(self, volume: str) -> Path:
        return self.host.images / volume

    async def new_driver(self) -> Driver:
        await self.driver.close()
        driver = self.make_driver()
        await driver.open()
        return driver

    async def crash(self, vm: str) -> None:
        send_signal(self.host.qemu_pids()[vm], 9)  # type: ignore[arg-type]

    async def pause(self, vm: str) -> None:
        with self.connection() as connection:
            connection.lookupByUUIDString(vm).suspend()

    async def take_away(self) -> None:
        self.host.pause_libvirtd()

    async def bring_back(self) -> None:
        self.host.resume_libvirtd()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """libvirt, behind the driver's back."""
        connection = libvirt.open(self.host.uri)
        try:
            yield connection
        finally:
            connection.close()

    def clean(self) -> None:
        """End all domains, whatever the test did."""
        self.host.resume_libvirtd()
        self.host.wait_for_libvirtd()
        with self.connection() as connection:
            for domain in connection.listAllDomains():
                domain.destroy()
        for pid in self.host.qemu_pids().values():
            send_signal(pid, 9)  # type: ignore[arg-type]
        wait_until(lambda: not self.host.qemu_pids(), 10.0, "all guests to be gone")


@contextmanager
def started_host(workspace: Workspace, network: HostNetwork, number: int) -> Iterator[LibvirtHost]:
    """A host of that number in the network, for as long as the block lasts."""
    host = LibvirtHost(workspace, network, number)
    host.start()
    yield host
    host.stop()


@asynccontextmanager
async def opened_rig(host: LibvirtHost, guest: Guest) -> AsyncIterator[LibvirtRig]:
    """A rig whose driver is connected and listened to; no guest is left behind."""
    rig = LibvirtRig(host, guest)
    await rig.driver.open()
    rig.listen()
    yield rig
    await rig.end()
    await rig.driver.close()
    rig.clean()
