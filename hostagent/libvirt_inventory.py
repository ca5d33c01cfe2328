"""What runs on the host, and what the host can do: libvirt and the process table, compared."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Sequence

import msgspec
import structlog

from events.types.host_hardware import Versions
from events.types.vm import PauseReason
from hostagent.driver import Domain, Domains, DriverError, UnknownStateError
from hostagent.libvirt_capabilities import (
    HostAbilities,
    domain_abilities,
    host_abilities,
    version_text,
)
from hostagent.libvirt_events import Paused, Running, held, paused_reason
from hostagent.libvirt_kvm import kvm_is_useful
from hostagent.libvirt_port import Connection, Hypervisor, Listed
from hostagent.libvirt_processes import ProcessTable, Qemu
from hostagent.libvirt_watch import Watch

log = structlog.get_logger()
SETTLE_POLL_S = 0.2
# While it starts or saves a guest, libvirt pauses it; that is no pause of the VM.
PASSING = frozenset({Paused.SAVE, Paused.STARTING_UP, Paused.SHUTTING_DOWN})


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What libvirt and QEMU can do; it changes where one of them, or the kernel, is upgraded."""

    architecture: str
    cpus: int
    cpu_model: str
    cpu_models: tuple[str, ...]
    machine_types: tuple[str, ...]
    hypervisor_version: str
    host_name: str
    emulator: str
    virtualization: str
    capabilities_xml: str
    versions: Versions


def disagreement(
    listing: Sequence[Listed],
    processes: Sequence[Qemu],
    starting: frozenset[str],
    saving: frozenset[str],
) -> str | None:
    """Return where libvirt and the process table do not tell the same; None if they do.

    What this driver itself is just starting or saving is not looked at: it comes and goes.
    """
    running = {qemu.uuid: qemu for qemu in processes}
    listed = {each.uuid: each for each in listing if each.own is not None}
    for uuid, each in listed.items():
        if uuid in starting or uuid in saving:
            continue
        if each.passing or each.paused == Paused.STARTING_UP:
            return f"VM {uuid} is coming or going"
        if uuid not in running:
            return (
                f"libvirt says that VM {uuid} runs, but there is no process of it: does this"
                " agent see the host's processes?"
            )
    known = {each.uuid for each in listing}
    for uuid, qemu in running.items():
        if qemu.ours and uuid not in known and uuid not in starting and uuid not in saving:
            return f"process {qemu.pid} runs VM {uuid}, of which libvirt knows nothing"
    return None


class _Read(msgspec.Struct, frozen=True, kw_only=True):
    """Abilities, over which connection they were read, and of which program of QEMU's."""

    abilities: Abilities
    connection: int
    emulator: tuple[int, ...]


class Inventory:
    """Answers from libvirt and /proc; keeps nothing but what takes long to find out."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        watch: Watch,
        processes: ProcessTable,
        *,
        settle_timeout_s: float,
    ) -> None:
        self._hypervisor = hypervisor
        self._watch = watch
        self._processes = processes
        self._settle_timeout_s = settle_timeout_s
        self._read: _Read | None = None
        self._reading = asyncio.Lock()
        self._kvm: dict[tuple[int, ...], bool] = {}

    async def domains(self) -> Domains:
        """Return all domains. Where libvirt and the process table differ they get a moment to
        agree (one is read after the other); if they do not, nothing is known.
        """
        deadline = asyncio.get_running_loop().time() + self._settle_timeout_s
        while True:
            # Taken before the listing: what is finished since then shows in it.
            starting = frozenset(self._watch.starting)
            saving = dict(self._watch.saving)
            listing = await self._watch.call(self._hypervisor.active)
            processes = await self._watch.work(self._processes.qemus)
            starting |= frozenset(self._watch.starting)
            saving |= self._watch.saving
            problem = disagreement(listing, processes, starting, frozenset(saving))
            if problem is None:
                return await self._describe(listing, processes, starting, saving)
            if asyncio.get_running_loop().time() > deadline:
                raise UnknownStateError(problem)
            await asyncio.sleep(SETTLE_POLL_S)

    async def _describe(
        self,
        listing: Sequence[Listed],
        processes: Sequence[Qemu],
        starting: frozenset[str],
        saving: dict[str, int],
    ) -> Domains:
        pids = {qemu.uuid: qemu.pid for qemu in processes}
        managed = [
            await self._domain(each, each.own.incarnation, pids.get(each.uuid))
            for each in listing
            if each.own is not None and each.uuid not in starting and each.uuid not in saving
        ]
        # Until its memory is in place, a run that is being saved is not over.
        managed += [
            Domain(vm=vm, incarnation=incarnation, process=pids.get(vm))
            for vm, incarnation in saving.items()
        ]
        strangers = tuple(sorted(each.name for each in listing if each.own is None))
        return Domains(managed=tuple(managed), unmanaged=strangers)

    async def _domain(self, listed: Listed, incarnation: int, pid: int | None) -> Domain:
        hold = held(listed.paused, listed.running)
        paused = bool(hold) or (listed.paused is not None and listed.paused not in PASSING)
        reason = PauseReason.OTHER if hold else None
        if paused and listed.paused is not None:
            reason = paused_reason(listed.paused)
        if reason is PauseReason.IO_ERROR:
            reason = await self._io_error(listed.uuid)
        return Domain(
            vm=listed.uuid,
            incarnation=incarnation,
            paused=paused,
            pause_reason=reason,
            held=hold,
            # libvirt gives another reason once all has come.
            fetching=listed.running == Running.POSTCOPY,
            process=pid,
        )

    async def _io_error(self, vm: str) -> PauseReason:
        """Return the cause as it was told, or, after a restart of the agent, as far as libvirt
        still knows it.
        """
        told = self._watch.interpreter.pause_cause(vm)
        if told is not None:
            return told

        def full(libvirt: Connection) -> bool:
            return self._hypervisor.has_no_space(libvirt, vm)

        try:
            return PauseReason.NO_SPACE if await self._watch.call(full) else PauseReason.IO_ERROR
        except DriverError:
            return PauseReason.IO_ERROR

    async def abilities(self, wanted_virtualization: str, *, anew: bool = False) -> Abilities:
        """Return what the host can do.

        It is kept, since libvirt starts QEMU to find out. It is read anew where that is asked for,
        over a new connection (libvirt was perhaps upgraded), and where QEMU's program is another.
        Where it cannot be read then, what is known counts, until it can.
        """
        async with self._reading:
            known = self._read
            if known is not None and not anew and await self._is_current(known):
                return known.abilities
            try:
                self._read = await self._read_anew(wanted_virtualization)
            except DriverError as error:
                if known is None:
                    raise
                log.warning("abilities_not_read_anew", error=str(error))
                return known.abilities
            return self._read.abilities

    async def _is_current(self, read: _Read) -> bool:
        if read.connection != self._watch.connections:
            return False
        return read.emulator == await self._program(read.abilities.emulator)

    async def _program(self, emulator: str) -> tuple[int, ...]:
        """Return what tells a program from the one that takes its place; () where it is away."""
        path = self._processes.of_host / "root" / emulator.lstrip("/")

        def look() -> tuple[int, ...]:
            try:
                found = path.stat()
            except OSError:
                return ()
            return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

        return await self._watch.work(look)

    async def _has_kvm(self, host: HostAbilities) -> bool:
        """Tell whether KVM is of use; tried once for each program of QEMU's, since it may take long
        on a busy host, which is no reason to run guests without it from then on.
        """
        if "kvm" not in host.virtualizations:
            return False
        device = self._processes.of_host / "root" / "dev" / "kvm"
        program = await self._program(host.emulator)
        if program not in self._kvm:
            useful = await self._watch.work(lambda: kvm_is_useful(host.emulator, device))
            self._kvm = {program: useful}
        return self._kvm[program]

    async def _read_anew(self, wanted_virtualization: str) -> _Read:
        connection = self._watch.connections
        figures = await self._watch.call(self._hypervisor.figures)
        host = host_abilities(figures.capabilities_xml)
        kind = wanted_virtualization
        if kind == "auto":
            kind = "kvm" if await self._has_kvm(host) else "qemu"
        program = await self._program(host.emulator)
        xml = await self._watch.call(
            lambda libvirt: self._hypervisor.domain_capabilities(libvirt, host.architecture, kind)
        )
        domain = domain_abilities(xml)
        if domain.emulator != host.emulator:
            program = await self._program(domain.emulator)
        abilities = Abilities(
            architecture=host.architecture,
            cpus=figures.cpus,
            cpu_model=host.cpu_model or domain.host_cpu_model,
            cpu_models=domain.cpu_models,
            machine_types=host.machine_types,
            hypervisor_version=f"QEMU {version_text(figures.qemu_version)},"
            f" libvirt {version_text(figures.libvirt_version)}",
            host_name=figures.host_name,
            emulator=domain.emulator,
            virtualization=kind,
            capabilities_xml=figures.capabilities_xml,
            versions=Versions(
                kernel=platform.release(),
                libvirt=version_text(figures.libvirt_version),
                qemu=version_text(figures.qemu_version),
            ),
        )
        return _Read(abilities=abilities, connection=connection, emulator=program)
