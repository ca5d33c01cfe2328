"""Simulated hosts move VMs as the contract says, and fail as they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from events.types.job import Sending
from events.types.migration import Held
from events.types.run_spec import RunSpec
from events.wire.agent import IntentVm
from hostagent.convergence import GO_ON, Copying, Move, Resort, Terms
from hostagent.driver import DriverError
from hostagent.migration_line import OK, Streams
from hostagent.simulated import SimulatedDriver
from hostagent.simulated_migration import SimulatedMoves
from hostagent.simulated_state import Control, Do, Faults, MigrationFault
from hostagent.simulated_storage import make_shared_storage
from tests.contract.driver_contract import a_disk, ignore_progress
from tests.contract.moves_contract import MovesContract, MovesRig, until_there
from tests.harness.memory_line import MemoryNetwork
from tests.unit.hostagent.samples import a_spec
from tests.unit.hostagent.test_simulated import SimulatedRig


class SimulatedPair(MovesRig):
    source: SimulatedRig
    destination: SimulatedRig

    def __init__(self, folder: Path) -> None:
        storage = make_shared_storage(folder / "storage", "one")
        self.network = MemoryNetwork()
        self.source = SimulatedRig(folder / "source", storage=storage)
        self.destination = SimulatedRig(folder / "destination", storage=storage)
        self.sends = SimulatedMoves(self.source.driver)
        self.takes_in = SimulatedMoves(self.destination.driver)

    async def open_channel(self, channel: str, item: IntentVm) -> Streams:
        async def accept(_source: str, streams: Streams) -> None:
            await self.takes_in.take_in(channel, item, streams)

        self.network.serve("destination", accept)
        order = Sending(destination="destination", address="")
        streams = self.network.connect("source", order)
        assert await streams[0].readuntil(b"\n") == OK
        return streams

    async def slow_down(self, spec: RunSpec) -> None:
        self.source.faults(Faults(migration_s=0.3))

    def cut(self) -> None:
        self.network.break_lines("destination")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[SimulatedPair]:
    pair = SimulatedPair(tmp_path)
    for rig in (pair.source, pair.destination):
        await rig.driver.open()
        rig.listen()
    yield pair
    for rig in (pair.source, pair.destination):
        await rig.end()
        await rig.driver.close()


class TestSimulatedMoves(MovesContract):
    """The contract, on simulated hosts."""


async def test_a_destination_that_refuses_says_why(pair: SimulatedPair) -> None:
    spec = await pair.source.running()
    pair.destination.faults(Faults(migration_fault=MigrationFault.REFUSE))

    with pytest.raises(DriverError, match="told to take nothing in"):
        await pair.move(spec)

    await TestSimulatedMoves().stays(pair, spec)


async def test_a_vm_that_takes_all_of_its_cpus_does_so_where_it_came(pair: SimulatedPair) -> None:
    spec = await pair.source.running()
    pair.source.driver.control(Control(do=Do.BUSY, vm=spec.vm))

    await pair.move(spec)

    assert pair.destination.driver.machine.domains[spec.vm].busy


@pytest.mark.parametrize("change", [{"cpu_model": "Haswell"}, {"machine_type": "pc-q35-7.1"}])
async def test_another_cpu_or_machine_than_was_ordered_is_not_taken_in(
    pair: SimulatedPair, change: dict[str, str]
) -> None:
    spec = await pair.source.running()

    with pytest.raises(DriverError, match="differs"):
        await pair.move(spec, expected=msgspec.structs.replace(spec, **change))


async def test_a_busy_guest_moves_once_it_is_in_post_copy(pair: SimulatedPair) -> None:
    spec = await pair.source.running()
    pair.source.faults(Faults(migration_s=0.05, migration_busy=True))

    def look(seen: Copying) -> Move:
        return Move(resort=Resort.POST_COPY) if seen.round_number > 2 else GO_ON

    await pair.move(spec, look=look, terms=Terms(down_time_ms=1, may_post_copy=True))

    assert await pair.source.domain(spec.vm) is None


async def test_a_source_that_dies_at_the_switch_over_leaves_two_halves_that_stand_still(
    pair: SimulatedPair,
) -> None:
    spec = await pair.source.running()
    pair.source.faults(Faults(migration_fault=MigrationFault.HOLD))

    with pytest.raises(DriverError, match="switch-over"):
        await pair.move(spec)

    here, there = await pair.source.domain(spec.vm), await pair.destination.domain(spec.vm)
    assert here is not None
    assert there is not None
    assert here.held is Held.SWITCH_OVER
    assert (here.paused, there.paused) == (True, True)


async def test_what_was_about_to_leave_runs_on_after_the_agent_died(pair: SimulatedPair) -> None:
    spec = await pair.source.running()
    domain = pair.source.driver.machine.domains[spec.vm]
    domain.leaving = domain.held = True
    pair.source.driver.changed()

    await pair.source.restart()

    here = await pair.source.domain(spec.vm)
    assert here is not None
    assert not here.held


async def test_what_was_coming_in_is_gone_after_the_agent_died(pair: SimulatedPair) -> None:
    spec = await pair.source.running()
    pair.source.faults(Faults(migration_s=5))
    task = asyncio.create_task(pair.move(spec))
    await until_there(pair.destination, spec.vm)

    await pair.destination.restart()

    assert await pair.destination.domain(spec.vm) is None
    task.cancel()


async def test_volumes_in_a_shared_folder_are_seen_by_all(tmp_path: Path) -> None:
    storage = make_shared_storage(tmp_path / "storage", "one")
    one = SimulatedDriver(tmp_path / "one", name="one", storage=storage)
    two = SimulatedDriver(tmp_path / "two", name="two", storage=storage)
    disk = a_disk()
    await one.create_disk(disk, ignore_progress)

    assert await two.volume_size(disk.volume) == disk.size_bytes
    assert (await one.capabilities()).storage_id == (await two.capabilities()).storage_id != ""
    await two.start(a_spec(disks=(disk,)))
    await two.remove_volumes([disk.volume])
    assert await one.volume_size(disk.volume) is None
