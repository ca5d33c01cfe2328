"""Events of a VM's disks, and of jobs that hosts do for it: stream `vm/<id>`."""

from __future__ import annotations

from typing import ClassVar

from events.claims import Claim, check, shared
from events.types.base import Audit, Event, event
from events.types.host import gate_key
from events.types.job import Job, JobKind


@event("vm.disks_assigned")
class VmDisksAssigned(Event, frozen=True, kw_only=True):
    """The VM's disks lie (or will lie) on this host, which therefore cannot be removed."""

    host: str
    host_name: str

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Refer to the host; its gate must be open."""
        return (check(gate_key(self.host), stream), shared(f"host/{self.host}", f"{stream}/disks"))


@event("vm.disks_ready")
class VmDisksReady(Event, frozen=True, kw_only=True):
    """All disks of the VM exist; it can be started."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=53, name="USER_ADD_VM_FINISHED_SUCCESS", message="VM {name} is complete."),
    )


@event("vm.disks_failed")
class VmDisksFailed(Event, frozen=True, kw_only=True):
    """The VM's disks could not be made; the VM can only be removed."""

    name: str
    reason: str


@event("vm.job_ordered")
class VmJobOrdered(Event, frozen=True, kw_only=True):
    """A host is to do a job on the VM (addressed to that host)."""

    job: Job
    host: str


@event("vm.job_done")
class VmJobDone(Event, frozen=True, kw_only=True):
    """The host did the job."""

    job: str
    kind: JobKind
    host: str


@event("vm.job_failed")
class VmJobFailed(Event, frozen=True, kw_only=True):
    """The host could not do the job, and why; `elsewhere`: another destination may be tried."""

    job: str
    kind: JobKind
    host: str
    reason: str
    elsewhere: bool = False


@event("vm.job_withdrawn")
class VmJobWithdrawn(Event, frozen=True, kw_only=True):
    """The job is not wanted any more (addressed to the host)."""

    job: str
    kind: JobKind
    host: str
