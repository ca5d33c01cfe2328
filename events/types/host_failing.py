"""A host on which starts fail: on the host's stream."""

from __future__ import annotations

from typing import ClassVar

from events.types.base import Audit, Event, Severity, event


@event("host.start_failed")
class HostStartFailed(Event, frozen=True, kw_only=True):
    """A VM could not be started on the host. The VM's own events tell why."""

    name: str
    vm: str
    vm_name: str


@event("host.start_succeeded")
class HostStartSucceeded(Event, frozen=True, kw_only=True):
    """A VM was started on the host after some could not be: those count no more."""

    name: str


@event("host.failing")
class HostFailing(Event, frozen=True, kw_only=True):
    """Several VMs in a row could not be started on the host: it gets none for a while."""

    name: str
    vms: tuple[str, ...]
    told: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=500,
            name="VDS_FAILED_TO_RUN_VMS",
            severity=Severity.ERROR,
            message="Host {name} gets no VMs for a while: {told} could not be started there.",
        ),
    )


@event("host.recovered")
class HostRecovered(Event, frozen=True, kw_only=True):
    """The while is over: the host may be given VMs again."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=14,
            name="VDS_RECOVER",
            message="Host {name} is given VMs again, after starts had failed there.",
            resolves="VDS_FAILED_TO_RUN_VMS",
        ),
    )
