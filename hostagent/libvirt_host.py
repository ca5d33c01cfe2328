"""A host of virtual machines behind the driver's port: what is done with libvirt, and how surely.

Three rules run through it. What libvirt says of a run counts only if the process table agrees. A
call whose outcome is not known says so (UnknownStateError) instead of guessing. And every start and
every save goes on to its end, whether or not its caller still waits.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec
import structlog

from events.types.host import Capabilities
from events.types.run_spec import Disk, RunSpec
from events.wire.agent import HostSample, VmSample
from hostagent.domain_xml import Console, HostFacts, UnusableSpecError, domain_xml, files_of
from hostagent.driver import (
    Domains,
    DriverError,
    DriverEvent,
    Guest,
    Progress,
    UnknownStateError,
)
from hostagent.libvirt_abilities import reported
from hostagent.libvirt_balloons import LibvirtBalloons
from hostagent.libvirt_capabilities import bridges
from hostagent.libvirt_events import Running, held
from hostagent.libvirt_guest import read_guest
from hostagent.libvirt_images import Images
from hostagent.libvirt_inventory import Inventory
from hostagent.libvirt_memory import SavedMemory
from hostagent.libvirt_port import Hypervisor, Listed, LostConnectionError
from hostagent.libvirt_processes import ProcessTable, Qemu
from hostagent.libvirt_samples import Sampler
from hostagent.libvirt_sending import Sender
from hostagent.libvirt_storage import Storage
from hostagent.libvirt_watch import Watch

CONSOLE_PASSWORD_BYTES = 6  # eight letters, all that VNC looks at

log = structlog.get_logger()
T = TypeVar("T")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How the driver behaves; durations in seconds.

    `virtualization` is kvm, qemu, or auto: KVM where the host offers it. `host_process` is the pid
    of any process of the host for a driver that runs outside of the host's namespaces.
    """

    virtualization: str = "auto"
    agent_version: str = ""
    host_process: int | None = None
    call_timeout_s: float = 15.0
    start_timeout_s: float = 300.0
    save_timeout_s: float = 3_600.0
    destroy_timeout_s: float = 60.0
    settle_timeout_s: float = 10.0
    late_start_s: float = 2.0
    guest_timeout_s: int = 3
    retry_min_s: float = 0.2
    retry_max_s: float = 5.0
    console_password_life_s: float = 120.0


class HostDriver:
    """A driver for the host that `hypervisor` speaks to; `storage_folder` must be there."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        storage_folder: Path,
        options: Options,
        *,
        processes: ProcessTable | None = None,
    ) -> None:
        self._hypervisor = hypervisor
        self._options = options
        self._storage = Storage(storage_folder)
        self._processes = processes or ProcessTable(options.host_process)
        self._watch = Watch(
            hypervisor,
            self._processes,
            call_timeout_s=options.call_timeout_s,
            retry_min_s=options.retry_min_s,
            retry_max_s=options.retry_max_s,
        )
        self._inventory = Inventory(
            hypervisor, self._watch, self._processes, settle_timeout_s=options.settle_timeout_s
        )
        self._memory = SavedMemory(hypervisor, self._watch, self._storage, self._inventory)
        self._images = Images(self._storage)
        self._sampler = Sampler(self._processes, self._storage)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        # Starts that are not over yet, and those of them that are to come to nothing.
        self._asked: set[tuple[str, int]] = set()
        self._unwanted: set[tuple[str, int]] = set()
        self._takes_direct_io: bool | None = None
        self.sender = Sender(hypervisor, self._watch, self._needed)
        self.balloons = LibvirtBalloons(hypervisor, self._watch, self._needed)

    @property
    def processes(self) -> ProcessTable:
        """The host's process table."""
        return self._processes

    async def open(self) -> None:
        """Connect and keep connected; tells RECONNECTED when it is, LOST when it is not."""
        await self._watch.start()

    async def close(self) -> None:
        """Let go of libvirt; domains run on, and what was begun goes on inside libvirt."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._watch.stop()

    def events(self) -> AsyncIterator[DriverEvent]:
        """Yield what happens, in order."""
        return self._watch.events()

    async def capabilities(self, *, anew: bool = False) -> Capabilities:
        """Return what the host can do."""
        abilities = await self._inventory.abilities(self._options.virtualization, anew=anew)
        able = await reported(abilities, self._watch, self._processes, self._storage)
        return msgspec.structs.replace(able, agent_version=self._options.agent_version)

    def _bridges(self) -> tuple[str, ...]:
        return bridges(self._processes.of_host / "root" / "sys")

    async def domains(self) -> Domains:
        """Return all domains, libvirt and the process table agreeing."""
        return await self._inventory.domains()

    async def start(self, spec: RunSpec) -> None:
        """Start or restore an incarnation; UnknownStateError if it runs, or may run, already."""
        key = (spec.vm, spec.incarnation)
        if key in self._asked:
            raise UnknownStateError(f"VM {spec.vm} is being started already")
        self._asked.add(key)
        await self._to_the_end(self._start(spec, key), self._options.start_timeout_s)

    async def _start(self, spec: RunSpec, key: tuple[str, int]) -> None:
        try:
            async with self._lock(spec.vm):
                await self._refuse_second_copy(spec)
                await self._start_only(spec, key)
        finally:
            self._asked.discard(key)
            self._unwanted.discard(key)

    async def _refuse_second_copy(self, spec: RunSpec) -> None:
        """Raise unless no copy of the VM is here.

        Where it may be this very run, that is no failed start: the caller has to compare.
        """
        listed = await self._find(spec.vm)
        if listed is not None:
            same = listed.own is None or listed.own.incarnation == spec.incarnation
            error = UnknownStateError if same else DriverError
            raise error(f"VM {spec.vm} runs here already")
        if await self._processes_of(spec.vm):
            raise UnknownStateError(f"VM {spec.vm} has a process of which libvirt knows nothing")

    async def _start_only(self, spec: RunSpec, key: tuple[str, int]) -> None:
        if key in self._unwanted:
            raise DriverError("the start was taken back before it began")
        self._watch.starting[spec.vm] = spec.incarnation
        self._watch.interpreter.know(spec.vm, spec.incarnation)
        failed = False
        try:
            await self._launch(spec)
        except UnknownStateError:
            raise
        except DriverError:
            await self._make_sure_it_is_not_there(spec)
            failed = True
            raise
        finally:
            self._watch.started(spec.vm, failed=failed)

    async def _launch(self, spec: RunSpec) -> None:
        facts = await self._host_facts()
        life = dt.timedelta(seconds=self._options.console_password_life_s)
        console = Console(
            password=secrets.token_urlsafe(CONSOLE_PASSWORD_BYTES),
            valid_to=dt.datetime.now(dt.UTC) + life,
        )
        try:
            xml = domain_xml(spec, facts, console)
        except UnusableSpecError as error:
            raise DriverError(str(error)) from error
        await self._watch.work(lambda: self._check_files(spec))
        if spec.restore_from is None:
            await self._watch.call(lambda libvirt: self._hypervisor.create(libvirt, xml), long=True)
        else:
            await self._memory.restore(spec, spec.restore_from, console)
        log.info("domain_started", vm=spec.vm, incarnation=spec.incarnation)

    async def _make_sure_it_is_not_there(self, spec: RunSpec) -> None:
        """A start that failed leaves nothing behind, or nobody knows."""
        if await self._find(spec.vm) is not None or await self._processes_of(spec.vm):
            raise UnknownStateError(f"the start of VM {spec.vm} failed, and yet it is there")
        self._watch.interpreter.forget(spec.vm, spec.incarnation)

    def _check_files(self, spec: RunSpec) -> None:
        """Everything is there before QEMU is asked; nothing is ever made here."""
        disks = {disk.volume for disk in spec.configuration.disks}
        for name in files_of(spec):
            if name in disks:
                self._storage.check_disk(name)
            else:
                self._storage.existing(name)

    async def _host_facts(self) -> HostFacts:
        abilities = await self._inventory.abilities(self._options.virtualization)
        if self._takes_direct_io is None:
            self._takes_direct_io = await self._watch.work(self._storage.takes_direct_io)
        return HostFacts(
            storage_folder=str(self._storage.folder),
            emulator=abilities.emulator,
            virtualization=abilities.virtualization,
            disk_cache="none" if self._takes_direct_io else "writeback",
        )

    async def destroy(self, vm: str, incarnation: int) -> None:
        """Power the incarnation off, also one that is being started or saved; returns once neither
        libvirt nor the process table has it.
        """
        deadline = time.monotonic() + self._options.destroy_timeout_s
        while not await self._is_gone(vm, incarnation):
            if time.monotonic() > deadline:
                raise UnknownStateError(f"VM {vm} could not be powered off for certain")
            await asyncio.sleep(0.05)

    async def _is_gone(self, vm: str, incarnation: int) -> bool:
        """Do what ends the run, and answer whether nothing of it is there or can still come."""
        listed = await self._find(vm)
        if listed is not None:
            if listed.own is not None and listed.own.incarnation == incarnation:
                limit_s = self._options.destroy_timeout_s
                await self._watch.call(lambda lv: self._hypervisor.destroy(lv, vm), limit_s)
                return False
            # Another run, or a stranger's domain: not ours to end.
            return not listed.passing
        if (vm, incarnation) in self._asked:
            self._unwanted.add((vm, incarnation))
            return False
        processes = await self._processes_of(vm)
        for qemu in processes:
            # libvirt has lost it. A restored guest keeps the strings of the run that it booted in,
            # so only an equal number says for certain which run this is.
            if qemu.booted_incarnation == incarnation:
                log.warning("lost_qemu_killed", vm=vm, process=qemu.pid)
                self._processes.kill(qemu)
        if processes:
            return False
        # libvirtd may be about to do what it was asked over the connection before this one.
        return self._watch.up_for_s() >= self._options.late_start_s

    async def press_power_button(self, vm: str, incarnation: int) -> None:
        """Ask the guest, by ACPI, to shut down."""
        await self._needed(vm, incarnation)
        await self._watch.call(lambda libvirt: self._hypervisor.press_power_button(libvirt, vm))

    async def reset(self, vm: str, incarnation: int) -> None:
        """Reset the guest at once."""
        await self._needed(vm, incarnation)
        self._watch.interpreter.expect_reset(vm)
        await self._watch.call(lambda libvirt: self._hypervisor.reset(libvirt, vm))

    async def resume(self, vm: str, incarnation: int) -> None:
        """Let a paused incarnation's CPUs run."""
        listed = await self._needed(vm, incarnation)
        if held(listed.paused, listed.running) is not None:
            raise DriverError("the VM is held for a migration and is never resumed")
        if listed.running == Running.POSTCOPY:
            raise DriverError("the rest of the VM's memory is still on its way")
        if listed.paused is None:
            return
        if vm in self._watch.saving or vm in self._watch.starting:
            raise DriverError("the VM is being started or suspended")
        await self._watch.call(lambda libvirt: self._hypervisor.resume(libvirt, vm))

    async def save(self, vm: str, incarnation: int, file: str) -> None:
        """Save memory into `file` and end the run."""
        await self._to_the_end(self._save(vm, incarnation, file), self._options.save_timeout_s)

    async def _save(self, vm: str, incarnation: int, file: str) -> None:
        async with self._lock(vm):
            if await self._find(vm) is None and await self._memory.finish(file, vm, incarnation):
                return
            await self._needed(vm, incarnation)
            await self._memory.save(vm, incarnation, file)

    def expect(self, spec: RunSpec) -> None:
        """Know a run that is about to come in, so that what happens to it is told."""
        self._watch.interpreter.know(spec.vm, spec.incarnation, paused=True)

    @property
    def storage_folder(self) -> Path:
        """Where volumes and images lie."""
        return self._storage.folder

    async def guest(self, vm: str, incarnation: int) -> Guest | None:
        """Ask the guest's agent; None if it does not answer in time."""
        limit_s = self._options.guest_timeout_s
        ask = self._hypervisor.ask_agent
        try:
            await self._needed(vm, incarnation)
            return await self._watch.call(
                lambda libvirt: read_guest(functools.partial(ask, libvirt, vm), limit_s),
                limit_s + 1.0,
            )
        except LostConnectionError:
            raise
        except DriverError:
            return None

    async def create_disk(self, disk: Disk, progress: Progress) -> None:
        """Make the volume; never overwrites one."""
        await self._images.create(disk, progress)

    async def volume_size(self, volume: str) -> int | None:
        """Return the virtual size of a whole volume, or the size of whole saved memory.

        Memory that was saved for a driver which did not live to give it its name gets it now.
        """
        size = await self._watch.work(lambda: self._storage.whole_size(volume))
        if size is None and await self._memory.finish(volume):
            size = await self._watch.work(lambda: self._storage.whole_size(volume))
        return size

    async def remove_volumes(self, volumes: Sequence[str]) -> None:
        """Remove files inside the storage folder; all names are checked before any is removed."""
        for name in volumes:
            self._storage.path_to_remove(name)
        for name in volumes:
            await self._watch.work(lambda name=name: self._storage.remove(name))  # type: ignore[misc]

    async def sample(self) -> tuple[HostSample, Sequence[VmSample]]:
        """Return one sample of the host and of all managed domains, read in one call."""
        answer = await self._watch.call(self._hypervisor.statistics)
        known = self._watch.interpreter.incarnation
        records = {(uuid, known(uuid)): record for uuid, record in answer if known(uuid)}
        names = await self._watch.work(self._bridges)
        now, at_s = dt.datetime.now(dt.UTC), time.monotonic()
        return await self._watch.work(
            lambda: self._sampler.sample(records, bridges=names, time=now, at_s=at_s)
        )

    async def _processes_of(self, vm: str) -> list[Qemu]:
        return await self._watch.work(lambda: self._processes.of_vm(vm))

    async def _find(self, vm: str) -> Listed | None:
        return await self._watch.call(lambda libvirt: self._hypervisor.find(libvirt, vm))

    async def _needed(self, vm: str, incarnation: int) -> Listed:
        listed = await self._find(vm)
        if listed is None or listed.own is None or listed.own.incarnation != incarnation:
            raise DriverError(f"incarnation {incarnation} of VM {vm} does not run here")
        return listed

    def _lock(self, vm: str) -> asyncio.Lock:
        return self._locks.setdefault(vm, asyncio.Lock())

    async def _to_the_end(self, work: Coroutine[Any, Any, None], limit_s: float) -> None:
        """Do something that goes on to its end though its caller is cancelled, or waits no longer
        than its limit.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            await asyncio.wait_for(asyncio.shield(task), limit_s)
        except TimeoutError:
            raise UnknownStateError(f"libvirt gave no answer within {limit_s:g} s") from None

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Its caller has the error as well, if it still waits.
            log.info("driver_work_failed", error=str(task.exception()))
