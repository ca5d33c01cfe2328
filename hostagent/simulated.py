"""A simulated hypervisor behind the driver's port, for scale and for faults.

It behaves as the contract says a hypervisor does, costs next to nothing while idle, and can be told
to fail. Its machine is a file (`simulated_state`), so domains run on while no agent is there. Many
of them live in one process; each folder belongs to one driver at a time.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

from events.types.host import Capabilities
from events.types.run_spec import Disk, RunSpec
from events.types.vm import DownReason, PauseReason
from events.wire.agent import HostSample, VmSample
from hostagent.driver import (
    Domain,
    Domains,
    DriverError,
    DriverEvent,
    Guest,
    Happening,
    Progress,
    UnknownStateError,
)
from hostagent.files import make_private_folder, write_atomically
from hostagent.simulated_hardware import described
from hostagent.simulated_samples import GENEROUS, sample_machine, swapped_out
from hostagent.simulated_state import (
    NEVER,
    Control,
    Do,
    Faults,
    Machine,
    SimulatedDomain,
    Volume,
    address_of,
    inside,
    load_machine,
    tell,
)
from hostagent.simulated_storage import new_volume, pass_copying, shared_id, volumes_of

MACHINE_NAME = "machine.json"
BOOT_ID_NAME = "boot_id"
EVENTS_MAX = 10_000


class SimulatedDriver:
    """One simulated host, kept in `folder`; its volumes as well unless they lie in `storage`, which
    it shares with others (see `make_shared_storage`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        capabilities: Capabilities = GENEROUS,
        faults: Faults | None = None,
        storage: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        make_private_folder(folder)
        self.name = name
        self._folder = folder
        self._capabilities = described(capabilities, name)
        self._clock = clock
        self._told: deque[DriverEvent] = deque()
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._open = False
        self._machine = load_machine(folder / MACHINE_NAME, faults)
        self._volumes = volumes_of(self._machine.volumes, storage)
        if storage is not None:
            self._capabilities = msgspec.structs.replace(
                self._capabilities, storage_id=shared_id(storage)
            )
        self._save()

    @property
    def machine(self) -> Machine:
        """The machine as it was when it was looked at last."""
        return self._machine

    def look(self) -> Machine:
        """Return the machine as it is now; raises UnknownStateError."""
        self._look()
        return self._machine

    def changed(self, *told: DriverEvent) -> None:
        """Keep what was changed in the machine, and tell of it."""
        for event in told:
            self._tell(event)
        self._changed()

    @property
    def boot_id_path(self) -> Path:
        """The file with the simulated machine's boot id."""
        return self._folder / BOOT_ID_NAME

    async def open(self) -> None:
        """Begin to tell what happens; what happened meanwhile is told by RECONNECTED alone."""
        self._open = True
        self._machine.advance(self._clock())
        self._save()
        self._tell(DriverEvent(happening=Happening.LOST if self._away else Happening.RECONNECTED))
        self._arm()

    async def close(self) -> None:
        """Let go; domains run on."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def events(self) -> AsyncIterator[DriverEvent]:
        """Yield what happens, in order, for ever; one reader."""
        while True:
            while self._told:
                yield self._told.popleft()
            self._news.clear()
            await self._news.wait()

    async def capabilities(self, *, anew: bool = False) -> Capabilities:
        """Return what the host can do."""
        del anew  # nothing is remembered
        self._look()
        own = self._machine.volumes  # of a shared folder, nobody counts all
        used = sum(volume.size_bytes for volume in own.values())
        return msgspec.structs.replace(
            self._capabilities,
            storage_free_bytes=max(0, self._capabilities.storage_free_bytes - used),
            swap=swapped_out(self._machine.announced, self._capabilities),
        )

    async def domains(self) -> Domains:
        """Return all domains that are ready."""
        self._look()
        return Domains(
            managed=tuple(
                Domain(
                    vm=domain.vm,
                    incarnation=domain.incarnation,
                    paused=domain.paused is not None,
                    pause_reason=domain.paused,
                    held=domain.hold,
                    fetching=domain.half and not domain.held,
                    process=domain.process,
                )
                for domain in self._machine.announced
            ),
            unmanaged=self._machine.unmanaged,
        )

    async def start(self, spec: RunSpec) -> None:
        """Start or restore an incarnation. A start whose caller goes away goes on by itself."""
        self._look()
        self.check(spec)
        domain = self._machine.admit(spec, self._volumes, self._clock())
        self._changed()
        while not domain.announced:
            await asyncio.sleep(min(1.0, max(0.001, domain.ready - self._clock())))
            self._look()
            if self._machine.domains.get(spec.vm) is not domain:
                raise DriverError("the VM was destroyed while it was being started")

    async def destroy(self, vm: str, incarnation: int) -> None:
        """Power the incarnation off, also one that is being started."""
        self._look()
        domain = self._machine.find(vm, incarnation)
        if domain is not None:
            self._end(domain, DownReason.ADMIN)

    async def press_power_button(self, vm: str, incarnation: int) -> None:
        """Let a guest that listens shut down after the set time."""
        domain = self._running(vm, incarnation)
        listens = domain.booted and not domain.hung and domain.paused is None
        if listens and not self._machine.faults.deaf and domain.ends is None:
            domain.ends = self._clock() + self._machine.faults.shutdown_s
            self._changed()

    async def reset(self, vm: str, incarnation: int) -> None:
        """Reset the guest at once."""
        self._reset(self._running(vm, incarnation))

    async def save(self, vm: str, incarnation: int, file: str) -> None:
        """Save memory and end the run."""
        domain = self._running(vm, incarnation)
        name = inside(file)
        if name in self._volumes:
            raise DriverError(f"{file!r} exists already")
        if self._machine.faults.save_s:
            await asyncio.sleep(self._machine.faults.save_s)
            domain = self._running(vm, incarnation)
        self._volumes[name] = Volume(
            size_bytes=domain.memory_bytes, memory_of=f"{vm}:{incarnation}"
        )
        self._end(domain, DownReason.SUSPENDED)

    async def resume(self, vm: str, incarnation: int) -> None:
        """Let a paused incarnation run."""
        domain = self._running(vm, incarnation)
        if domain.held or domain.half:
            raise DriverError("the VM is held for a migration and is never resumed")
        if domain.paused is not None:
            domain.paused = None
            self._tell(tell(Happening.CONTINUED, domain))
            self._changed()

    async def guest(self, vm: str, incarnation: int) -> Guest | None:
        """Ask the guest's agent; None if it does not answer."""
        self._look()
        domain = self._machine.find(vm, incarnation)
        if domain is None or not domain.booted or domain.hung or domain.paused is not None:
            return None
        if self._machine.faults.silent:
            return None
        return Guest(
            hostname=re.sub(r"[^a-z0-9-]+", "-", domain.name.lower()).strip("-") or "guest",
            addresses=tuple(address_of(mac) for mac in domain.macs),
            operating_system="Simulated Linux 6.1",
        )

    async def create_disk(self, disk: Disk, progress: Progress) -> None:
        """Make the volume, in steps if copies are to take time."""
        self._look()
        name = new_volume(disk, self._volumes)
        await pass_copying(self._machine.faults.copy_s, progress)
        self._look()
        self._volumes[name] = Volume(size_bytes=disk.size_bytes)
        self._changed()
        progress(100)

    async def volume_size(self, volume: str) -> int | None:
        """Return the size of a volume or saved memory, None if it is not there."""
        self._look()
        found = self._volumes.get(inside(volume))
        return None if found is None else found.size_bytes

    async def remove_volumes(self, volumes: Sequence[str]) -> None:
        """Remove files; all names are checked before the first is removed."""
        self._look()
        for name in [inside(volume) for volume in volumes]:
            self._volumes.pop(name, None)
        self._changed()

    async def sample(self) -> tuple[HostSample, Sequence[VmSample]]:
        """Return a sample that depends on nothing but the names and the time."""
        now_able = await self.capabilities()
        return sample_machine(self._machine.announced, now_able, self._clock())

    def control(self, word: Control) -> None:
        """Do what the simulated machine is told, at once; a VM that is not there is ignored."""
        self._machine.advance(self._clock())
        domain = self._machine.domains.get(word.vm)
        match word.do:
            case Do.POWER_OFF:
                self.power_off()
            case Do.FAULTS:
                self._set_faults(word.faults or Faults())
            case Do.ADD_UNMANAGED:
                self._machine.unmanaged = (*self._machine.unmanaged, word.name)
                self._tell(DriverEvent(happening=Happening.STARTED))
            case _ if domain is not None:
                self._control_domain(domain, word)
            case _:
                pass
        self._changed()

    def hold(self, vm: str) -> None:
        """Pause a domain as libvirt does for a migration."""
        domain = self._machine.domains[vm]
        domain.held, domain.paused = True, PauseReason.OTHER
        self._changed()

    def break_off(self, domain: SimulatedDomain, notice_s: float = 0.0) -> None:
        """Leave half of a domain here, which the hypervisor notices after a while."""
        self._machine.break_off(domain, self._clock() + notice_s if notice_s else None)
        happening = Happening.CONTINUED if notice_s else Happening.PAUSED
        self.changed(tell(happening, domain))

    def power_off(self) -> None:
        """Lose the power: all domains are gone, untold, and the machine has a new boot id."""
        self._machine.domains.clear()
        self._machine.unmanaged = ()
        self._machine.boot = str(uuid.uuid4())
        self._told.clear()
        self._changed()

    @property
    def _away(self) -> bool:
        return self._machine.faults.away

    def _control_domain(self, domain: SimulatedDomain, word: Control) -> None:
        match word.do:
            case Do.CRASH:
                self._end(domain, DownReason.CRASHED)
            case Do.GUEST_POWER_OFF:
                self._end(domain, DownReason.GUEST)
            case Do.RESET:
                self._reset(domain)
            case Do.HANG:
                domain.hung = True
            case Do.BUSY:
                domain.busy = True
            case Do.PAUSE:
                domain.paused = word.pause_reason
                self._tell(tell(Happening.PAUSED, domain))
            case _:
                raise ValueError(f"{word.do} is not about a domain")

    def _set_faults(self, faults: Faults) -> None:
        was_away, self._machine.faults = self._away, faults
        if was_away and not faults.away:
            self._tell(DriverEvent(happening=Happening.RECONNECTED))
        elif faults.away and not was_away:
            self._tell(DriverEvent(happening=Happening.LOST))

    def check(self, spec: RunSpec) -> None:
        """Raise DriverError if the host cannot run this."""
        able = self._capabilities
        if spec.machine_type not in able.machine_types:
            raise DriverError(f"machine type {spec.machine_type!r} is not known here")
        if spec.cpu_model not in able.cpu_models:
            raise DriverError(f"CPU model {spec.cpu_model!r} is not known here")
        for nic in spec.configuration.nics:
            if nic.bridge not in able.bridges:
                raise DriverError(f"there is no bridge {nic.bridge!r}")

    def _running(self, vm: str, incarnation: int) -> SimulatedDomain:
        self._look()
        domain = self._machine.find(vm, incarnation)
        if domain is None or not domain.announced:
            raise DriverError(f"incarnation {incarnation} of VM {vm} does not run here")
        return domain

    def _reset(self, domain: SimulatedDomain) -> None:
        domain.booted = False
        domain.boots = self._clock() + self._machine.faults.boot_s
        self._tell(tell(Happening.RESET, domain))
        self._changed()

    def _end(self, domain: SimulatedDomain, reason: DownReason) -> None:
        del self._machine.domains[domain.vm]
        if domain.announced:
            self._tell(tell(Happening.ENDED, domain, reason=reason))
        self._changed()

    def _look(self) -> None:
        if self._away:
            raise UnknownStateError("the simulated hypervisor does not answer")
        self._happen()

    def _happen(self) -> None:
        told = self._machine.advance(self._clock())
        for event in told:
            self._tell(event)
        if told:
            self._save()

    def _changed(self) -> None:
        self._happen()
        self._save()
        self._arm()

    def _arm(self) -> None:
        """Wake when something is due to happen by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._machine.next_due()
        if self._open and due < NEVER:
            delay = max(0.0, due - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        if not self._away:
            self._happen()
            self._arm()

    def _tell(self, event: DriverEvent) -> None:
        told_now = event.happening is Happening.LOST or not self._away
        if not self._open or not told_now:
            return
        if len(self._told) >= EVENTS_MAX:
            self._told.clear()
            event = DriverEvent(happening=Happening.RECONNECTED)
        self._told.append(event)
        self._news.set()

    def _save(self) -> None:
        # Not flushed: the file need only outlive the agent, as a running QEMU does.
        data = msgspec.json.encode(self._machine)
        write_atomically(self._folder / MACHINE_NAME, data, durable=False)
        boot = f"{self._machine.boot}\n".encode()
        if not self.boot_id_path.exists() or self.boot_id_path.read_bytes() != boot:
            write_atomically(self.boot_id_path, boot, durable=False)
