"""Orders to hosts: events addressed to the host that is to carry them out."""

from __future__ import annotations

from commands.state.vm import OpenJob, Run, VmState
from events.envelope import NewEvent
from events.types.job import Job, JobKind
from events.types.vm_jobs import VmJobOrdered, VmJobWithdrawn
from events.types.vm_power import VmStopRequested

_ABOUT_A_RUN = frozenset(
    {
        JobKind.VM_SHUTDOWN,
        JobKind.VM_REBOOT,
        JobKind.VM_SUSPEND,
        JobKind.VM_CONTINUE,
        JobKind.VM_MIGRATE,
    }
)


def order_job(job: Job, host: str) -> NewEvent:
    """Order a host to do a job."""
    return NewEvent(f"vm/{job.vm}", VmJobOrdered(job=job, host=host), addressee=host)


def withdraw_job(entry: OpenJob) -> NewEvent:
    """Take a job back."""
    withdrawn = VmJobWithdrawn(job=entry.job.id, kind=entry.job.kind, host=entry.host)
    return NewEvent(f"vm/{entry.job.vm}", withdrawn, addressee=entry.host)


def withdraw_run_jobs(state: VmState) -> tuple[NewEvent, ...]:
    """Take back every open job that is about the VM's current run."""
    return tuple(withdraw_job(entry) for entry in state.jobs if entry.job.kind in _ABOUT_A_RUN)


def is_outdated(entry: OpenJob, restored: int) -> bool:
    """Tell whether a job is about a run and was ordered before the log was restored.

    `restored` is that position, 0 for never. The job may have been done, or taken back, in what the
    log has lost: done again, a guest would be shut down that somebody needs. Work on files is done
    again without harm.
    """
    return entry.job.kind in _ABOUT_A_RUN and entry.position <= restored


def order_stop(state: VmState, run: Run) -> NewEvent:
    """Order the host of a run to power it off."""
    requested = VmStopRequested(name=state.name, host=run.host, incarnation=run.incarnation)
    return NewEvent(f"vm/{state.id}", requested, addressee=run.host)
