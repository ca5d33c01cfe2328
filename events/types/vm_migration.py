"""Events of a running VM's move to another host: on the VM's own stream `vm/<id>`.

The incarnation stays the same. The destination may run the VM from `vm.migration_started` on, which
comes before the source is ordered to send it; the place moves with `vm.migration_departed`, when
the source promised that it runs the VM no more; only then may the destination let it run.
"""

from __future__ import annotations

import enum
from typing import ClassVar

from events.claims import Claim, check, release, shared
from events.types.base import Audit, Event, Severity, event
from events.types.host import gate_key
from events.types.migration import Held
from events.types.vm import DownReason
from events.types.vm_tuning import Dedicated


class MigrationCause(enum.StrEnum):
    """Why a VM is moved."""

    REQUESTED = "requested"
    MAINTENANCE = "maintenance"
    BALANCING = "balancing"
    AFFINITY = "affinity"
    UNFIT_HOST = "unfit_host"


@event("vm.migration_requested")
class VmMigrationRequested(Event, frozen=True, kw_only=True):
    """Somebody wants the VM to run on another host, which is to be chosen."""

    name: str
    incarnation: int
    cause: MigrationCause = MigrationCause.REQUESTED

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=12_002,
            name="MIGRATION_REASON_HOST_IN_MAINTENANCE",
            message="VM {name} is to leave its host, which goes into maintenance.",
        ),
        Audit(
            code=12_001,
            name="MIGRATION_REASON_LOAD_BALANCING",
            message="VM {name} is to move, to spread the load of its cluster.",
        ),
        Audit(
            code=12_000,
            name="MIGRATION_REASON_AFFINITY_ENFORCEMENT",
            message="VM {name} is to move, to keep to its affinity groups.",
        ),
        Audit(
            code=60_501,
            name="MIGRATION_REASON_UNFIT_HOST",
            message="VM {name} is to leave its host, which is not fit for its cluster.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of a policy's request; a person's is told by what follows."""
        of_cause = (
            MigrationCause.MAINTENANCE,
            MigrationCause.BALANCING,
            MigrationCause.AFFINITY,
            MigrationCause.UNFIT_HOST,
        )
        return self.audits[of_cause.index(self.cause)] if self.cause in of_cause else None


@event("vm.migration_started")
class VmMigrationStarted(Event, frozen=True, kw_only=True):
    """The destination is to take the VM in (addressed to it), and may run it from now on.

    `dedicated` are the CPUs that are the VM's alone there.
    """

    name: str
    incarnation: int
    migration: str
    host: str
    host_name: str
    destination: str
    destination_name: str
    dedicated: Dedicated | None = None

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=62,
            name="VM_MIGRATION_START",
            message="VM {name} migrates from host {host_name} to host {destination_name}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Refer to the destination, whose gate must be open."""
        return (
            check(gate_key(self.destination), stream),
            shared(f"host/{self.destination}", f"{stream}/incoming"),
        )


@event("vm.migration_cancelling")
class VmMigrationCancelling(Event, frozen=True, kw_only=True):
    """The source is to stop sending (addressed to it); it may be too late for that."""

    name: str
    migration: str
    host: str


@event("vm.migration_arrived")
class VmMigrationArrived(Event, frozen=True, kw_only=True):
    """The destination runs the VM; the source has not yet said that it does not."""

    name: str
    incarnation: int
    destination: str


@event("vm.migration_departed")
class VmMigrationDeparted(Event, frozen=True, kw_only=True):
    """The source runs the VM no more, for certain: its place is the destination (addressed to it).

    `reason` is migrated, or why the run ended on the source; then it may have ended with it.
    """

    name: str
    incarnation: int
    host: str
    destination: str
    destination_name: str
    reason: DownReason
    detail: str = ""

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Refer to the destination instead of the source."""
        return (
            release(f"host/{self.host}", stream),
            release(f"host/{self.destination}", f"{stream}/incoming"),
            shared(f"host/{self.destination}", stream),
        )


@event("vm.migrated")
class VmMigrated(Event, frozen=True, kw_only=True):
    """The VM runs on the destination, and not on the source.

    `disks_from` is the host that its disks were looked for on so far, "" if that does not change.
    """

    name: str
    incarnation: int
    host: str
    host_name: str
    disks_from: str = ""

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=63,
            name="VM_MIGRATION_DONE",
            message="VM {name} runs on host {host_name} now.",
            resolves="VM_MIGRATION_START",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Refer to the host for the disks as well: they lie where both hosts see them."""
        if not self.disks_from:
            return ()
        return (
            release(f"host/{self.disks_from}", f"{stream}/disks"),
            shared(f"host/{self.host}", f"{stream}/disks"),
        )


@event("vm.migration_failed")
class VmMigrationFailed(Event, frozen=True, kw_only=True):
    """The VM runs on as before on its host; a destination is to drop its half (addressed to it)."""

    name: str
    incarnation: int
    host_name: str
    destination: str = ""
    reason: str


@event("vm.migration_retried")
class VmMigrationRetried(Event, frozen=True, kw_only=True):
    """The destination did not take the VM in, and is to drop what it has (addressed to it); another
    one is to be found.
    """

    name: str
    incarnation: int
    host_name: str
    destination: str
    destination_name: str
    reason: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=128,
            name="VM_MIGRATION_TRYING_RERUN",
            severity=Severity.WARNING,
            message="VM {name} could not be migrated to host {destination_name} ({reason})."
            " Another host is tried.",
        ),
    )


@event("vm.migration_held")
class VmMigrationHeld(Event, frozen=True, kw_only=True):
    """A hypervisor stopped the VM in the midst of its migration, and cannot bring that to its end.

    The VM runs neither at its source nor at its destination, as far as they know. `host` is the one
    that says so: at the switch-over its source, in post-copy either.
    """

    name: str
    incarnation: int
    host: str
    host_name: str
    reason: str
    held: Held = Held.SWITCH_OVER

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_302,
            name="VM_MIGRATION_HELD",
            severity=Severity.WARNING,
            message="VM {name} is stopped on host {host_name} in the midst of its migration:"
            " {reason}",
        ),
    )


@event("vm.migration_mended")
class VmMigrationMended(Event, frozen=True, kw_only=True):
    """Both hosts reach each other again, and the VM goes on at the destination, to which the rest
    of its memory comes. It had been held in post-copy.
    """

    name: str
    incarnation: int
    host_name: str
    destination_name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_304,
            name="VM_MIGRATION_MENDED",
            message="VM {name} goes on at host {destination_name}: the rest of its memory comes"
            " from host {host_name} again.",
            resolves="VM_MIGRATION_HELD",
        ),
    )


@event("vm.migration_lost")
class VmMigrationLost(Event, frozen=True, kw_only=True):
    """Half of the VM's memory is gone for good: its run is over.

    The host that holds the other half (the addressee) is to drop it. If that turns out to be whole
    after all, it stays. `reason` and `detail` are those of the run's end. `lost_host_name` is ""
    where nobody knows of the migration any more: a half was found after a restore.
    """

    name: str
    incarnation: int
    host: str
    host_name: str
    lost_host_name: str
    reason: DownReason
    detail: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_305,
            name="VM_MIGRATION_HALF_LOST",
            severity=Severity.ERROR,
            message="Half of VM {name} is lost with host {lost_host_name}: what is left of it on"
            " host {host_name} is ended.",
            resolves="VM_MIGRATION_HELD",
        ),
        Audit(
            code=60_306,
            name="VM_HALF_FOUND",
            severity=Severity.ERROR,
            message="Only half of VM {name} is on host {host_name}, and nothing is known of a"
            " migration by which it could go on: what is left of it there is ended.",
            resolves="VM_MIGRATION_HELD",
        ),
    )

    def audit(self) -> Audit:
        """Return the record; it names the host that has lost its half, where that is known."""
        return self.audits[0 if self.lost_host_name else 1]


@event("vm.migration_recalled")
class VmMigrationRecalled(Event, frozen=True, kw_only=True):
    """The destination is to drop what it has of the VM (addressed to it): it never ran there, and
    is to go on at the source.
    """

    name: str
    incarnation: int
    host_name: str
    destination: str


@event("vm.migration_released")
class VmMigrationReleased(Event, frozen=True, kw_only=True):
    """The source is to let the VM go on (addressed to it): the destination has nothing of it."""

    name: str
    incarnation: int
    host: str
    host_name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_303,
            name="VM_MIGRATION_RELEASED",
            message="VM {name} is let go on at host {host_name}: the other host has nothing of it.",
            resolves="VM_MIGRATION_HELD",
        ),
    )


@event("vm.migration_dropped")
class VmMigrationDropped(Event, frozen=True, kw_only=True):
    """The destination has nothing of the VM, for certain."""

    name: str
    incarnation: int
    destination: str

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """The VM is not coming to the host any more."""
        return (release(f"host/{self.destination}", f"{stream}/incoming"),)
