"""What every driver does, whatever hypervisor lies behind it.

A test module subclasses `DriverContract` and gives it a fixture `rig`: a fresh host without domains
behind an open driver. What only a certain hypervisor can do stays in that module.
"""

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable

import msgspec
import pytest

from events.types.run_spec import Disk, RunSpec
from events.types.vm import DownReason, PauseReason
from hostagent.driver import Domain, Driver, DriverError, DriverEvent, Happening, UnknownStateError
from tests.harness.processes import patience

DISK_BYTES = 8 * 1024 * 1024
OUTSIDE = ("../outside", "/etc/passwd", "a/../../outside")


class DriverRig(ABC):
    """A host for the tests, and a hand on what only its hypervisor can do."""

    driver: Driver
    patience_s: float = 5.0
    """How long anything that must happen may take."""

    def __init__(self) -> None:
        self.seen: list[DriverEvent] = []
        self._reader: asyncio.Task[None] | None = None

    @abstractmethod
    def spec(self, vm: str, incarnation: int = 1, *, disks: tuple[Disk, ...] = ()) -> RunSpec:
        """A run that boots a guest whose agent answers."""

    @abstractmethod
    async def new_driver(self) -> Driver:
        """Drop the driver as a killed agent would, and open another one on the same host."""

    @abstractmethod
    async def crash(self, vm: str) -> None:
        """Let the domain's process die."""

    @abstractmethod
    async def pause(self, vm: str) -> None:
        """Stop the guest's CPUs behind the driver's back."""

    @abstractmethod
    async def take_away(self) -> None:
        """Let the hypervisor not answer any more, while the domains run on."""

    @abstractmethod
    async def bring_back(self) -> None:
        """Let the hypervisor answer again."""

    def listen(self) -> None:
        """Begin to collect what the driver tells."""

        async def read(driver: Driver) -> None:
            async for event in driver.events():
                self.seen.append(event)

        self._reader = asyncio.create_task(read(self.driver))

    async def restart(self) -> None:
        """Stand for an agent's restart: a new driver, and a new listener to it."""
        await self.end()
        self.driver = await self.new_driver()
        self.listen()

    async def end(self) -> None:
        """Stop listening."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def until(self, happening: Happening, vm: str = "") -> DriverEvent:
        """Wait for the driver to tell something, or find that it did.

        What it told of the same VM before is forgotten.
        """

        async def find() -> DriverEvent:
            while True:
                for index, event in enumerate(self.seen):
                    if event.happening is happening and event.vm == vm:
                        before = [one for one in self.seen[:index] if one.vm != vm]
                        self.seen[: index + 1] = before
                        return event
                await asyncio.sleep(0.01)

        return await asyncio.wait_for(find(), self.patience_s * patience())

    async def domain(self, vm: str) -> Domain | None:
        """The domain of a VM, as the driver lists it."""
        domains = await self.driver.domains()
        return next((domain for domain in domains.managed if domain.vm == vm), None)

    async def running(self, vm: str | None = None, incarnation: int = 1) -> RunSpec:
        """A started VM."""
        spec = self.spec(vm or str(uuid.uuid4()), incarnation)
        await self.driver.start(spec)
        return spec

    async def eventually(self, condition: Callable[[Domain | None], bool], vm: str) -> None:
        """Wait until the VM's domain is as it should be."""

        async def check() -> None:
            while not condition(await self.domain(vm)):
                await asyncio.sleep(0.02)

        await asyncio.wait_for(check(), self.patience_s * patience())


def ignore_progress(percent: int) -> None:
    """Take no notice of how far a copy is."""


def a_disk(**changes: object) -> Disk:
    disk = Disk(id=str(uuid.uuid4()), name="d", size_bytes=DISK_BYTES, volume="", pci_bus=16)
    disk = msgspec.structs.replace(disk, volume=f"volumes/{disk.id}.qcow2")
    return msgspec.structs.replace(disk, **changes)


def with_configuration(spec: RunSpec, **changes: object) -> RunSpec:
    """Return a run whose VM has a configuration that differs in these fields."""
    configuration = msgspec.structs.replace(spec.configuration, **changes)
    return msgspec.structs.replace(spec, configuration=configuration)


class DriverContract:
    """The suite; see the module."""

    async def test_a_started_vm_is_listed_and_told_of(self, rig: DriverRig) -> None:
        assert (await rig.driver.domains()).managed == ()

        spec = await rig.running(incarnation=7)

        domain = await rig.domain(spec.vm)
        assert domain is not None
        assert (domain.incarnation, domain.paused, domain.held) == (7, False, None)
        told = await rig.until(Happening.STARTED, spec.vm)
        assert told.incarnation == 7

    async def test_a_vm_is_not_started_twice(self, rig: DriverRig) -> None:
        spec = await rig.running()
        before = await rig.domain(spec.vm)

        with pytest.raises(DriverError):
            await rig.driver.start(spec)
        with pytest.raises(DriverError):
            await rig.driver.start(msgspec.structs.replace(spec, incarnation=2))

        assert await rig.domain(spec.vm) == before

    async def test_a_missing_disk_refuses_the_start_and_is_not_made(self, rig: DriverRig) -> None:
        disk = a_disk()
        spec = rig.spec(str(uuid.uuid4()), disks=(disk,))

        with pytest.raises(DriverError):
            await rig.driver.start(spec)

        assert await rig.domain(spec.vm) is None
        assert await rig.driver.volume_size(disk.volume) is None

    async def test_an_unknown_machine_type_is_refused(self, rig: DriverRig) -> None:
        spec = rig.spec(str(uuid.uuid4()))

        with pytest.raises(DriverError):
            await rig.driver.start(msgspec.structs.replace(spec, machine_type="pc-q35-99.9"))

        assert await rig.domain(spec.vm) is None

    async def test_a_disk_is_made_once_and_starts_a_vm(self, rig: DriverRig) -> None:
        disk = a_disk()
        percents: list[int] = []

        await rig.driver.create_disk(disk, percents.append)
        with pytest.raises(DriverError):
            await rig.driver.create_disk(disk, percents.append)
        spec = rig.spec(str(uuid.uuid4()), disks=(disk,))
        await rig.driver.start(spec)

        assert await rig.driver.volume_size(disk.volume) == DISK_BYTES
        assert percents[-1] == 100
        assert await rig.domain(spec.vm) is not None

    async def test_volumes_are_removed_and_may_be_missing(self, rig: DriverRig) -> None:
        kept, removed = a_disk(), a_disk()
        await rig.driver.create_disk(kept, ignore_progress)
        await rig.driver.create_disk(removed, ignore_progress)

        await rig.driver.remove_volumes([removed.volume, a_disk().volume])
        await rig.driver.remove_volumes([removed.volume])

        assert await rig.driver.volume_size(removed.volume) is None
        assert await rig.driver.volume_size(kept.volume) == DISK_BYTES

    @pytest.mark.parametrize("path", OUTSIDE)
    async def test_no_path_leads_out_of_the_storage_folder(self, rig: DriverRig, path: str) -> None:
        disk = a_disk(volume=path)

        with pytest.raises(DriverError):
            await rig.driver.create_disk(disk, ignore_progress)
        with pytest.raises(DriverError):
            await rig.driver.remove_volumes([path])
        with pytest.raises(DriverError):
            await rig.driver.start(rig.spec(str(uuid.uuid4()), disks=(disk,)))

    async def test_destroy_ends_this_incarnation_and_no_other(self, rig: DriverRig) -> None:
        spec = await rig.running(incarnation=3)
        await rig.driver.destroy(spec.vm, 2)
        assert await rig.domain(spec.vm) is not None

        await rig.driver.destroy(spec.vm, 3)

        assert await rig.domain(spec.vm) is None
        ended = await rig.until(Happening.ENDED, spec.vm)
        assert (ended.incarnation, ended.reason) == (3, DownReason.ADMIN)
        await rig.driver.destroy(spec.vm, 3)

    async def test_nothing_appears_after_an_abandoned_start_was_destroyed(
        self, rig: DriverRig
    ) -> None:
        spec = rig.spec(str(uuid.uuid4()))
        start = asyncio.create_task(rig.driver.start(spec))
        await asyncio.sleep(0.05)
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)

        await rig.driver.destroy(spec.vm, spec.incarnation)

        assert await rig.domain(spec.vm) is None
        await asyncio.sleep(min(2.0, rig.patience_s / 5))
        assert await rig.domain(spec.vm) is None

    async def test_a_crash_is_told_as_one(self, rig: DriverRig) -> None:
        spec = await rig.running()

        await rig.crash(spec.vm)

        ended = await rig.until(Happening.ENDED, spec.vm)
        assert (ended.incarnation, ended.reason) == (1, DownReason.CRASHED)
        assert await rig.domain(spec.vm) is None

    async def test_a_guest_answers_once_it_is_up(self, rig: DriverRig) -> None:
        spec = await rig.running()

        await rig.until(Happening.GUEST_AGENT, spec.vm)

        guest = await rig.driver.guest(spec.vm, 1)
        assert guest is not None
        assert guest.hostname
        assert all(not address.startswith(("127.", "fe80:")) for address in guest.addresses)
        assert await rig.driver.guest(spec.vm, 2) is None
        assert await rig.driver.guest(str(uuid.uuid4()), 1) is None

    async def test_the_power_button_shuts_a_guest_down(self, rig: DriverRig) -> None:
        spec = await rig.running()
        await rig.until(Happening.GUEST_AGENT, spec.vm)

        await rig.driver.press_power_button(spec.vm, 1)

        ended = await rig.until(Happening.ENDED, spec.vm)
        assert ended.reason is DownReason.GUEST
        assert await rig.domain(spec.vm) is None

    async def test_a_reset_keeps_the_process(self, rig: DriverRig) -> None:
        spec = await rig.running()
        before = await rig.domain(spec.vm)

        await rig.driver.reset(spec.vm, 1)

        await rig.until(Happening.RESET, spec.vm)
        after = await rig.domain(spec.vm)
        assert before is not None
        assert after is not None
        assert after.process == before.process

    async def test_a_saved_vm_is_gone_and_can_be_restored(self, rig: DriverRig) -> None:
        spec = await rig.running()
        memory = f"memory/{spec.vm}-1.save"
        assert await rig.driver.volume_size(memory) is None

        await rig.driver.save(spec.vm, 1, memory)

        assert await rig.domain(spec.vm) is None
        assert await rig.driver.volume_size(memory)
        ended = await rig.until(Happening.ENDED, spec.vm)
        assert ended.reason is DownReason.SUSPENDED
        again = msgspec.structs.replace(spec, incarnation=2, restore_from=memory)
        await rig.driver.start(again)
        domain = await rig.domain(spec.vm)
        assert domain is not None
        assert (domain.incarnation, domain.paused) == (2, False)

    async def test_what_does_not_run_is_neither_saved_nor_pressed_nor_reset(
        self, rig: DriverRig
    ) -> None:
        vm = str(uuid.uuid4())

        with pytest.raises(DriverError):
            await rig.driver.save(vm, 1, "memory/nothing.save")
        with pytest.raises(DriverError):
            await rig.driver.press_power_button(vm, 1)
        with pytest.raises(DriverError):
            await rig.driver.reset(vm, 1)
        with pytest.raises(DriverError):
            await rig.driver.resume(vm, 1)

        assert await rig.driver.volume_size("memory/nothing.save") is None

    async def test_a_paused_vm_is_seen_and_resumed(self, rig: DriverRig) -> None:
        spec = await rig.running()
        await rig.pause(spec.vm)
        paused = await rig.until(Happening.PAUSED, spec.vm)
        domain = await rig.domain(spec.vm)
        assert domain is not None
        assert domain.paused
        assert isinstance(paused.pause_reason, PauseReason)
        assert domain.pause_reason == paused.pause_reason

        await rig.driver.resume(spec.vm, 1)

        await rig.until(Happening.CONTINUED, spec.vm)
        after = await rig.domain(spec.vm)
        assert after is not None
        assert not after.paused

    async def test_an_agents_restart_leaves_domains_alone(self, rig: DriverRig) -> None:
        spec = await rig.running()
        before = await rig.domain(spec.vm)

        await rig.restart()

        await rig.until(Happening.RECONNECTED)
        assert await rig.domain(spec.vm) == before

    async def test_a_hypervisor_that_is_away_is_not_known(self, rig: DriverRig) -> None:
        spec = await rig.running()
        before = await rig.domain(spec.vm)
        await rig.until(Happening.STARTED, spec.vm)

        await rig.take_away()

        await rig.until(Happening.LOST)
        with pytest.raises(UnknownStateError):
            await rig.driver.domains()
        with pytest.raises(UnknownStateError):
            await rig.driver.start(rig.spec(str(uuid.uuid4())))
        await rig.bring_back()
        await rig.until(Happening.RECONNECTED)
        assert await rig.domain(spec.vm) == before

    async def test_samples_name_each_incarnation(self, rig: DriverRig) -> None:
        spec = await rig.running(incarnation=4)

        host, vms = await rig.driver.sample()

        assert host.vms_running == 1
        assert 0 < host.memory_used_bytes <= host.memory_total_bytes
        assert [(sample.vm, sample.incarnation) for sample in vms] == [(spec.vm, 4)]

    async def test_capabilities_say_what_the_host_can_run(self, rig: DriverRig) -> None:
        able = await rig.driver.capabilities()
        spec = rig.spec(str(uuid.uuid4()))

        assert spec.machine_type in able.machine_types
        assert spec.cpu_model in (*able.cpu_models, able.cpu_model)
        assert able.cpus > 0
        assert able.memory_bytes >= spec.configuration.memory_bytes
