"""The keeper of a host's memory: over files as the kernel has them, and balloons that obey."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from events.types.host_memory import MemoryPolicy
from events.types.vm_memory import BalloonProblem
from events.types.vm_tuning import Tuning
from events.wire.agent import CapabilitiesItem, Hello, IntentVm, Role, VmState
from hostagent.balloon_port import BalloonReading
from hostagent.desk import Desk
from hostagent.driver import Domain, DriverError
from hostagent.journal import Journal
from hostagent.memory_files import KSM_FOLDER, MEMINFO, KsmState, MemoryFiles
from hostagent.memory_keeper import MemoryKeeper, MemorySetup
from hostagent.records import RunKey
from hostagent.simulated import SimulatedDriver
from hostagent.timings import Timings
from tests.contract.driver_contract import with_configuration
from tests.unit.hostagent.conftest import Host
from tests.unit.hostagent.fake_engine import FakeEngine
from tests.unit.hostagent.samples import a_spec, run_item

GIB = 1 << 30
KEY = RunKey("00000000-0000-0000-0000-0000000000e1", 1)


class Guests:
    """Guests whose balloons obey at once."""

    def __init__(self) -> None:
        self.sizes: dict[RunKey, int] = {KEY: 4 * GIB}
        self.refuses = False
        self.stuck = False

    async def read(self) -> Mapping[RunKey, BalloonReading]:
        return {
            key: BalloonReading(
                defined_bytes=4 * GIB, current_bytes=size, usable_bytes=size - GIB // 2
            )
            for key, size in self.sizes.items()
        }

    async def set(self, key: RunKey, size_bytes: int) -> None:
        if self.refuses:
            raise DriverError("no balloon")
        if not self.stuck:
            self.sizes[key] = size_bytes


def kernel(root: Path, *, free_gib: float, ksm: bool = True) -> Path:
    """Files as a kernel has them."""
    (root / MEMINFO).parent.mkdir(parents=True, exist_ok=True)
    free = int(free_gib * GIB / 1024)
    (root / MEMINFO).write_text(f"MemTotal: {9 * GIB // 2048} kB\nMemAvailable: {free} kB\n")
    if ksm and not (root / KSM_FOLDER).exists():
        (root / KSM_FOLDER).mkdir(parents=True)
        values = {"run": 0, "merge_across_nodes": 1, "pages_to_scan": 100, "sleep_millisecs": 20}
        for name, value in (values | {"pages_shared": 0, "pages_sharing": 512}).items():
            (root / KSM_FOLDER / name).write_text(f"{value}\n")
    return root


def file(root: Path, name: str) -> int:
    """What a file says; -1 while it is being written, which the kernel's files never show."""
    return int((root / KSM_FOLDER / name).read_text() or -1)


class Bench:
    """A keeper, its desk and its guests."""

    def __init__(self, folder: Path) -> None:
        self.root = kernel(folder / "root", free_gib=0.3)
        driver = SimulatedDriver(folder / "machine", name="h")
        journal = Journal.open(folder / "journal")
        self.desk = Desk(driver, journal, Timings().scaled(0.01), "boot")
        self.guests = Guests()
        self.keeper = MemoryKeeper(
            self.desk, MemorySetup(self.guests, MemoryFiles(self.root), folder / "ksm")
        )
        self.runs(guaranteed=2 * GIB)

    def runs(
        self,
        *,
        guaranteed: int | None,
        role: Role = Role.RUN,
        ballooning: bool = True,
        paused: bool = False,
        huge_page_bytes: int | None = None,
    ) -> None:
        """Have the VM run, or be on its way."""
        spec = with_configuration(
            a_spec(KEY.vm, KEY.incarnation),
            memory_bytes=4 * GIB,
            memory_guaranteed_bytes=guaranteed,
            ballooning=ballooning,
            tuning=Tuning(huge_page_bytes=huge_page_bytes),
        )
        item = IntentVm(vm=KEY.vm, incarnation=1, role=role, position=1, spec=spec)
        self.desk.intent[KEY] = item
        self.desk.domains[KEY] = Domain(vm=KEY.vm, incarnation=1, paused=paused)

    async def looks(self, policy: MemoryPolicy, times: int = 1) -> int:
        """Look so many times; return what the guest has then."""
        for _ in range(times):
            await self.keeper.look(policy)
        return self.guests.sizes[KEY]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


BALLOONS = MemoryPolicy(ballooning=True)


async def test_a_guest_gives_way_step_by_step_down_to_its_guarantee(bench: Bench) -> None:
    assert await bench.looks(BALLOONS) == 4 * GIB - round(4 * GIB * 0.05)
    assert await bench.looks(BALLOONS, 30) == 2 * GIB

    # and gets it back once there is room again
    kernel(bench.root, free_gib=4.2)
    assert await bench.looks(BALLOONS, 30) == 4 * GIB


@pytest.mark.parametrize(
    "how",
    [
        {"guaranteed": None},
        {"guaranteed": 2 * GIB, "ballooning": False},
        {"guaranteed": 2 * GIB, "role": Role.OUTGOING},
        {"guaranteed": 2 * GIB, "role": Role.INCOMING},
        {"guaranteed": 2 * GIB, "paused": True},
        {"guaranteed": 2 * GIB, "huge_page_bytes": 2 << 20},
    ],
)
async def test_who_keeps_its_memory(bench: Bench, how: dict[str, object]) -> None:
    bench.runs(**how)  # type: ignore[arg-type]
    assert await bench.looks(BALLOONS, 5) == 4 * GIB


async def test_a_guest_that_the_engine_did_not_order_keeps_its_memory(bench: Bench) -> None:
    bench.desk.intent.clear()
    assert await bench.looks(BALLOONS, 5) == 4 * GIB


async def test_a_balloon_that_does_not_obey_holds_nothing_up(bench: Bench) -> None:
    other = RunKey("other", 1)
    bench.guests.refuses = True
    bench.guests.sizes[other] = GIB
    policy = MemoryPolicy(ballooning=True, ksm=True)
    assert await bench.looks(policy, 2) == 4 * GIB
    assert file(bench.root, "run") == 1


async def test_ksm_follows_the_policy_and_tells_what_it_saves(bench: Bench) -> None:
    await bench.looks(MemoryPolicy(ksm=True, merge_across_nodes=False))
    assert (file(bench.root, "run"), file(bench.root, "merge_across_nodes")) == (1, 0)
    assert file(bench.root, "pages_to_scan") == 400
    told = bench.keeper.ksm()
    assert told is not None
    assert (told.running, told.merge_across_nodes, told.problem) == (True, False, "")
    assert told.saved_bytes == 512 * 4096

    await bench.looks(MemoryPolicy())
    assert file(bench.root, "run") == 0


async def test_what_the_kernel_refuses_is_told(bench: Bench) -> None:
    place = bench.root / KSM_FOLDER / "run"
    place.unlink()
    assert bench.keeper.ksm() is None
    await bench.looks(MemoryPolicy(ksm=True))

    class Refusing(MemoryFiles):
        def write_ksm(self, name: str, value: int) -> None:
            raise PermissionError(13, "Permission denied")

    place.write_text("0")
    keeper = MemoryKeeper(
        bench.desk, MemorySetup(bench.guests, Refusing(bench.root), bench.root / "ksm")
    )
    await keeper.look(MemoryPolicy(ksm=True))
    told = keeper.ksm()
    assert told is not None
    assert "cannot be set to" in told.problem
    assert "Permission denied" in told.problem


async def test_ksm_is_read_only_where_it_is_wanted_and_noted_once(
    tmp_path: Path, bench: Bench
) -> None:
    class Counting(MemoryFiles):
        read = 0

        def ksm(self) -> KsmState | None:
            self.read += 1
            return super().ksm()

    files, marker = Counting(bench.root), tmp_path / "marker"
    keeper = MemoryKeeper(bench.desk, MemorySetup(bench.guests, files, marker))
    await keeper.look(MemoryPolicy())
    assert (files.read, marker.exists()) == (0, False)
    await keeper.look(MemoryPolicy(ksm=True))
    os.utime(marker, (1, 1))
    await keeper.look(MemoryPolicy(ksm=True))
    assert (files.read, marker.stat().st_mtime) == (2, 1)


async def test_a_kernel_without_ksm_is_no_failure(tmp_path: Path, bench: Bench) -> None:
    root = kernel(tmp_path / "bare", free_gib=0.3, ksm=False)
    keeper = MemoryKeeper(
        bench.desk, MemorySetup(bench.guests, MemoryFiles(root), tmp_path / "ksm")
    )
    await keeper.look(MemoryPolicy(ksm=True, ballooning=True))
    assert keeper.ksm() is None
    assert bench.guests.sizes[KEY] < 4 * GIB


async def test_nothing_is_touched_until_the_engine_has_said_what_it_wants(bench: Bench) -> None:
    running = asyncio.create_task(bench.keeper.run())
    await asyncio.sleep(0.1)
    assert file(bench.root, "run") == 0
    bench.desk.memory = MemoryPolicy(ksm=True)
    async with asyncio.timeout(10):
        while file(bench.root, "run") != 1:
            await asyncio.sleep(0.05)
    running.cancel()


async def test_ksm_that_somebody_else_started_is_left_alone(bench: Bench) -> None:
    (bench.root / KSM_FOLDER / "run").write_text("1")
    await bench.looks(MemoryPolicy(), 2)
    assert file(bench.root, "run") == 1

    # once the cluster has had KSM, also while another process was the agent, it is ours to end
    await bench.looks(MemoryPolicy(ksm=True))
    again = MemorySetup(bench.guests, MemoryFiles(bench.root), bench.keeper._marker)
    keeper = MemoryKeeper(bench.desk, again)
    await keeper.look(MemoryPolicy())
    assert file(bench.root, "run") == 0
    (bench.root / KSM_FOLDER / "run").write_text("1")
    await keeper.look(MemoryPolicy())
    assert file(bench.root, "run") == 1


class TestAgent:
    """The keeper within an agent: told by the engine, and telling it."""

    @pytest.fixture
    def kept(self, host: Host, tmp_path: Path) -> tuple[Host, Path, Guests]:
        root, guests = kernel(tmp_path / "root", free_gib=0.3), Guests()
        guests.sizes.clear()
        host.memory = MemorySetup(guests, MemoryFiles(root), tmp_path / "ksm")
        return host, root, guests

    async def test_it_does_what_the_engine_wants_and_tells_what_came_of_it(
        self, kept: tuple[Host, Path, Guests]
    ) -> None:
        # given a host whose engine wants KSM, and a guest that is guaranteed half of its memory
        host, root, guests = kept
        host.engine.order_memory(MemoryPolicy(ksm=True))
        host.engine.compare_interval_s = 0.1
        sizes = {"memory_bytes": 4 * GIB, "memory_guaranteed_bytes": 2 * GIB}
        spec = with_configuration(a_spec(), **sizes)
        item = msgspec.structs.replace(run_item(), spec=spec)
        key = RunKey(item.vm, item.incarnation)
        guests.sizes[key] = 4 * GIB

        # when its agent comes, then KSM runs, and the engine hears of it
        await host.start()
        (hello,) = host.engine.hellos or await greeted(host)
        assert hello.capabilities.ksm is not None
        assert not hello.capabilities.ksm.running

        def heard(engine: FakeEngine) -> bool:
            told = [each for each in engine.items if isinstance(each, CapabilitiesItem)]
            return any(each.capabilities.ksm and each.capabilities.ksm.running for each in told)

        await host.engine.until(heard)
        assert file(root, "run") == 1
        assert guests.sizes[key] == 4 * GIB

        # when the cluster's settings change, then it follows within the session
        host.engine.order(item)
        await host.engine.until_state(item.vm, VmState.RUNNING)
        host.engine.order_memory(MemoryPolicy(ballooning=True))
        await host.engine.until(lambda _e: guests.sizes[key] == 2 * GIB)
        assert file(root, "run") == 0
        assert len(host.engine.hellos) == 1

    async def test_a_balloon_that_does_not_move_is_told(
        self, kept: tuple[Host, Path, Guests]
    ) -> None:
        host, _root, guests = kept
        sizes = {"memory_bytes": 4 * GIB, "memory_guaranteed_bytes": 2 * GIB}
        spec = with_configuration(a_spec(), **sizes)
        item = msgspec.structs.replace(run_item(), spec=spec)
        key = RunKey(item.vm, item.incarnation)
        guests.sizes[key], guests.stuck = 4 * GIB, True
        host.engine.order_memory(MemoryPolicy(ballooning=True))
        await host.start()
        host.engine.order(item)

        def told(engine: FakeEngine, problem: BalloonProblem) -> bool:
            return key in engine.states and engine.states[key].balloon is problem

        await host.engine.until(lambda e: told(e, BalloonProblem.UNCONTROLLED))
        guests.stuck = False
        await host.engine.until(lambda e: told(e, BalloonProblem.NONE))

    async def test_it_goes_on_while_no_engine_answers(
        self, kept: tuple[Host, Path, Guests]
    ) -> None:
        host, root, guests = kept
        guests.sizes[KEY] = 4 * GIB
        host.engine.order_memory(MemoryPolicy(ksm=True))
        await host.start()
        await greeted(host)
        host.engine.away = True
        async with asyncio.timeout(10):
            while file(root, "run") != 1:
                await asyncio.sleep(0.02)
        (root / KSM_FOLDER / "run").write_text("0")
        async with asyncio.timeout(10):
            while file(root, "run") != 1:
                await asyncio.sleep(0.02)


async def greeted(host: Host) -> list[Hello]:
    """Wait for the agent's first hello."""
    await host.engine.until(lambda e: e.hellos)
    return host.engine.hellos
