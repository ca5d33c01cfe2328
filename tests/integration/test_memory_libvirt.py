"""The keeper of a host's memory on real guests: their balloons, and the kernel's KSM.

How much memory the host has is made up, so that it runs short; all else is QEMU's and the kernel's.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from events.types.host_memory import MemoryPolicy
from events.types.run_spec import RunSpec
from events.wire.agent import IntentVm, Role
from hostagent.balloon_port import BalloonReading, Balloons
from hostagent.desk import Desk
from hostagent.driver import Domain, Driver, Happening
from hostagent.journal import Journal
from hostagent.memory_files import KSM_FOLDER, MEMINFO, MemoryFiles
from hostagent.memory_keeper import MemoryKeeper, MemorySetup
from hostagent.records import RunKey
from hostagent.simulated import SimulatedDriver
from hostagent.timings import Timings
from tests.contract.driver_contract import ignore_progress, with_configuration
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.workspace import Workspace
from tests.integration.libvirt_driver_rig import MIB, LibvirtRig, opened_rig, started_host

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
KSM = Path("/") / KSM_FOLDER
SIZE = 16 * MIB
DEFINED = 192 * MIB
GUARANTEED = 128 * MIB
BALLOONS = MemoryPolicy(ballooning=True)


@pytest.fixture(scope="module")
def shared_host(workspace: Workspace, host_network: HostNetwork) -> Iterator[LibvirtHost]:
    with started_host(workspace, host_network, 43) as host:
        yield host


@pytest.fixture
async def rig(shared_host: LibvirtHost, guest: Guest) -> AsyncIterator[LibvirtRig]:
    async with opened_rig(shared_host, guest) as rig:
        yield rig


class Surroundings:
    """A keeper, on a host with as much memory as the test says, and with the kernel's own KSM."""

    def __init__(self, driver: Driver, balloons: Balloons, folder: Path) -> None:
        self.root = folder / "root"
        (self.root / MEMINFO).parent.mkdir(parents=True)
        (self.root / KSM_FOLDER).parent.mkdir(parents=True)
        (self.root / KSM_FOLDER).symlink_to(KSM)
        self.desk = Desk(driver, Journal.open(folder / "journal"), Timings(), "boot")
        setup = MemorySetup(balloons, MemoryFiles(self.root), folder / "ksm")
        self.keeper = MemoryKeeper(self.desk, setup)

    def host_has(self, total: int, free: int) -> None:
        text = f"MemTotal: {total // 1024} kB\nMemAvailable: {free // 1024} kB\n"
        (self.root / MEMINFO).write_text(text)


class Bench(Surroundings):
    """A keeper over the rig's guests."""

    def __init__(self, rig: LibvirtRig, folder: Path) -> None:
        super().__init__(rig.driver, rig.driver.balloons, folder)
        self.rig = rig

    async def guest(self, *, ballooning: bool = True, up: bool = True) -> RunSpec:
        """Start a guest, and wait until it is up unless that does not matter."""
        disk = self.rig.guest_disk()
        await self.rig.driver.create_disk(disk, ignore_progress)
        spec = with_configuration(
            self.rig.spec(str(uuid.uuid4()), disks=(disk,)),
            memory_bytes=DEFINED,
            memory_guaranteed_bytes=GUARANTEED,
            ballooning=ballooning,
        )
        await self.rig.driver.start(spec)
        if up:
            await self.rig.until(Happening.GUEST_AGENT, spec.vm)
        key = RunKey(spec.vm, spec.incarnation)
        self.desk.intent[key] = IntentVm(
            vm=spec.vm, incarnation=spec.incarnation, role=Role.RUN, position=1, spec=spec
        )
        self.desk.domains[key] = Domain(vm=spec.vm, incarnation=spec.incarnation)
        return spec

    async def size(self, spec: RunSpec) -> int:
        """What libvirt says that the guest's balloon leaves it."""
        return (await self.rig.driver.balloons.read())[
            RunKey(spec.vm, spec.incarnation)
        ].current_bytes

    async def until_size(self, spec: RunSpec, size_bytes: int, policy: MemoryPolicy) -> int:
        """Let the keeper look until the guest has so much; return how often it looked."""
        looks = 0
        async with asyncio.timeout(120):
            while await self.size(spec) != size_bytes:
                await self.keeper.look(policy)
                looks += 1
                await asyncio.sleep(0.5)
        return looks


@pytest.fixture
async def bench(rig: LibvirtRig, tmp_path: Path) -> Bench:
    return Bench(rig, tmp_path)


async def test_a_guest_gives_its_memory_up_and_gets_it_back(bench: Bench) -> None:
    # given a guest of 192 MiB of which 128 are guaranteed, and its word on what it uses
    bench.host_has(1024 * MIB, 500 * MIB)
    spec = await bench.guest()
    async with asyncio.timeout(60):
        key = RunKey(spec.vm, spec.incarnation)
        while (await bench.rig.driver.balloons.read())[key].usable_bytes is None:
            await asyncio.sleep(1)
    process = bench.rig.host.qemu_pids()[spec.vm]

    # when the host runs short
    bench.host_has(1024 * MIB, 100 * MIB)
    looks = await bench.until_size(spec, GUARANTEED, BALLOONS)

    # then the guest went down step by step and has what it is guaranteed, by its own account too
    assert looks >= 7
    assert (await bench.rig.driver.guest(spec.vm, 1)) is not None
    async with asyncio.timeout(30):
        while True:
            _host, (sample,) = await bench.rig.driver.sample()
            if sample.memory_bytes == GUARANTEED:
                break
            await asyncio.sleep(0.5)

    # and when there is room again it has all of it, in the same QEMU
    bench.host_has(1024 * MIB, 900 * MIB)
    await bench.until_size(spec, DEFINED, BALLOONS)
    assert bench.rig.host.qemu_pids()[spec.vm] == process


async def test_a_vm_without_a_balloon_has_none(bench: Bench) -> None:
    bench.host_has(1024 * MIB, 100 * MIB)
    spec = await bench.guest(ballooning=False, up=False)
    for _ in range(3):
        await bench.keeper.look(BALLOONS)
    assert await bench.size(spec) == DEFINED
    with bench.rig.connection() as connection:
        xml = connection.lookupByUUIDString(spec.vm).XMLDesc(0)
    assert '<memballoon model="none"/>' in xml.replace("'", '"')


# All that touches the kernel's KSM is in this file: there is one for all processes.
has_ksm = pytest.mark.skipif(
    not os.access(KSM / "run", os.W_OK), reason="the kernel has no KSM that could be set here"
)


@contextlib.contextmanager
def ksm_as_it_was() -> Iterator[None]:
    """Leave the machine's KSM as it was found: it is the kernel's own, for all."""
    names = ("pages_to_scan", "sleep_millisecs", "merge_across_nodes", "run")
    before = {name: (KSM / name).read_text() for name in names}
    (KSM / "run").write_text("2")  # all pages apart
    try:
        yield
    finally:
        (KSM / "run").write_text("2")  # apart again, so that all can be set
        for name in names:
            (KSM / name).write_text(before[name])


@has_ksm
async def test_the_kernel_merges_the_pages_of_two_guests(bench: Bench) -> None:
    with ksm_as_it_was():
        # given two guests of the same kernel, on a host that has little more memory
        bench.host_has(400 * MIB, 20 * MIB)
        await bench.guest()
        await bench.guest()
        told = bench.keeper.ksm()
        assert told is not None
        assert (told.running, told.saved_bytes) == (False, 0)

        # when its cluster has KSM
        for _ in range(4):
            await bench.keeper.look(MemoryPolicy(ksm=True))

        # then equal pages are merged, which the host tells
        assert (KSM / "run").read_text().strip() == "1"
        assert (KSM / "pages_to_scan").read_text().strip() == "1250"
        async with asyncio.timeout(90):
            while (told := bench.keeper.ksm()) is None or told.saved_bytes < 8 * MIB:
                await asyncio.sleep(1)
        assert told.running
        print(f"KSM saves {told.saved_bytes // MIB} MiB of {2 * DEFINED // MIB} MiB")  # noqa: T201

        # and pages of other NUMA nodes are kept apart once it says so
        await bench.keeper.look(MemoryPolicy(ksm=True, merge_across_nodes=False))
        assert (KSM / "merge_across_nodes").read_text().strip() == "0"
        told = bench.keeper.ksm()
        assert told is not None
        assert (told.running, told.merge_across_nodes, told.problem) == (True, False, "")

        # and it is stopped where the cluster has no KSM
        await bench.keeper.look(MemoryPolicy())
        assert (KSM / "run").read_text().strip() == "0"


class OneGuest:
    """A guest that has nearly all memory of the host; its balloon is no part of this."""

    async def read(self) -> Mapping[RunKey, BalloonReading]:
        return {RunKey("a", 1): BalloonReading(defined_bytes=360 * MIB, current_bytes=360 * MIB)}

    async def set(self, key: RunKey, size_bytes: int) -> None:
        raise AssertionError(key, size_bytes)


@contextlib.contextmanager
def equal_pages() -> Iterator[None]:
    """Have memory of many equal pages, as guests of one operating system do."""
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_MERGEABLE)
        memory.write(b"\x5a" * SIZE)
        yield


@has_ksm
async def test_equal_pages_are_merged_and_all_of_it_is_told(tmp_path: Path) -> None:
    driver = SimulatedDriver(tmp_path / "machine", name="h")
    here = Surroundings(driver, OneGuest(), tmp_path)
    here.host_has(400 * MIB, 20 * MIB)
    keeper = here.keeper
    with ksm_as_it_was(), equal_pages():
        told = keeper.ksm()
        assert told is not None
        assert (told.running, told.saved_bytes) == (False, 0)

        # when its cluster has KSM, then the kernel merges, as fast as it may, and the host tells
        for _ in range(5):
            await keeper.look(MemoryPolicy(ksm=True))
        assert (KSM / "run").read_text().strip() == "1"
        assert (KSM / "pages_to_scan").read_text().strip() == "1250"
        async with asyncio.timeout(90):
            while (told := keeper.ksm()) is None or told.saved_bytes < SIZE * 9 // 10:
                await asyncio.sleep(0.2)
        assert told.running

        # when it is to keep NUMA nodes apart, then the kernel takes that on though pages are merged
        await keeper.look(MemoryPolicy(ksm=True, merge_across_nodes=False))
        told = keeper.ksm()
        assert told is not None
        assert (told.running, told.merge_across_nodes, told.problem) == (True, False, "")

        # and when its cluster has none, then it stops, and what is merged stays so
        async with asyncio.timeout(90):
            while (told := keeper.ksm()) is None or told.saved_bytes < SIZE * 9 // 10:
                await asyncio.sleep(0.2)
        await keeper.look(MemoryPolicy())
        told = keeper.ksm()
        assert told is not None
        assert not told.running
        assert told.saved_bytes >= SIZE * 9 // 10


@has_ksm
async def test_what_the_kernel_refuses_is_told() -> None:
    """given merged pages and nobody who takes them apart, then the kernel says why it refuses"""
    files = MemoryFiles()
    with ksm_as_it_was(), equal_pages():
        (KSM / "pages_to_scan").write_text("1250")
        (KSM / "run").write_text("1")
        async with asyncio.timeout(90):
            while (state := files.ksm()) is None or not state.pages_sharing:
                await asyncio.sleep(0.2)
        with pytest.raises(OSError, match="busy"):
            files.write_ksm("merge_across_nodes", 0)
        with pytest.raises(OSError, match="Invalid"):
            files.write_ksm("run", 9)
        with pytest.raises(FileNotFoundError):
            files.write_ksm("no_such_file", 1)
