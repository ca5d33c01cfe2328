"""What the libvirt driver owes beyond the contract: real guests, real deaths, real files."""

import asyncio
import base64
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import libvirt_qemu
import msgspec
import pytest
from lxml import etree

from events.types.run_spec import Boot, Disk, DiskBus, RunSpec
from events.types.vm import DownReason, PauseReason
from hostagent.driver import DriverError, Happening, UnknownStateError
from hostagent.libvirt_storage import partial_of
from tests.contract.driver_contract import a_disk, ignore_progress, with_configuration
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import ProcessIdentity, run_command, send_signal
from tests.harness.stamps import assert_single_writer, read_stamps
from tests.harness.workspace import Workspace
from tests.integration.libvirt_driver_rig import (
    FIRST_HOST,
    MIB,
    LibvirtRig,
    opened_rig,
    started_host,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def shared_host(workspace: Workspace, host_network: HostNetwork) -> Iterator[LibvirtHost]:
    with started_host(workspace, host_network, 42) as host:
        yield host


@pytest.fixture
async def rig(shared_host: LibvirtHost, guest: Guest) -> AsyncIterator[LibvirtRig]:
    async with opened_rig(shared_host, guest) as rig:
        yield rig


async def stamping(rig: LibvirtRig, incarnation: int = 1) -> tuple[RunSpec, Disk]:
    """A booted guest that stamps its disk."""
    disk = rig.guest_disk()
    await rig.driver.create_disk(disk, ignore_progress)
    spec = rig.spec(str(uuid.uuid4()), incarnation, disks=(disk,))
    await rig.driver.start(spec)
    await rig.until(Happening.GUEST_AGENT, spec.vm)
    await has_stamps(rig, disk, 3)
    return spec, disk


async def has_stamps(rig: LibvirtRig, disk: Disk, count: int) -> None:
    async with asyncio.timeout(30):
        while len(read_stamps(rig.path(disk.volume))) < count:
            await asyncio.sleep(0.2)


def process_of(rig: LibvirtRig, vm: str) -> ProcessIdentity:
    identity = ProcessIdentity.of(rig.host.qemu_pids()[vm])
    assert identity is not None
    return identity


SMBIOS_TEXTS = "tr '\\000' '\\n' </sys/firmware/dmi/tables/DMI | tr -cd '\\n -~'"


class TestGuests:
    async def test_a_guest_knows_its_run_and_its_place(self, rig: LibvirtRig) -> None:
        # given
        spec, disk = await stamping(rig, incarnation=7)

        # when
        answer = await rig.driver.guest(spec.vm, 7)

        # then the agent answers, and what it says is what we set
        assert answer is not None
        assert (answer.hostname, answer.addresses) == ("web01", ("10.88.0.21",))
        assert "6." in answer.operating_system
        # and the OEM strings in SMBIOS reached the guest, which wrote them down
        stamps = read_stamps(rig.path(disk.volume))
        assert {(stamp.incarnation, stamp.host) for stamp in stamps} == {(7, FIRST_HOST)}

    async def test_a_guest_reads_its_serial_number_also_after_a_suspend(
        self, rig: LibvirtRig
    ) -> None:
        # given a run with a serial number of its own
        disk = rig.guest_disk()
        await rig.driver.create_disk(disk, ignore_progress)
        spec = msgspec.structs.replace(
            rig.spec(str(uuid.uuid4()), disks=(disk,)), serial="SN, 42-a=b"
        )
        await rig.driver.start(spec)
        await rig.until(Happening.GUEST_AGENT, spec.vm)

        # then the guest reads it in its SMBIOS tables, and its id as the UUID alone
        tables = guest_shell(rig, spec.vm, SMBIOS_TEXTS)
        assert "SN, 42-a=b" in tables.splitlines()
        assert spec.vm not in tables.splitlines()

        # when it is suspended and goes on, then it is the same
        memory = f"memory/{spec.vm}-1.save"
        await rig.driver.save(spec.vm, 1, memory)
        again = msgspec.structs.replace(spec, incarnation=2, restore_from=memory)
        await rig.driver.start(again)
        assert "SN, 42-a=b" in guest_shell(rig, spec.vm, SMBIOS_TEXTS).splitlines()
        with rig.connection() as connection:
            xml = etree.fromstring(connection.lookupByUUIDString(spec.vm).XMLDesc(0))
        assert xml.findtext("sysinfo/system/entry[@name='serial']") == "SN, 42-a=b"

    async def test_devices_are_where_the_spec_says(self, rig: LibvirtRig) -> None:
        spec, _ = await stamping(rig)

        # sysfs of the guest, read through its agent: device behind each root port
        devices = guest_shell(rig, spec.vm, "ls -d /sys/bus/pci/devices/0000:*:00.0/virtio*/..")
        serial = guest_shell(rig, spec.vm, "cat /sys/block/vda/serial")
        network = guest_shell(rig, spec.vm, "readlink -f /sys/class/net/eth0/device")

        disk = spec.configuration.disks[0]
        assert serial == disk.id[:20]  # as much as virtio-blk has room for
        for bus in (1, 2, 3, 4, 16, 20):
            assert f"0000:{bus:02x}:00.0" in devices
        assert "0000:14:00.0" in network

    async def test_every_disk_bus_boots_and_no_port_is_lost_among_many(
        self, rig: LibvirtRig
    ) -> None:
        buses = (DiskBus.VIRTIO, DiskBus.SCSI, DiskBus.SATA)
        disks = tuple(a_disk(bus=bus, pci_bus=40 + place) for place, bus in enumerate(buses))
        for disk in disks:
            await rig.driver.create_disk(disk, ignore_progress)
        spec = rig.spec(str(uuid.uuid4()), disks=disks)

        await rig.driver.start(with_configuration(spec, pci_bus_next=60))
        await rig.until(Happening.GUEST_AGENT, spec.vm)

        # the guest's kernel has no AHCI driver: there the controller is all that shows
        assert guest_shell(rig, spec.vm, "ls /sys/block").split() == ["sda", "vda"]
        assert "0x010601" in guest_shell(rig, spec.vm, "cat /sys/bus/pci/devices/*/class")
        ports = guest_shell(rig, spec.vm, "ls /sys/bus/pci/devices | wc -l")
        assert int(ports) > 60

    async def test_a_vm_without_a_kernel_boots_from_its_devices(self, rig: LibvirtRig) -> None:
        # given a disk and a CD with nothing on them: the firmware tries all and stays
        disk = a_disk(pci_bus=16, bootable=True)
        await rig.driver.create_disk(disk, ignore_progress)
        (rig.host.images / "iso").mkdir(exist_ok=True)
        rig.path("iso/empty.iso").write_bytes(bytes(MIB))
        spec = rig.spec(str(uuid.uuid4()), disks=(disk,))
        devices = Boot(devices=("cdrom", "disk", "network"))

        await rig.driver.start(with_configuration(spec, boot=devices, cdrom="iso/empty.iso"))

        with rig.connection() as connection:
            live = etree.fromstring(connection.lookupByUUIDString(spec.vm).XMLDesc(0))
        orders = {
            device.tag: boot.get("order")
            for device in live.iterfind("devices/*")
            for boot in device.iterfind("boot")
        }
        assert orders == {"disk": "2", "interface": "3"}
        cd = live.find("devices/disk[@device='cdrom']")
        assert cd is not None
        assert cd.find("source").get("file") == str(rig.path("iso/empty.iso"))  # type: ignore[union-attr]
        assert await rig.driver.guest(spec.vm, 1) is None

    async def test_xml_satisfies_libvirts_schema(self, rig: LibvirtRig) -> None:
        spec, _ = await stamping(rig)

        with rig.connection() as connection:
            live = connection.lookupByUUIDString(spec.vm).XMLDesc(0)

        schema = etree.RelaxNG(etree.parse("/usr/share/libvirt/schemas/domain.rng"))
        assert schema.validate(etree.fromstring(live)), schema.error_log
        assert "passwd=" not in live
        assert (
            etree.fromstring(live).find("devices/graphics/listen").get("address") == "127.0.0.1"  # type: ignore[union-attr]
        )


class TestEnds:
    async def test_a_killed_qemu_is_a_crash_and_its_disk_starts_again(
        self, rig: LibvirtRig
    ) -> None:
        spec, disk = await stamping(rig)

        await rig.crash(spec.vm)

        ended = await rig.until(Happening.ENDED, spec.vm)
        assert ended.reason is DownReason.CRASHED
        assert (await rig.driver.domains()).managed == ()
        await rig.driver.start(msgspec.structs.replace(spec, incarnation=2))
        await rig.until(Happening.GUEST_AGENT, spec.vm)
        count = len(read_stamps(rig.path(disk.volume)))
        await has_stamps(rig, disk, count + 2)
        assert_single_writer(read_stamps(rig.path(disk.volume)))

    async def test_a_guest_that_panics_is_a_crash(self, rig: LibvirtRig) -> None:
        spec, _ = await stamping(rig)
        guest_shell(rig, spec.vm, "sleep 0.5; echo c > /proc/sysrq-trigger", wait=False)

        assert (await rig.until(Happening.ENDED, spec.vm)).reason is DownReason.CRASHED

    async def test_qemu_ended_by_the_hosts_shutdown(self, rig: LibvirtRig) -> None:
        spec = await rig.running()

        send_signal(rig.host.qemu_pids()[spec.vm], signal.SIGTERM)  # as systemd does

        assert (await rig.until(Happening.ENDED, spec.vm)).reason is DownReason.HOST_SHUTDOWN

    async def test_a_guest_reboots_itself_in_the_same_run(self, rig: LibvirtRig) -> None:
        spec, _ = await stamping(rig)
        before = process_of(rig, spec.vm)

        guest_shell(rig, spec.vm, "(sleep 0.3; reboot -f) >/dev/null 2>&1 &")

        await rig.until(Happening.RESET, spec.vm)
        await rig.until(Happening.GUEST_AGENT, spec.vm)
        assert before.alive
        assert [each for each in rig.seen if each.happening is Happening.RESET] == []

    async def test_a_run_that_was_started_by_nobody_we_know_is_left_alone(
        self, rig: LibvirtRig
    ) -> None:
        # given a domain whose XML was copied from one of ours under another uuid
        spec, _ = await stamping(rig)
        stranger = str(uuid.uuid4())
        with rig.connection() as connection:
            xml = connection.lookupByUUIDString(spec.vm).XMLDesc(0)
            await rig.driver.destroy(spec.vm, 1)
            connection.createXML(xml.replace(spec.vm, stranger).replace(spec.name, "x"), 0)
            copied = connection.lookupByUUIDString(stranger)
            copied.setMetadata(2, f"<domain><vm>{spec.vm}</vm></domain>", "c", OUR_NAMESPACE, 1)

        # then it is a stranger, and nothing is done to it
        domains = await rig.driver.domains()
        assert (domains.managed, domains.unmanaged) == ((), (stranger,))
        await rig.driver.destroy(stranger, 1)
        assert stranger in rig.host.qemu_pids()


OUR_NAMESPACE = "urn:chronovisor:domain:1"


class TestLibvirtd:
    async def test_its_death_and_return_touch_no_guest(self, rig: LibvirtRig) -> None:
        # given
        spec, disk = await stamping(rig)
        before, listed = process_of(rig, spec.vm), await rig.domain(spec.vm)

        # when
        rig.host.kill_libvirtd()

        # then
        await rig.until(Happening.LOST)
        await rig.until(Happening.RECONNECTED)
        assert before.alive
        assert await rig.domain(spec.vm) == listed
        # and events come again: callbacks are registered anew
        await rig.driver.press_power_button(spec.vm, 1)
        assert (await rig.until(Happening.ENDED, spec.vm)).reason is DownReason.GUEST
        assert_single_writer(read_stamps(rig.path(disk.volume)))

    async def test_a_qemu_that_it_does_not_know_is_not_absent(self, rig: LibvirtRig) -> None:
        # given a libvirtd that lost its memory of a running guest
        spec, _ = await stamping(rig)
        rig.host.pause_libvirtd()
        state = rig.host.folder / "root/run/libvirt/qemu" / f"{spec.vm}.xml"
        state.unlink()
        rig.host.kill_libvirtd()
        await rig.until(Happening.LOST)
        await rig.until(Happening.RECONNECTED)

        # then nobody says that the guest is gone, or starts it again
        with pytest.raises(UnknownStateError, match="of which libvirt knows nothing"):
            await rig.driver.domains()
        with pytest.raises(UnknownStateError):
            await rig.driver.start(msgspec.structs.replace(spec, incarnation=2))
        # and another run's power-off does not hit it, its own one does
        with pytest.raises(UnknownStateError):
            await asyncio.wait_for(quickly_destroy(rig, spec.vm, 2), 30)
        assert spec.vm in rig.host.qemu_pids()
        await rig.driver.destroy(spec.vm, 1)
        assert rig.host.qemu_pids() == {}
        assert (await rig.driver.domains()).managed == ()

    async def test_a_driver_whose_libvirtd_is_away_opens_and_finds_it_later(
        self, rig: LibvirtRig
    ) -> None:
        await rig.take_away()
        driver = rig.make_driver()
        before = time.monotonic()

        await driver.open()

        assert time.monotonic() - before < 20
        with pytest.raises(UnknownStateError):
            await driver.domains()
        await rig.bring_back()
        events = driver.events()
        told = [await asyncio.wait_for(anext(events), 20) for _ in range(2)]
        assert [each.happening for each in told] == [Happening.LOST, Happening.RECONNECTED]
        assert (await driver.domains()).managed == ()
        await driver.close()

    async def test_an_agent_ends_in_time_though_libvirtd_hangs(
        self, rig: LibvirtRig, tmp_path: Path
    ) -> None:
        # given an agent with a driver, as a process of its own, under the loop that it really has
        script = tmp_path / "agent.py"
        script.write_text(AGENT_SCRIPT)
        words = [sys.executable, str(script), rig.host.uri, str(rig.host.images)]
        agent = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert agent.stdout is not None
        async with asyncio.timeout(30):
            while b"ready" not in await agent.stdout.readline():
                assert agent.returncode is None

        # when libvirtd hangs and the agent is to end
        await rig.take_away()
        before = time.monotonic()
        await asyncio.wait_for(agent.communicate(b"end\n"), 20)

        # then it does
        assert agent.returncode == 0
        assert time.monotonic() - before < 15


AGENT_SCRIPT = """
import asyncio, sys
from pathlib import Path
import uvloop
from events.types.run_spec import Disk
from hostagent.libvirt_driver import LibvirtDriver

async def main():
    driver = LibvirtDriver(sys.argv[1], Path(sys.argv[2]))
    await driver.open()
    await driver.sample()
    disk = Disk(id="d", name="d", size_bytes=1 << 20, volume="by-agent/d.qcow2")
    await driver.create_disk(disk, lambda percent: None)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    hanging = asyncio.create_task(driver.capabilities())
    await asyncio.sleep(0.5)
    await driver.close()
    hanging.cancel()

uvloop.run(main())
"""


async def quickly_destroy(rig: LibvirtRig, vm: str, incarnation: int) -> None:
    options = msgspec.structs.replace(rig.driver._options, destroy_timeout_s=2.0)
    rig.driver._options = options
    await rig.driver.destroy(vm, incarnation)


class TestSuspend:
    async def test_a_guests_memory_goes_on_under_the_next_incarnation(
        self, rig: LibvirtRig
    ) -> None:
        # given
        spec, disk = await stamping(rig)
        memory = f"memory/{spec.vm}-1.save"
        with rig.connection() as connection:
            xml = connection.lookupByUUIDString(spec.vm).XMLDesc(0)

        # when
        await rig.driver.save(spec.vm, 1, memory)

        # then
        assert (await rig.until(Happening.ENDED, spec.vm)).reason is DownReason.SUSPENDED
        assert await rig.driver.volume_size(memory)
        assert not partial_of(rig.path(memory)).exists()
        count = len(read_stamps(rig.path(disk.volume)))
        again = msgspec.structs.replace(spec, incarnation=2, restore_from=memory)
        await rig.driver.start(again)
        await has_stamps(rig, disk, count + 3)
        # the same boot of the guest, without a gap, and its strings still those of its boot
        stamps = read_stamps(rig.path(disk.volume))
        assert_single_writer(stamps)
        assert len({stamp.writer for stamp in stamps}) == 1
        domain = await rig.domain(spec.vm)
        assert domain is not None
        assert domain.incarnation == 2
        answer = await rig.driver.guest(spec.vm, 2)
        assert answer is not None
        assert answer.hostname == "web01"
        # and every device is where it was
        with rig.connection() as connection:
            after = connection.lookupByUUIDString(spec.vm).XMLDesc(0)
        assert addresses(after) == addresses(xml)
        # it was restored once: the disk has moved on, and the memory fits no more
        await rig.driver.destroy(spec.vm, 2)
        with pytest.raises(DriverError, match="was written to"):
            await rig.driver.start(msgspec.structs.replace(again, incarnation=3))
        assert await rig.driver.volume_size(memory)

    async def test_a_restore_that_fails_can_be_tried_again(self, rig: LibvirtRig) -> None:
        spec, _ = await stamping(rig)
        memory = f"memory/{spec.vm}-1.save"
        await rig.driver.save(spec.vm, 1, memory)
        again = msgspec.structs.replace(spec, incarnation=2, restore_from=memory)
        rig.host.run(["ip", "link", "set", "br0", "name", "br7"])

        try:
            with pytest.raises(DriverError):
                await rig.driver.start(again)
        finally:
            rig.host.run(["ip", "link", "set", "br7", "name", "br0"])

        assert (await rig.driver.domains()).managed == ()
        await rig.driver.start(msgspec.structs.replace(again, incarnation=3))
        domain = await rig.domain(spec.vm)
        assert domain is not None
        assert domain.incarnation == 3

    async def test_memory_of_another_vm_or_a_later_run_is_refused(self, rig: LibvirtRig) -> None:
        spec = await rig.running(incarnation=5)
        memory = "memory/some.save"
        await rig.driver.save(spec.vm, 5, memory)

        other = rig.spec(str(uuid.uuid4()), 6)
        for wrong in (
            msgspec.structs.replace(other, restore_from=memory),
            msgspec.structs.replace(spec, incarnation=5, restore_from=memory),
            msgspec.structs.replace(spec, incarnation=6, restore_from="memory/none.save"),
        ):
            with pytest.raises(DriverError):
                await rig.driver.start(wrong)
        assert (await rig.driver.domains()).managed == ()

    async def test_a_save_whose_agent_died_is_finished(self, rig: LibvirtRig) -> None:
        # given a save that libvirt ended after its agent was killed: whole, without its name
        spec = await rig.running()
        memory = f"memory/{spec.vm}-1.save"
        partial = partial_of(rig.path(memory))
        partial.parent.mkdir(exist_ok=True)
        with rig.connection() as connection:
            connection.lookupByUUIDString(spec.vm).saveFlags(str(partial), None, 0)

        # when the next agent looks
        await rig.restart()

        # then it is there, and can be restored
        assert await rig.driver.volume_size(memory)
        again = msgspec.structs.replace(spec, incarnation=2, restore_from=memory)
        await rig.driver.start(again)
        assert await rig.domain(spec.vm) is not None


class TestFiles:
    async def test_a_volume_is_a_grown_copy_with_progress(self, rig: LibvirtRig) -> None:
        disk = rig.guest_disk()
        percents: list[int] = []

        await rig.driver.create_disk(disk, percents.append)

        assert await rig.driver.volume_size(disk.volume) == disk.size_bytes
        assert percents[-1] == 100
        assert percents == sorted(percents)
        answer = run_command(["qemu-img", "check", "--output=json", rig.path(disk.volume)])
        assert json.loads(answer.stdout)["check-errors"] == 0
        assert not partial_of(rig.path(disk.volume)).exists()

    async def test_an_image_larger_than_the_disk_leaves_nothing(self, rig: LibvirtRig) -> None:
        disk = rig.guest_disk(size_bytes=MIB)
        with pytest.raises(DriverError, match="more than the disk's"):
            await rig.driver.create_disk(disk, ignore_progress)
        assert await rig.driver.volume_size(disk.volume) is None
        assert not partial_of(rig.path(disk.volume)).exists()

    async def test_images_that_name_other_files_are_refused(self, rig: LibvirtRig) -> None:
        secret = rig.host.folder / "secret"
        secret.write_bytes(b"root:x:0:0" * 1000)
        backing = rig.path("backing.qcow2")
        create: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2"]
        run_command([*create, "-b", secret, "-F", "raw", backing, "1M"])
        data = rig.path("data.qcow2")
        option = f"data_file={rig.host.folder}/data.raw"
        run_command([*create, "-o", option, data, "1M"])
        rig.path("link.qcow2").symlink_to(secret)

        for image in ("backing.qcow2", "data.qcow2", "link.qcow2", "none.qcow2"):
            disk = rig.guest_disk(image=image)
            with pytest.raises(DriverError):
                await rig.driver.create_disk(disk, ignore_progress)
            assert await rig.driver.volume_size(disk.volume) is None

        # and a volume that was replaced by one is not started
        disk = a_disk(volume="backing.qcow2")
        with pytest.raises(DriverError, match="refers to another file"):
            await rig.driver.start(rig.spec(str(uuid.uuid4()), disks=(disk,)))

    async def test_a_disk_is_not_run_twice(self, rig: LibvirtRig) -> None:
        _, disk = await stamping(rig)
        twin = rig.spec(str(uuid.uuid4()), disks=(disk,))

        with pytest.raises(DriverError, match="lock"):
            await rig.driver.start(twin)

    async def test_a_missing_cd_or_kernel_refuses_the_start(self, rig: LibvirtRig) -> None:
        spec = rig.spec(str(uuid.uuid4()))
        for changed in (
            with_configuration(spec, cdrom="iso/none.iso"),
            with_configuration(spec, boot=Boot(kernel="no-kernel")),
        ):
            with pytest.raises(DriverError, match="missing"):
                await rig.driver.start(changed)

    async def test_a_full_disk_pauses_with_its_reason(self, rig: LibvirtRig) -> None:
        # given a volume on a file system that is nearly full
        small = rig.path("small")
        small.mkdir()
        rig.host.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", small])
        disk = a_disk(size_bytes=32 * MIB, volume="small/full.qcow2")
        rig.host.run(["qemu-img", "create", "-q", "-f", "qcow2", rig.path(disk.volume), "32M"])
        # the driver looks from outside the host's mounts, where QEMU's file cannot be seen
        rig.path(disk.volume).write_bytes(header_only())
        spec = rig.spec(str(uuid.uuid4()), disks=(disk,))
        await rig.driver.start(spec)
        await rig.until(Happening.GUEST_AGENT, spec.vm)

        # when the guest fills it
        guest_shell(rig, spec.vm, "dd if=/dev/urandom of=/dev/vda bs=1M count=16", wait=False)

        # then
        paused = await rig.until(Happening.PAUSED, spec.vm)
        assert paused.pause_reason is PauseReason.NO_SPACE
        domain = await rig.domain(spec.vm)
        assert domain is not None
        assert domain.pause_reason is PauseReason.NO_SPACE
        # also for an agent that was not there when it happened
        await rig.restart()
        domain = await rig.domain(spec.vm)
        assert domain is not None
        assert domain.pause_reason is PauseReason.NO_SPACE


class TestSamples:
    async def test_rates_are_of_the_time_between_two_samples(self, rig: LibvirtRig) -> None:
        spec, _ = await stamping(rig)
        await rig.driver.sample()
        guest_shell(rig, spec.vm, "timeout 2 sh -c 'while :; do :; done'; true")

        host, (vm,) = await rig.driver.sample()

        assert vm.vm == spec.vm
        assert 30 < vm.cpu_percent <= 100
        assert vm.memory_bytes == 96 * MIB
        assert 0 < vm.memory_used_bytes < 96 * MIB
        assert vm.disk_write_bytes_per_s > 500
        assert 0 < host.cpu_percent <= 100
        assert host.storage_free_bytes > MIB
        assert 0 < host.memory_used_bytes < host.memory_total_bytes


def addresses(xml: str) -> list[tuple[str, ...]]:
    """Where each device is."""
    places = etree.fromstring(xml).iterfind("devices/*/address")
    return [tuple(str(value) for value in place.attrib.values()) for place in places]


def header_only() -> bytes:
    """A qcow2 header, as far as the driver looks at it."""
    folder = Path("/tmp") / f"cvt-header-{os.getpid()}.qcow2"
    run_command(["qemu-img", "create", "-q", "-f", "qcow2", folder, "32M"])
    content = folder.read_bytes()
    folder.unlink()
    return content


def guest_shell(rig: LibvirtRig, vm: str, script: str, *, wait: bool = True) -> str:
    """What a shell in the guest prints."""
    with rig.connection() as connection:
        domain = connection.lookupByUUIDString(vm)

        def ask(command: str, **arguments: object) -> dict[str, object]:
            words = json.dumps({"execute": command, "arguments": arguments})
            answer = libvirt_qemu.qemuAgentCommand(domain, words, 5, 0)
            return dict(json.loads(answer)["return"])

        started = ask("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})
        if not wait:
            return ""
        for _ in range(100):
            status = ask("guest-exec-status", pid=started["pid"])
            if status["exited"]:
                break
            time.sleep(0.1)
    assert status["exited"], script
    return base64.b64decode(str(status.get("out-data", ""))).decode().strip()
