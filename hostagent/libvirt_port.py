"""What the driver asks of libvirt: a small port, so that all but one file work without libvirt.

Every call blocks and is made from a thread, one at a time on each connection (`libvirt_lines`). A
connection's type is libvirt's own and nobody else's business. Errors come as DriverError, or as
LostConnectionError when libvirt cannot be asked any more and the outcome of a call that changes
something is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from hostagent.convergence import Copying, Terms
from hostagent.driver import UnknownStateError
from hostagent.libvirt_events import RawEvent
from hostagent.libvirt_xml import Ownership

Connection = Any


class LostConnectionError(UnknownStateError):
    """The connection broke; what was asked may have been done or not."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A domain. `own` is there if it is ours; `paused` is virDomainPausedReason, None for a domain
    whose CPUs run; `running` is virDomainRunningReason of one whose CPUs do; `passing` for one that
    is coming or going: neither running nor paused.
    """

    uuid: str
    name: str
    own: Ownership | None = None
    paused: int | None = None
    running: int | None = None
    passing: bool = False


class HostFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What libvirt knows of the host; versions packed as libvirt does."""

    host_name: str
    cpus: int
    qemu_version: int
    libvirt_version: int
    capabilities_xml: str


class Hypervisor(Protocol):
    """libvirt on one host, named by its URI."""

    def connect(
        self, on_event: Callable[[RawEvent], None], on_over: Callable[[], None]
    ) -> Connection:
        """Open a connection, register for events, and return it; both callables are called from
        a thread of libvirt's.
        """
        ...

    def connect_for_calls(self) -> Connection:
        """Open a connection over which nothing is told."""
        ...

    def disconnect(self, connection: Connection) -> None:
        """Close a connection; domains run on."""
        ...

    def active(self, connection: Connection) -> Sequence[Listed]:
        """Return all domains that are active, or come or go."""
        ...

    def find(self, connection: Connection, uuid: str) -> Listed | None:
        """Return one domain that is active, or comes or goes."""
        ...

    def create(self, connection: Connection, xml: str) -> None:
        """Start a transient domain."""
        ...

    def restore(self, connection: Connection, file: str, xml: str) -> None:
        """Start a domain from saved memory, under this XML; it runs afterwards."""
        ...

    def save(self, connection: Connection, uuid: str, file: str) -> None:
        """Save a domain's memory and end it."""
        ...

    def saved_xml(self, connection: Connection, file: str) -> str:
        """Return the XML in a file of saved memory, secrets included."""
        ...

    def define_saved_xml(self, connection: Connection, file: str, xml: str) -> None:
        """Replace the XML in a file of saved memory."""
        ...

    def destroy(self, connection: Connection, uuid: str) -> None:
        """End a domain's QEMU; no error if there is none."""
        ...

    def press_power_button(self, connection: Connection, uuid: str) -> None:
        """Tell the guest, by ACPI, that its power button was pressed."""
        ...

    def reset(self, connection: Connection, uuid: str) -> None:
        """Reset the machine."""
        ...

    def resume(self, connection: Connection, uuid: str) -> None:
        """Let the CPUs run."""
        ...

    def migrate(
        self, connection: Connection, uuid: str, libvirtd: str, stream: str, terms: Terms
    ) -> None:
        """Move a domain to the libvirtd at the first URI, its memory to the second; there it stands
        still, unless the terms allow post-copy. Returns when nothing of it is left here.
        """
        ...

    def recover(
        self, connection: Connection, uuid: str, libvirtd: str, stream: str, terms: Terms
    ) -> None:
        """Go on with a domain's post-copy that broke off, by new ways to the same destination.
        Returns when nothing of it is left here.
        """
        ...

    def copying(self, connection: Connection, uuid: str) -> Copying | None:
        """Return how far a domain's job has come; None if it has none."""
        ...

    def live_xml(self, connection: Connection, uuid: str, *, secrets: bool = False) -> str:
        """Return the XML of a running domain as another host would be given it."""
        ...

    def allow_down_time(self, connection: Connection, uuid: str, down_time_ms: int) -> None:
        """Allow a domain that is moved to stand still for so long at the switch-over."""
        ...

    def start_post_copy(self, connection: Connection, uuid: str) -> None:
        """Let a domain that is moved go on at its destination at once."""
        ...

    def suspend(self, connection: Connection, uuid: str) -> None:
        """Stop the CPUs of a domain that is moved; libvirt lets them run again if that fails."""
        ...

    def abort_job(self, connection: Connection, uuid: str) -> None:
        """Abort a domain's job; no error if it has none."""
        ...

    def has_no_space(self, connection: Connection, uuid: str) -> bool:
        """Whether a disk of a paused domain stopped for want of space."""
        ...

    def ask_agent(self, connection: Connection, uuid: str, command: str, timeout_s: int) -> str:
        """Return the guest agent's answer (JSON) to a command without arguments."""
        ...

    def statistics(self, connection: Connection) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return the figures of all active domains, by uuid, without waiting for any of them."""
        ...

    def set_balloon(self, connection: Connection, uuid: str, size_kib: int) -> None:
        """Ask a running domain's guest to make do with so much memory."""
        ...

    def figures(self, connection: Connection) -> HostFigures:
        """Return what is known of the host."""
        ...

    def domain_capabilities(
        self, connection: Connection, architecture: str, virtualization: str
    ) -> str:
        """Return libvirt's XML on what domains may be."""
        ...
