"""What a simulated hypervisor is made of: its domains, volumes and faults, kept in one file.

The file plays the part of the machine: it outlives the agent, as QEMU outlives its agent. Times are
seconds since 1970. What a domain does by itself (appear, boot, shut down) has a due time here, so
that it also happens while no agent looks.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from events.types.migration import Held
from events.types.run_spec import RunSpec
from events.types.vm import DownReason, PauseReason
from hostagent.driver import DriverError, DriverEvent, Happening
from hostagent.files import read_bounded

NEVER = 1e18
"""Later than any time; finite, because JSON knows no infinity."""


class Volume(msgspec.Struct, kw_only=True):
    """A file of the simulated storage folder; `memory_of` is "<vm>:<incarnation>" for memory."""

    size_bytes: int
    memory_of: str = ""


class SimulatedDomain(msgspec.Struct, kw_only=True):
    """A domain: in being started until `ready`, booting until `boots`, gone at `ends`.

    `coming` while it comes in by a migration, `leaving` from the switch-over until it is gone.
    `half` of its memory is here where post-copy broke off; until `notices` it runs on nevertheless.
    A `busy` one takes all of its CPUs.
    """

    vm: str
    incarnation: int
    name: str
    process: int
    cpus: int
    memory_bytes: int
    machine_type: str = ""
    cpu_model: str = ""
    macs: tuple[str, ...] = ()
    ready: float = 0.0
    boots: float | None = None
    ends: float | None = None
    announced: bool = False
    booted: bool = False
    hung: bool = False
    busy: bool = False
    held: bool = False
    paused: PauseReason | None = None
    coming: bool = False
    leaving: bool = False
    half: bool = False
    notices: float | None = None

    @property
    def hold(self) -> Held | None:
        """How it is held for a migration."""
        if not self.held:
            return None
        return Held.POST_COPY if self.half else Held.SWITCH_OVER


class MigrationFault(enum.StrEnum):
    """What goes wrong with migrations."""

    NONE = ""
    REFUSE = "refuse"  # nothing is taken in
    FAIL = "fail"  # what is sent fails while its memory is copied
    HOLD = "hold"  # what is sent stays held at the switch-over, and so does its other half
    BREAK = "break"  # what is sent breaks off in post-copy: half of it is held at either host


class Faults(msgspec.Struct, kw_only=True):
    """What is wrong with the host, until told otherwise; durations in seconds.

    `start_failures` counts the starts that are still to fail (-1: all), with `start_failure`.
    Copying a VM's memory to another host takes `migration_s` and, with `migration_busy`, comes to
    no end by itself, because the guest writes too much. Where it breaks off in post-copy, the
    other host notices that after `notice_s`.
    """

    start_failures: int = 0
    start_failure: str = "the simulated hypervisor was told to refuse"
    hang_starts: bool = False
    start_s: float = 0.0
    boot_s: float = 0.0
    shutdown_s: float = 0.0
    save_s: float = 0.0
    copy_s: float = 0.0
    migration_s: float = 0.0
    migration_busy: bool = False
    migration_fault: MigrationFault = MigrationFault.NONE
    notice_s: float = 0.0
    deaf: bool = False
    silent: bool = False
    away: bool = False


class Machine(msgspec.Struct, kw_only=True):
    """The whole simulated machine."""

    boot: str = msgspec.field(default_factory=lambda: str(uuid.uuid4()))
    domains: dict[str, SimulatedDomain] = msgspec.field(default_factory=dict)
    volumes: dict[str, Volume] = msgspec.field(default_factory=dict)
    unmanaged: tuple[str, ...] = ()
    process_next: int = 1_000
    faults: Faults = msgspec.field(default_factory=Faults)

    @property
    def announced(self) -> list[SimulatedDomain]:
        """The domains that are there, those that are still being started left out."""
        return [domain for domain in self.domains.values() if domain.announced]

    def next_due(self) -> float:
        """Return when something happens by itself next; NEVER if nothing will."""
        due = [NEVER]
        for domain in self.domains.values():
            if not domain.announced:
                due.append(domain.ready)
            elif not domain.booted and domain.boots is not None:
                due.append(domain.boots)
            due += [when for when in (domain.ends, domain.notices) if when is not None]
        return min(due)

    def advance(self, now: float) -> list[DriverEvent]:
        """Let happen what is due by `now`; return what a driver tells of it."""
        told: list[DriverEvent] = []
        for domain in list(self.domains.values()):
            if not domain.announced and domain.ready <= now:
                domain.announced = True
                told.append(tell(Happening.STARTED, domain))
            booting = domain.announced and not domain.booted and not domain.hung
            if booting and domain.boots is not None and domain.boots <= now:
                domain.booted = True
                told.append(tell(Happening.GUEST_AGENT, domain))
            if domain.notices is not None and domain.notices <= now:
                self.break_off(domain)
                told.append(tell(Happening.PAUSED, domain))
            if domain.ends is not None and domain.ends <= now:
                del self.domains[domain.vm]
                told.append(tell(Happening.ENDED, domain, reason=DownReason.GUEST))
        return told

    def find(self, vm: str, incarnation: int) -> SimulatedDomain | None:
        """Return the domain of an incarnation, also while it is being started."""
        domain = self.domains.get(vm)
        return domain if domain is not None and domain.incarnation == incarnation else None

    def recover(self) -> None:
        """Settle what a migration left, as a hypervisor does whose line to the other one broke:
        what was coming is dropped, what was about to leave runs on.
        """
        for domain in list(self.domains.values()):
            if domain.coming:
                del self.domains[domain.vm]
            elif domain.leaving:
                domain.leaving, domain.held, domain.paused = False, False, None

    def receive(self, coming: SimulatedDomain) -> SimulatedDomain:
        """Have a domain that comes in: held until it is whole."""
        there = msgspec.structs.replace(
            coming,
            process=self.process_next,
            coming=True,
            held=True,
            paused=PauseReason.OTHER,
            ends=None,
        )
        self.process_next += 1
        self.domains[there.vm] = there
        return there

    def settle(self, there: SimulatedDomain, whole: SimulatedDomain) -> None:
        """Let what came in whole stand still, as its source left it."""
        there.booted, there.boots, there.ends = whole.booted, whole.boots, whole.ends
        there.hung, there.busy = whole.hung, whole.busy
        there.coming, there.held, there.paused = False, False, PauseReason.ADMIN
        there.half, there.notices = False, None

    def break_off(self, domain: SimulatedDomain, notices: float | None = None) -> None:
        """Have a part of a domain's memory at another host, and no line between the two; with
        `notices` it runs on until then.
        """
        domain.coming, domain.leaving = False, False
        domain.half, domain.notices = True, notices
        domain.held = notices is None
        domain.paused = PauseReason.OTHER if notices is None else None

    def forget(self, domain: SimulatedDomain) -> bool:
        """Drop this very domain; False if it is gone already."""
        if self.domains.get(domain.vm) is not domain:
            return False
        del self.domains[domain.vm]
        return True

    def admit(self, spec: RunSpec, volumes: Mapping[str, Volume], now: float) -> SimulatedDomain:
        """Begin to start an incarnation; raises DriverError where a real host would."""
        if spec.vm in self.domains:
            there = self.domains[spec.vm].incarnation
            raise DriverError(f"VM {spec.vm} is here already, as incarnation {there}")
        for disk in spec.configuration.disks:
            if inside(disk.volume) not in volumes:
                raise DriverError(f"volume {disk.volume!r} does not exist")
        if spec.restore_from is not None:
            memory = volumes.get(inside(spec.restore_from))
            if memory is None or not memory.memory_of.startswith(f"{spec.vm}:"):
                raise DriverError(f"{spec.restore_from!r} is no saved memory of this VM")
        faults = self.faults
        if faults.start_failures:
            faults.start_failures -= faults.start_failures > 0
            raise DriverError(faults.start_failure)
        ready = NEVER if faults.hang_starts else now + faults.start_s
        boot_s = 0.0 if spec.restore_from is not None else faults.boot_s
        domain = SimulatedDomain(
            vm=spec.vm,
            incarnation=spec.incarnation,
            name=spec.name,
            process=self.process_next,
            cpus=spec.configuration.topology.count,
            memory_bytes=spec.configuration.memory_bytes,
            machine_type=spec.machine_type,
            cpu_model=spec.cpu_model,
            macs=tuple(nic.mac for nic in spec.configuration.nics),
            ready=ready,
            boots=ready + boot_s,
        )
        self.process_next += 1
        self.domains[spec.vm] = domain
        return domain


def load_machine(path: Path, faults: Faults | None) -> Machine:
    """Return the machine in a file, after an agent's death or anew; with `faults` if given."""
    with contextlib.suppress(FileNotFoundError):
        machine = msgspec.json.decode(read_bounded(path), type=Machine)
        machine.recover()
        if faults is not None:
            machine.faults = faults
        return machine
    return Machine(faults=faults or Faults())


class Do(enum.StrEnum):
    """What a simulated machine can be told to do; see `Control`."""

    CRASH = "crash"
    GUEST_POWER_OFF = "guest_power_off"
    RESET = "reset"
    PAUSE = "pause"
    HANG = "hang"
    BUSY = "busy"
    ADD_UNMANAGED = "add_unmanaged"
    FAULTS = "faults"
    POWER_OFF = "power_off"


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """A word to a simulated machine, by method or by a file of this as JSON.

    `vm` names the VM to crash, power off, reset, pause (for `pause_reason`) or hang, or that takes
    all of its CPUs from now on (busy); `faults` replaces all faults; `off_s` is how long a machine
    without power stays off.
    """

    do: Do
    vm: str = ""
    pause_reason: PauseReason = PauseReason.IO_ERROR
    name: str = ""
    faults: Faults | None = None
    off_s: float = 0.0


def tell(
    happening: Happening, domain: SimulatedDomain, reason: DownReason | None = None
) -> DriverEvent:
    """Return what a driver tells of a domain."""
    return DriverEvent(
        happening=happening,
        vm=domain.vm,
        incarnation=domain.incarnation,
        reason=reason,
        pause_reason=domain.paused,
    )


def inside(name: str) -> str:
    """Return a path of the storage folder as it is stored; raises DriverError if it leads out."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise DriverError(f"path {name!r} is not inside the storage folder")
    return str(path)


def address_of(mac: str) -> str:
    """Return the address that a guest's interface gets: unique, since MAC addresses are."""
    low = mac.replace("-", ":").split(":")[-3:]
    return "10." + ".".join(str(int(part, 16)) for part in low)


def hash_fraction(*parts: object) -> float:
    """Return a number in [0, 1) that always is the same for the same parts."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32
