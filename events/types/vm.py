"""Events of virtual machines: stream `vm/<id>`.

An incarnation is a run of the VM: its number rises by one at every `vm.placed` and is kept through
a suspend's restore only as history, never reused. Events addressed to a host are orders for it.
"""

from __future__ import annotations

import enum
from typing import ClassVar

from events.claims import Claim, check, exclusive, release, shared, swapped
from events.types.base import Audit, Event, Severity, event
from events.types.host import gate_key
from events.types.run_spec import RunSpec, VmConfiguration


def name_key(data_center: str, name: str) -> str:
    """Return the claim key of a VM's name, unique within its data center."""
    return f"vm.name/{data_center}/{name.casefold()}"


def mac_key(mac: str) -> str:
    """Return the claim key of a MAC address, unique in the whole installation unless shared."""
    return f"mac/{mac}"


class DownReason(enum.StrEnum):
    """Why a run ended; the first four are the ones that high availability tells apart."""

    GUEST = "guest"  # the guest shut itself down
    ADMIN = "admin"  # an admin asked for it
    HOST_SHUTDOWN = "host_shutdown"  # the host went down in good order
    CRASHED = "crashed"  # QEMU died or the guest panicked
    HOST_LOST = "host_lost"  # the host is proved off, or came back from a reboot
    START_FAILED = "start_failed"  # it never ran: the host could not start it
    WITHDRAWN = "withdrawn"  # it never ran: the order was taken back in time
    SUSPENDED = "suspended"  # its memory is saved
    MIGRATED = "migrated"  # it goes on at another host


NORMAL_REASONS = frozenset(
    {DownReason.GUEST, DownReason.ADMIN, DownReason.WITHDRAWN, DownReason.SUSPENDED}
)


class PauseReason(enum.StrEnum):
    """Why a VM is paused, as in oVirt's pause codes."""

    ADMIN = "admin"
    IO_ERROR = "io_error"
    NO_SPACE = "no_space"
    PERMISSION = "permission"
    OTHER = "other"


@event("vm.created")
class VmCreated(Event, frozen=True, kw_only=True):
    """A VM came to be; its disks, if any, are not made yet.

    `macs_shared`: others whose addresses are shared as well may have the same ones.
    """

    name: str
    data_center: str
    cluster: str
    description: str = ""
    delete_protected: bool = False
    configuration: VmConfiguration
    macs_shared: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=34, name="USER_ADD_VM", message="VM {name} was created by {actor}."),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take name and MAC addresses; keep the cluster from being removed."""
        take = shared if self.macs_shared else exclusive
        return (
            exclusive(name_key(self.data_center, self.name), stream),
            shared(f"cluster/{self.cluster}", stream),
            *(take(mac_key(nic.mac), stream) for nic in self.configuration.nics),
        )


@event("vm.updated")
class VmUpdated(Event, frozen=True, kw_only=True):
    """A VM's settings are now these; the configuration counts from the next run."""

    name: str
    previous_name: str
    data_center: str
    description: str = ""
    delete_protected: bool = False
    configuration: VmConfiguration

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=35, name="USER_UPDATE_VM", message="VM {name} was updated by {actor}."),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Swap the old name for the new one."""
        old = name_key(self.data_center, self.previous_name)
        return swapped(old, name_key(self.data_center, self.name), stream, exclusive)


@event("vm.start_requested")
class VmStartRequested(Event, frozen=True, kw_only=True):
    """Somebody wants the VM to run; a host is to be chosen."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=150, name="USER_INITIATED_RUN_VM", message="Start of VM {name} asked by {actor}."
        ),
    )


@event("vm.start_abandoned")
class VmStartAbandoned(Event, frozen=True, kw_only=True):
    """The start found no host, ran out of attempts or was `cancelled`; the VM is as before."""

    name: str
    reason: str
    cancelled: bool = False


@event("vm.placed")
class VmPlaced(Event, frozen=True, kw_only=True):
    """The VM is to run on this host, as this incarnation (addressed to the host)."""

    name: str
    host: str
    host_name: str
    incarnation: int
    spec: RunSpec

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=153, name="USER_STARTED_VM", message="VM {name} is started on host {host_name}."
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Refer to the host, whose gate must be open."""
        return (check(gate_key(self.host), stream), shared(f"host/{self.host}", stream))


@event("vm.adopted")
class VmAdopted(Event, frozen=True, kw_only=True):
    """A host runs the VM as an incarnation that a restored log does not know: it goes on there.

    `spec` is what that run is taken for: the VM's configuration as the log has it. `memory_host` is
    where a saved memory lies that was used or given up since, `left_host` the destination of a
    migration that is over since. `disks`: they lie with the run.
    """

    name: str
    host: str
    host_name: str
    incarnation: int
    spec: RunSpec
    memory_host: str | None = None
    left_host: str | None = None
    disks: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_072,
            name="VM_ADOPTED",
            severity=Severity.WARNING,
            message="Host {host_name} runs VM {name}, which the restored log does not know"
            " (incarnation {incarnation}); it goes on there.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Refer to the host, whether or not its gate is open: the VM is there."""
        host, memory, left = f"host/{self.host}", self.memory_host, self.left_host
        return (
            shared(host, stream),
            *((release(f"host/{left}", f"{stream}/incoming"),) if left is not None else ()),
            *((release(f"host/{memory}", f"{stream}/memory"),) if memory is not None else ()),
            *((shared(host, f"{stream}/disks"),) if self.disks else ()),
        )


@event("vm.start_withdrawn")
class VmStartWithdrawn(Event, frozen=True, kw_only=True):
    """The host must not start this incarnation any more (addressed to it); it may already have.

    `cancelled`: somebody called the start off.
    """

    name: str
    host: str
    host_name: str
    incarnation: int
    reason: str
    cancelled: bool = False


@event("vm.started")
class VmStarted(Event, frozen=True, kw_only=True):
    """The host runs the incarnation; the guest is booting, or restored from its saved memory.

    A memory that was restored once counts no more: the disks go on from here.
    """

    name: str
    host: str
    host_name: str
    incarnation: int
    restored: bool = False

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """The host need not keep a memory that was restored."""
        return (release(f"host/{self.host}", f"{stream}/memory"),) if self.restored else ()


@event("vm.up")
class VmUp(Event, frozen=True, kw_only=True):
    """The guest is up: its agent answers, or it had the time to boot."""

    name: str
    host: str
    host_name: str
    incarnation: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=32,
            name="USER_RUN_VM",
            message="VM {name} started on host {host_name}.",
            resolves="VM_DOWN_ERROR",
        ),
    )


@event("vm.guest_reported")
class VmGuestReported(Event, frozen=True, kw_only=True):
    """What the guest's agent says of the guest."""

    incarnation: int
    hostname: str = ""
    addresses: tuple[str, ...] = ()
    operating_system: str = ""


@event("vm.paused")
class VmPaused(Event, frozen=True, kw_only=True):
    """The VM's CPUs stand still."""

    name: str
    incarnation: int
    reason: PauseReason

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=1025, name="VM_PAUSED", message="VM {name} is paused."),
        Audit(
            code=145,
            name="VM_PAUSED_EIO",
            severity=Severity.ERROR,
            message="VM {name} is paused: a disk reported an input/output error.",
        ),
        Audit(
            code=138,
            name="VM_PAUSED_ENOSPC",
            severity=Severity.ERROR,
            message="VM {name} is paused: no space is left for a disk.",
        ),
        Audit(
            code=146,
            name="VM_PAUSED_EPERM",
            severity=Severity.ERROR,
            message="VM {name} is paused: access to a disk was denied.",
        ),
        Audit(
            code=139,
            name="VM_PAUSED_ERROR",
            severity=Severity.ERROR,
            message="VM {name} is paused after an error.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of the reason."""
        order = (
            PauseReason.ADMIN,
            PauseReason.IO_ERROR,
            PauseReason.NO_SPACE,
            PauseReason.PERMISSION,
            PauseReason.OTHER,
        )
        return self.audits[order.index(self.reason)]


@event("vm.continued")
class VmContinued(Event, frozen=True, kw_only=True):
    """The VM's CPUs run again."""

    name: str
    incarnation: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=196,
            name="VM_RECOVERED_FROM_PAUSE_ERROR",
            message="VM {name} runs again.",
            resolves="VM_PAUSED_EIO",
        ),
    )


@event("vm.down")
class VmDown(Event, frozen=True, kw_only=True):
    """The incarnation runs no more on the host, for certain, and never will again.

    `restored` says that its saved memory was, or may have been, restored: it counts no more.
    """

    name: str
    host: str
    host_name: str
    incarnation: int
    reason: DownReason
    detail: str = ""
    restored: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=61, name="VM_DOWN", message="VM {name} is down on host {host_name} ({reason})."),
        Audit(
            code=119,
            name="VM_DOWN_ERROR",
            severity=Severity.ERROR,
            message="VM {name} is down with error on host {host_name} ({reason}). {detail}",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the normal record or the error's; what never ran is told by its operation."""
        if self.reason in {DownReason.WITHDRAWN, DownReason.SUSPENDED, DownReason.START_FAILED}:
            return None
        return self.audits[0 if self.reason in NORMAL_REASONS else 1]

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """The VM is no longer on the host, nor is a memory that was restored."""
        memory = (release(f"host/{self.host}", f"{stream}/memory"),) if self.restored else ()
        return (release(f"host/{self.host}", stream), *memory)


@event("vm.remove_requested")
class VmRemoveRequested(Event, frozen=True, kw_only=True):
    """The VM is being removed: its name is free at once, the rest once its volumes are gone."""

    name: str
    data_center: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=60_021, name="USER_REMOVE_VM", message="Removal of VM {name} asked by {actor}."),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Free the name."""
        return (release(name_key(self.data_center, self.name), stream),)


@event("vm.removed")
class VmRemoved(Event, frozen=True, kw_only=True):
    """The VM is gone, with its volumes; MAC addresses and references are free."""

    name: str
    cluster: str
    macs: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=113, name="USER_REMOVE_VM_FINISHED", message="VM {name} was removed."),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Free MAC addresses, the cluster and the hosts that held its disks and memory."""
        return (
            release(f"cluster/{self.cluster}", stream),
            *(release(mac_key(mac), stream) for mac in self.macs),
            *(release(f"host/{host}", f"{stream}/disks") for host in self.hosts),
            *(release(f"host/{host}", f"{stream}/memory") for host in self.hosts),
            exclusive(stream, stream),
        )
