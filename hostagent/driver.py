"""The port behind which a hypervisor lies: libvirt, or a simulation of it.

Every call names the incarnation that it is about, and does nothing to another one. A driver keeps
no truth of its own: what it answers is read from the hypervisor at that moment.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from events.types.host import Capabilities
from events.types.migration import Held
from events.types.run_spec import Disk, RunSpec
from events.types.vm import DownReason, PauseReason
from events.wire.agent import HostSample, VmSample


class DriverError(Exception):
    """The hypervisor refused or failed; the text is for people."""


class UnknownStateError(DriverError):
    """The hypervisor cannot be asked now: what runs is not known (it may well run on)."""


class HalfGoneError(DriverError):
    """The rest of a VM's memory, which was at the other host, is gone."""


class RefusedMessageError(Exception):
    """What another host said has no business in a migration; the text is for people."""


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """A managed domain as it is now. A domain that is being started is not there yet.

    `held` marks a domain that the hypervisor stopped for a migration, and how: the agent never
    resumes it by itself. `fetching`: it came in by post-copy, and runs, but not all of its memory
    is here yet.
    """

    vm: str
    incarnation: int
    paused: bool = False
    pause_reason: PauseReason | None = None
    held: Held | None = None
    fetching: bool = False
    process: int | None = None


class Domains(msgspec.Struct, frozen=True, kw_only=True):
    """All domains of the host: ours, and the names of those that are not managed."""

    managed: tuple[Domain, ...] = ()
    unmanaged: tuple[str, ...] = ()


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest's agent says; addresses without loopback and link-local ones."""

    hostname: str = ""
    addresses: tuple[str, ...] = ()
    operating_system: str = ""


class Happening(enum.StrEnum):
    """What a driver tells of by itself, as soon as it sees it."""

    STARTED = "started"
    ENDED = "ended"
    PAUSED = "paused"
    CONTINUED = "continued"
    RESET = "reset"
    GUEST_AGENT = "guest_agent"  # the guest's agent began to answer
    RECONNECTED = "reconnected"  # callbacks are registered anew: compare everything
    LOST = "lost"  # the hypervisor cannot be asked: nothing is known


class DriverEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened to an incarnation, or (vm "") to the connection."""

    happening: Happening
    vm: str = ""
    incarnation: int = 0
    reason: DownReason | None = None
    pause_reason: PauseReason | None = None
    detail: str = ""


Progress = Callable[[int], None]
"""Called with percent done, from the event loop's thread."""


class Driver(Protocol):
    """What an agent needs of a hypervisor."""

    async def open(self) -> None:
        """Connect and keep connected, in the background, until `close`; never raises for a
        hypervisor that is away (it is told of by LOST and RECONNECTED).
        """
        ...

    async def close(self) -> None:
        """Let go of the hypervisor; domains run on."""
        ...

    def events(self) -> AsyncIterator[DriverEvent]:
        """Yield what happens, in order, for ever; one reader."""
        ...

    async def capabilities(self, *, anew: bool = False) -> Capabilities:
        """Return what the host can do; raises UnknownStateError.

        `anew`: with what may be remembered since it takes a while to find out.
        """
        ...

    async def domains(self) -> Domains:
        """Return all domains, libvirt and the process table agreeing; raises UnknownStateError."""
        ...

    async def start(self, spec: RunSpec) -> None:
        """Start or restore an incarnation; raises DriverError if it certainly does not run."""
        ...

    async def destroy(self, vm: str, incarnation: int) -> None:
        """Power the incarnation off; no error if it is not there. Returns once it is gone."""
        ...

    async def press_power_button(self, vm: str, incarnation: int) -> None:
        """Ask the guest, by ACPI, to shut down."""
        ...

    async def reset(self, vm: str, incarnation: int) -> None:
        """Reset the guest at once."""
        ...

    async def save(self, vm: str, incarnation: int, file: str) -> None:
        """Save memory into `file` of the storage folder and end the run; all or nothing: the file
        appears under its name only when it is whole.
        """
        ...

    async def resume(self, vm: str, incarnation: int) -> None:
        """Let a paused incarnation's CPUs run; refused for one that is held for a migration, or of
        which a part is still on its way.
        """
        ...

    async def guest(self, vm: str, incarnation: int) -> Guest | None:
        """Ask the guest's agent; None if it does not answer within 3 s."""
        ...

    async def create_disk(self, disk: Disk, progress: Progress) -> None:
        """Make the volume (a copy of its image, grown to size, or empty); never overwrites one."""
        ...

    async def volume_size(self, volume: str) -> int | None:
        """Return the virtual size of a whole volume or saved memory file, None if not there."""
        ...

    async def remove_volumes(self, volumes: Sequence[str]) -> None:
        """Remove files inside the storage folder; no error for those that are not there."""
        ...

    async def sample(self) -> tuple[HostSample, Sequence[VmSample]]:
        """Return one sample of the host and of all managed domains, read in bulk."""
        ...
