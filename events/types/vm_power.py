"""Events of VMs that are shut down, rebooted, suspended or stopped: stream `vm/<id>`."""

from __future__ import annotations

from typing import ClassVar

from events.claims import Claim, release, shared
from events.types.base import Audit, Event, event


@event("vm.shutdown_requested")
class VmShutdownRequested(Event, frozen=True, kw_only=True):
    """The guest is asked, by its power button, to shut down."""

    name: str
    incarnation: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=73,
            name="USER_INITIATED_SHUTDOWN_VM",
            message="Shutdown of VM {name} asked by {actor}.",
        ),
    )


@event("vm.shutdown_failed")
class VmShutdownFailed(Event, frozen=True, kw_only=True):
    """The guest did not shut down; the VM is up as before."""

    name: str
    incarnation: int
    reason: str


@event("vm.stop_requested")
class VmStopRequested(Event, frozen=True, kw_only=True):
    """The incarnation is to be powered off at once (addressed to its host)."""

    name: str
    host: str
    incarnation: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=33, name="USER_STOP_VM", message="VM {name} is powered off by {actor}."),
    )


@event("vm.reboot_requested")
class VmRebootRequested(Event, frozen=True, kw_only=True):
    """The guest is to be reset."""

    name: str
    incarnation: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=157, name="USER_REBOOT_VM", message="VM {name} is rebooted by {actor}."),
    )


@event("vm.rebooted")
class VmRebooted(Event, frozen=True, kw_only=True):
    """The guest was reset, by an admin or by itself; the incarnation is the same.

    `resets` is how often the host has seen that in this run.
    """

    name: str
    incarnation: int
    resets: int = 0


@event("vm.reboot_failed")
class VmRebootFailed(Event, frozen=True, kw_only=True):
    """The guest was not reset, or nobody knows whether it was; the VM is up as before."""

    name: str
    incarnation: int
    reason: str


@event("vm.suspend_requested")
class VmSuspendRequested(Event, frozen=True, kw_only=True):
    """The VM's memory is to be saved and the run ended."""

    name: str
    incarnation: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=501, name="USER_SUSPEND_VM", message="VM {name} is suspended by {actor}."),
    )


@event("vm.suspended")
class VmSuspended(Event, frozen=True, kw_only=True):
    """The memory of the incarnation lies in this file on this host; the run is over."""

    name: str
    host: str
    host_name: str
    incarnation: int
    saved_memory: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=503, name="USER_SUSPEND_VM_OK", message="VM {name} is suspended."),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """The VM runs there no more, but its saved memory stays."""
        return (
            release(f"host/{self.host}", stream),
            shared(f"host/{self.host}", f"{stream}/memory"),
        )


@event("vm.suspend_failed")
class VmSuspendFailed(Event, frozen=True, kw_only=True):
    """The memory could not be saved; the VM is up as before."""

    name: str
    incarnation: int
    reason: str


@event("vm.memory_discarded")
class VmMemoryDiscarded(Event, frozen=True, kw_only=True):
    """The saved memory counts no more: it was restored once, or given up."""

    name: str
    host: str
    incarnation: int

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """The host need not keep it."""
        return (release(f"host/{self.host}", f"{stream}/memory"),)
