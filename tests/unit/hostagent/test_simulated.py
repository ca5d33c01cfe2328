"""The simulated driver keeps the drivers' contract, and what else it promises."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from events.types.run_spec import Disk, RunSpec
from hostagent.driver import Driver, DriverError
from hostagent.simulated import SimulatedDriver
from hostagent.simulated_samples import GENEROUS
from hostagent.simulated_state import Control, Do, Faults
from tests.contract.driver_contract import DriverContract, DriverRig
from tests.unit.hostagent.samples import OTHER, VM, a_spec


class SimulatedRig(DriverRig):
    driver: SimulatedDriver

    def __init__(self, folder: Path, storage: Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.storage = storage
        self.driver = SimulatedDriver(folder, name="host01", storage=storage)

    def spec(self, vm: str, incarnation: int = 1, *, disks: tuple[Disk, ...] = ()) -> RunSpec:
        return a_spec(vm, incarnation, disks=disks)

    async def new_driver(self) -> Driver:
        driver = SimulatedDriver(self.folder, name="host01", storage=self.storage)
        await driver.open()
        return driver

    async def crash(self, vm: str) -> None:
        self.driver.control(Control(do=Do.CRASH, vm=vm))

    async def pause(self, vm: str) -> None:
        self.driver.control(Control(do=Do.PAUSE, vm=vm))

    async def take_away(self) -> None:
        self.faults(Faults(away=True))

    async def bring_back(self) -> None:
        self.faults(Faults())

    def faults(self, faults: Faults) -> None:
        self.driver.control(Control(do=Do.FAULTS, faults=faults))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SimulatedRig]:
    rig = SimulatedRig(tmp_path / "machine")
    await rig.driver.open()
    rig.listen()
    yield rig
    await rig.end()
    await rig.driver.close()


class TestSimulatedDriver(DriverContract):
    """The contract, on a simulated host."""


async def test_starts_fail_as_often_as_told(rig: SimulatedRig) -> None:
    rig.faults(Faults(start_failures=1, start_failure="no memory"))

    with pytest.raises(DriverError, match="no memory"):
        await rig.driver.start(a_spec())
    await rig.driver.start(a_spec())

    assert await rig.domain(VM) is not None


async def test_a_slow_start_goes_on_without_its_agent(rig: SimulatedRig) -> None:
    rig.faults(Faults(start_s=0.2))
    start = asyncio.create_task(rig.driver.start(a_spec()))
    await asyncio.sleep(0.05)
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)

    await rig.restart()

    assert await rig.domain(VM) is None
    await rig.eventually(lambda domain: domain is not None, VM)


async def test_a_hanging_start_ends_when_it_is_destroyed(rig: SimulatedRig) -> None:
    rig.faults(Faults(hang_starts=True))
    start = asyncio.create_task(rig.driver.start(a_spec()))
    await asyncio.sleep(0.02)

    await rig.driver.destroy(VM, 1)

    with pytest.raises(DriverError, match="destroyed"):
        await asyncio.wait_for(start, 15)


async def test_a_host_without_power_loses_its_domains_and_has_a_new_boot_id(
    rig: SimulatedRig,
) -> None:
    await rig.driver.start(a_spec())
    boot = rig.driver.boot_id_path.read_text()

    rig.driver.power_off()
    await rig.restart()

    assert await rig.domain(VM) is None
    assert rig.driver.boot_id_path.read_text() != boot


async def test_guests_have_addresses_of_their_own(rig: SimulatedRig) -> None:
    await rig.driver.start(a_spec(VM))
    await rig.driver.start(a_spec(OTHER))

    one, two = await rig.driver.guest(VM, 1), await rig.driver.guest(OTHER, 1)

    assert one is not None
    assert two is not None
    assert one.hostname == "web-01"
    assert len({*one.addresses, *two.addresses}) == 2


async def test_a_held_domain_is_never_resumed(rig: SimulatedRig) -> None:
    await rig.driver.start(a_spec())
    rig.driver.hold(VM)

    with pytest.raises(DriverError, match="migration"):
        await rig.driver.resume(VM, 1)


async def test_a_deaf_guest_ignores_its_button_and_a_hung_one_does_not_answer(
    rig: SimulatedRig,
) -> None:
    rig.faults(Faults(deaf=True))
    await rig.driver.start(a_spec(VM))
    await rig.driver.start(a_spec(OTHER))
    rig.driver.control(Control(do=Do.HANG, vm=OTHER))

    await rig.driver.press_power_button(VM, 1)
    await asyncio.sleep(0.05)

    assert await rig.domain(VM) is not None
    assert await rig.driver.guest(OTHER, 1) is None


async def test_a_guest_boots_after_its_time_and_shuts_down_after_another(
    rig: SimulatedRig,
) -> None:
    rig.faults(Faults(boot_s=0.2, shutdown_s=0.1))
    await rig.driver.start(a_spec())
    assert await rig.driver.guest(VM, 1) is None
    await rig.eventually(lambda domain: domain is not None, VM)
    await asyncio.sleep(0.25)

    await rig.driver.press_power_button(VM, 1)

    assert await rig.domain(VM) is not None
    await rig.eventually(lambda domain: domain is None, VM)


async def test_samples_of_one_instant_are_equal(tmp_path: Path) -> None:
    driver = SimulatedDriver(tmp_path / "m", name="h", clock=lambda: 1_000_000.0)
    await driver.open()
    await driver.start(a_spec())

    assert await driver.sample() == await driver.sample()


async def test_a_vm_that_is_told_to_be_busy_takes_all_of_its_cpus_and_no_more_memory(
    tmp_path: Path,
) -> None:
    driver = SimulatedDriver(tmp_path / "m", name="h", clock=lambda: 1_000_000.0)
    await driver.open()
    await driver.start(a_spec())
    _host, (before,) = await driver.sample()

    driver.control(Control(do=Do.BUSY, vm=VM))
    busy, (vm,) = await driver.sample()

    cpus = a_spec().configuration.topology.count
    assert (vm.cpu_percent, vm.memory_used_bytes) == (100.0, before.memory_used_bytes)
    assert busy.cpu_percent == 1.0 + 100 * cpus / GENEROUS.cpus


async def test_a_host_swaps_out_what_does_not_fit_into_its_memory(tmp_path: Path) -> None:
    small = msgspec.structs.replace(GENEROUS, memory_bytes=3 * 1024**3)
    driver = SimulatedDriver(tmp_path, name="host01", capabilities=small)
    await driver.open()
    idle = (await driver.capabilities()).swap
    assert idle is not None
    assert (idle.used_bytes, idle.pressure_percent) == (0, -5)
    spec = a_spec(VM)
    large = msgspec.structs.replace(spec.configuration, memory_bytes=8 * 1024**3)
    await driver.start(msgspec.structs.replace(spec, configuration=large))
    host, vms = await driver.sample()
    swap = (await driver.capabilities()).swap
    assert swap is not None
    assert swap.used_bytes == 2 * 1024**3 + vms[0].memory_used_bytes - host.memory_total_bytes
    assert swap.pressure_percent == swap.used_bytes * 100 // host.memory_total_bytes > 0
    await driver.destroy(VM, 1)
    assert (await driver.capabilities()).swap == idle
    await driver.close()
