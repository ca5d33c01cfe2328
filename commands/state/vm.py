"""The state of a virtual machine."""

from __future__ import annotations

import enum

import msgspec

from commands.kernel.fold import Fold
from commands.state import vm_availability, vm_hosts, vm_leaving
from commands.state.vm_availability import Availability
from commands.state.vm_hosts import HostChoice
from commands.state.vm_leaving import Leaving
from events.envelope import Recorded
from events.types import vm as e
from events.types import vm_migration as m
from events.types.base import Event
from events.types.job import Job
from events.types.migration import Held, VmMigrationSettings
from events.types.migration_settings import VmMigrationSet
from events.types.run_spec import RunSpec, VmConfiguration
from events.types.vm import PauseReason
from events.types.vm_copies import VmStaleCopyFound, VmStaleCopyGone
from events.types.vm_hosts import VmHostsChosen
from events.types.vm_jobs import (
    VmDisksAssigned,
    VmDisksFailed,
    VmDisksReady,
    VmJobDone,
    VmJobFailed,
    VmJobOrdered,
    VmJobWithdrawn,
)
from events.types.vm_memory import BalloonProblem, VmBalloonReported
from events.types.vm_power import (
    VmMemoryDiscarded,
    VmRebooted,
    VmRebootFailed,
    VmRebootRequested,
    VmShutdownFailed,
    VmShutdownRequested,
    VmStopRequested,
    VmSuspended,
    VmSuspendFailed,
    VmSuspendRequested,
)
from events.types.vm_tuning import Dedicated

FINISHED_JOBS_MAX = 16
"""How many finished jobs are remembered, for the operations that wait for them."""
_TAKEN_BACK = "The order was taken back."


class VmStatus(enum.StrEnum):
    """States of a VM, in oVirt's words where it has them."""

    IMAGE_LOCKED = "image_locked"
    IMAGE_ILLEGAL = "image_illegal"
    DOWN = "down"
    WAITING_FOR_LAUNCH = "waiting_for_launch"
    POWERING_UP = "powering_up"
    RESTORING_STATE = "restoring_state"
    UP = "up"
    PAUSED = "paused"
    REBOOT_IN_PROGRESS = "reboot_in_progress"
    POWERING_DOWN = "powering_down"
    SAVING_STATE = "saving_state"
    MIGRATING = "migrating"
    SUSPENDED = "suspended"
    UNKNOWN = "unknown"
    REMOVING = "removing"
    REMOVED = "removed"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The VM's current run, from being placed until it is down for certain.

    `position` is that from which on it may be there: of `vm.placed`, or of the migration that
    brought it. `withdrawn` and `stopping` say that the host is to end it.
    """

    host: str
    host_name: str
    incarnation: int
    position: int
    spec: RunSpec
    started: bool = False
    restores: bool = False
    withdrawn: bool = False
    stopping: bool = False
    resets: int = 0


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """A move of the run to another host that is not settled on both hosts yet.

    `position` is that of its start. `failed`: the destination is to drop its half. `dropped`: it
    has. `departed`: the source has nothing any more, for `reason`. `arrived`: the destination runs.
    `held`: a hypervisor stopped the VM, and does not know how to go on. `lost`: half of it is gone,
    and the host of the run is to drop the other half; then `reason` is why the run is over.
    """

    id: str
    source: str
    destination: str
    destination_name: str
    position: int
    arrived: bool = False
    failed: bool = False
    dropped: bool = False
    departed: bool = False
    held: Held | None = None
    lost: bool = False
    reason: e.DownReason = e.DownReason.MIGRATED
    detail: str = ""
    dedicated: Dedicated | None = None

    def there(self, spec: RunSpec) -> RunSpec:
        """Return what runs at the destination: the same, but on CPUs that are its own there."""
        return msgspec.structs.replace(spec, dedicated=self.dedicated)


class SavedMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Where the memory of a suspended VM lies; `spec` is that of the run which goes on with it."""

    host: str
    host_name: str
    file: str
    incarnation: int
    spec: RunSpec | None = None


class OpenJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a host was ordered to do and has not answered for."""

    job: Job
    host: str
    position: int


class FinishedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that the host has answered for; `reason` where it failed."""

    id: str
    done: bool
    reason: str = ""
    elsewhere: bool = False


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How the VM's last run ended."""

    incarnation: int
    reason: e.DownReason
    detail: str = ""


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the guest of the current run. `balloon` is why its host gets no memory."""

    hostname: str = ""
    addresses: tuple[str, ...] = ()
    operating_system: str = ""
    balloon: BalloonProblem = BalloonProblem.NONE


class VmState(msgspec.Struct, frozen=True, kw_only=True):
    """A VM, as decisions see it.

    `may_run_on` names the hosts on which a copy may be running; a new incarnation needs it empty.
    `operation` is the id of the operation that last took hold of the VM. `skipped` are pairs of
    incarnations between which none was ever given out: a restore left out those that may have been.
    """

    id: str
    name: str
    data_center: str
    cluster: str
    description: str
    delete_protected: bool
    configuration: VmConfiguration
    configuration_version: int = 1
    status: VmStatus
    incarnation: int = 0
    first_host: str | None = None
    run: Run | None = None
    may_run_on: tuple[str, ...] = ()
    disks_host: str | None = None
    disks_host_name: str = ""
    memory: SavedMemory | None = None
    discarded_memory: tuple[SavedMemory, ...] = ()
    pause_reason: PauseReason | None = None
    guest: Guest = Guest()
    jobs: tuple[OpenJob, ...] = ()
    finished_jobs: tuple[FinishedJob, ...] = ()
    ending: Ending | None = None
    operation: str | None = None
    stale_copies: tuple[tuple[str, int], ...] = ()
    skipped: tuple[tuple[int, int], ...] = ()
    migration: Migration | None = None
    availability: Availability = Availability()
    migrates: VmMigrationSettings = VmMigrationSettings()
    leaving: Leaving = Leaving()
    host_choice: HostChoice = HostChoice()

    def never_ordered(self, incarnation: int) -> bool:
        """Tell whether this log never gave out an incarnation: a restored one has forgotten it."""
        return incarnation > self.incarnation or any(
            before < incarnation < after for before, after in self.skipped
        )

    def job(self, job_id: str) -> OpenJob | None:
        """Return an open job."""
        return next((entry for entry in self.jobs if entry.job.id == job_id), None)

    def finished(self, job_id: str) -> FinishedJob | None:
        """Return how a job ended, if it did so lately."""
        return next((entry for entry in self.finished_jobs if entry.id == job_id), None)


def evolve(state: VmState | None, recorded: Recorded) -> VmState | None:
    """Fold one event of a VM's stream."""
    event = recorded.event
    if isinstance(event, e.VmCreated):
        locked = bool(event.configuration.disks)
        return VmState(
            id=recorded.object_id,
            name=event.name,
            data_center=event.data_center,
            cluster=event.cluster,
            description=event.description,
            delete_protected=event.delete_protected,
            configuration=event.configuration,
            status=VmStatus.IMAGE_LOCKED if locked else VmStatus.DOWN,
            operation=recorded.correlation,
        )
    if state is None:
        return None
    if state.status is VmStatus.REMOVED:
        # A tombstone: only what hosts still owe about it counts.
        for part in (_evolve_jobs, _evolve_copies, _evolve_migration):
            left = part(state, event, recorded)
            if left is not None:
                return left
        return state
    for part in (
        _evolve_settings,
        _evolve_jobs,
        _evolve_run,
        _evolve_requests,
        _evolve_copies,
        _evolve_migration,
    ):
        changed = part(state, event, recorded)
        if changed is not None:
            return _with_availability(state, changed, recorded)
    return _with_availability(state, state, recorded)


def _with_availability(before: VmState, changed: VmState, recorded: Recorded) -> VmState:
    stopping = before.run is not None and before.run.stopping
    asked = stopping or before.status in {VmStatus.POWERING_DOWN, VmStatus.SAVING_STATE}
    available = vm_availability.after(before.availability, recorded, asked=asked)
    leaving = vm_leaving.evolve(before.leaving, recorded)
    if available is before.availability and leaving is before.leaving:
        return changed
    return msgspec.structs.replace(changed, availability=available, leaving=leaving)


def _evolve_settings(state: VmState, event: Event, recorded: Recorded) -> VmState | None:
    change = msgspec.structs.replace
    match event:
        case e.VmUpdated():
            return change(
                state,
                name=event.name,
                description=event.description,
                delete_protected=event.delete_protected,
                configuration=event.configuration,
                configuration_version=state.configuration_version + 1,
            )
        case VmMigrationSet():
            return change(state, migrates=event.migration)
        case VmHostsChosen():
            return change(state, host_choice=vm_hosts.after(state.host_choice, event))
        case VmDisksAssigned():
            return change(state, disks_host=event.host, disks_host_name=event.host_name)
        case VmDisksReady():
            return change(state, status=VmStatus.DOWN)
        case VmDisksFailed():
            return change(state, status=VmStatus.IMAGE_ILLEGAL)
        case e.VmRemoveRequested():
            return change(state, status=VmStatus.REMOVING, operation=recorded.correlation)
        case e.VmRemoved():
            return change(state, status=VmStatus.REMOVED)
        case _:
            return None


def _evolve_jobs(state: VmState, event: Event, recorded: Recorded) -> VmState | None:
    match event:
        case VmJobOrdered():
            entry = OpenJob(job=event.job, host=event.host, position=recorded.position)
            others = (other for other in state.jobs if other.job.id != event.job.id)
            return msgspec.structs.replace(state, jobs=(*others, entry))
        case VmJobDone() | VmJobFailed() | VmJobWithdrawn():
            done = state.job(event.job)
            left = tuple(entry for entry in state.jobs if entry.job.id != event.job)
            memories = state.discarded_memory
            if done is not None and isinstance(event, VmJobDone):
                memories = tuple(m for m in memories if m.file not in done.job.volumes)
            ended = FinishedJob(
                id=event.job,
                done=_done(event),
                reason="" if _done(event) else getattr(event, "reason", _TAKEN_BACK),
                elsewhere=isinstance(event, VmJobFailed) and event.elsewhere,
            )
            return msgspec.structs.replace(
                state,
                jobs=left,
                discarded_memory=memories,
                finished_jobs=(*state.finished_jobs, ended)[-FINISHED_JOBS_MAX:],
            )
        case _:
            return None


def _evolve_run(state: VmState, event: Event, recorded: Recorded) -> VmState | None:
    change = msgspec.structs.replace
    match event:
        case e.VmPlaced():
            run = Run(
                host=event.host,
                host_name=event.host_name,
                incarnation=event.incarnation,
                position=recorded.position,
                spec=event.spec,
                restores=event.spec.restore_from is not None,
            )
            return change(
                state,
                run=run,
                incarnation=event.incarnation,
                first_host=event.spec.first_host,
                guest=Guest(),
                may_run_on=(*state.may_run_on, event.host),
                skipped=_skipped(state, event.incarnation),
            )
        case e.VmAdopted():
            return _adopted(state, event, recorded)
        case e.VmStarted():
            status = VmStatus.RESTORING_STATE if event.restored else VmStatus.POWERING_UP
            if state.run is not None and state.run.stopping:
                status = state.status
            used = _memory_used(state) if event.restored else state
            return change(used, status=status, run=_run(state, started=True))
        case e.VmUp():
            return change(state, status=VmStatus.UP, pause_reason=None)
        case e.VmPaused():
            return change(state, status=VmStatus.PAUSED, pause_reason=event.reason)
        case e.VmContinued():
            return change(state, status=VmStatus.UP, pause_reason=None)
        case VmRebooted():
            status = VmStatus.UP if state.status is VmStatus.REBOOT_IN_PROGRESS else state.status
            return change(state, status=status, run=_run(state, resets=event.resets))
        case e.VmGuestReported():
            guest = Guest(
                hostname=event.hostname,
                addresses=event.addresses,
                operating_system=event.operating_system,
                balloon=state.guest.balloon,
            )
            return change(state, guest=guest)
        case VmBalloonReported():
            return change(state, guest=change(state.guest, balloon=event.problem))
        case VmSuspended():
            memory = SavedMemory(
                host=event.host,
                host_name=event.host_name,
                file=event.saved_memory,
                incarnation=event.incarnation,
                spec=state.run.spec if state.run is not None else None,
            )
            return change(_ended(state, event.host), status=VmStatus.SUSPENDED, memory=memory)
        case e.VmDown():
            used = _memory_used(state) if event.restored else state
            status = VmStatus.SUSPENDED if used.memory is not None else VmStatus.DOWN
            if state.status is VmStatus.WAITING_FOR_LAUNCH and not _ran(state):
                status = VmStatus.WAITING_FOR_LAUNCH
            ending = Ending(incarnation=event.incarnation, reason=event.reason, detail=event.detail)
            return change(_ended(used, event.host), status=status, ending=ending)
        case _:
            return None


def _evolve_requests(state: VmState, event: Event, recorded: Recorded) -> VmState | None:
    change = msgspec.structs.replace
    owner = recorded.correlation
    match event:
        case e.VmStartRequested():
            return change(state, status=VmStatus.WAITING_FOR_LAUNCH, operation=owner)
        case e.VmStartAbandoned():
            before = VmStatus.SUSPENDED if state.memory is not None else VmStatus.DOWN
            return change(state, status=before)
        case e.VmStartWithdrawn():
            return change(state, run=_run(state, withdrawn=True))
        case VmShutdownRequested():
            return change(state, status=VmStatus.POWERING_DOWN, operation=owner)
        case VmStopRequested():
            return change(
                state,
                status=VmStatus.POWERING_DOWN,
                run=_run(state, stopping=True),
                operation=owner,
            )
        case VmRebootRequested():
            return change(state, status=VmStatus.REBOOT_IN_PROGRESS, operation=owner)
        case VmSuspendRequested():
            return change(state, status=VmStatus.SAVING_STATE, operation=owner)
        case VmShutdownFailed() | VmRebootFailed() | VmSuspendFailed():
            return change(state, status=VmStatus.UP)
        case VmMemoryDiscarded():
            suspended = state.status is VmStatus.SUSPENDED
            return change(_memory_used(state), status=VmStatus.DOWN if suspended else state.status)
        case _:
            return None


def _evolve_copies(state: VmState, event: Event, recorded: Recorded) -> VmState | None:
    del recorded
    match event:
        case VmStaleCopyFound():
            copy = (event.host, event.incarnation)
            return msgspec.structs.replace(state, stale_copies=(*state.stale_copies, copy))
        case VmStaleCopyGone():
            left = tuple(c for c in state.stale_copies if c != (event.host, event.incarnation))
            return msgspec.structs.replace(state, stale_copies=left)
        case _:
            return None


def _evolve_migration(state: VmState, event: Event, recorded: Recorded) -> VmState | None:
    change = msgspec.structs.replace
    match event:
        case m.VmMigrationRequested():
            return change(state, status=VmStatus.MIGRATING, operation=recorded.correlation)
        case m.VmMigrationStarted():
            migration = Migration(
                id=event.migration,
                source=event.host,
                destination=event.destination,
                destination_name=event.destination_name,
                position=recorded.position,
                dedicated=event.dedicated,
            )
            may_run_on = (*state.may_run_on, event.destination)
            return change(state, migration=migration, may_run_on=may_run_on)
        case m.VmMigrationCancelling():
            sent = tuple(_sending(entry, cancelled=True) for entry in state.jobs)
            return change(state, jobs=sent)
        case m.VmMigrationHeld():
            moving = _moving(state, held=event.held)
            return change(state, migration=moving, pause_reason=PauseReason.OTHER)
        case m.VmMigrationMended():
            whole = _moving(state, held=None, lost=False)
            return change(state, migration=whole, pause_reason=None)
        case m.VmMigrationLost():
            why = {"reason": event.reason, "detail": event.detail}
            moving = _moving(state, lost=True, **why) or _half_alone(event)
            return change(state, migration=moving)
        case m.VmMigrationRecalled() | m.VmMigrationRetried():
            return change(state, migration=_moving(state, failed=True))
        case m.VmMigrationReleased():
            return change(state, jobs=tuple(_sending(entry, released=True) for entry in state.jobs))
        case m.VmMigrationArrived():
            return change(state, migration=_moving(state, arrived=True))
        case m.VmMigrationDeparted():
            left = tuple(host for host in state.may_run_on if host != event.host)
            since = state.migration.position if state.migration else recorded.position
            place = {"host": event.destination, "host_name": event.destination_name}
            return change(
                state,
                run=_run(state, position=since, spec=_spec_there(state), **place),
                may_run_on=left,
                migration=_moving(state, departed=True, reason=event.reason, detail=event.detail),
            )
        case m.VmMigrated():
            disks = (state.disks_host, state.disks_host_name)
            if event.disks_from:
                disks = (event.host, event.host_name)
            return change(
                state,
                status=_up_again(state),
                migration=None,
                pause_reason=_pause_after(state),
                disks_host=disks[0],
                disks_host_name=disks[1],
            )
        case m.VmMigrationFailed():
            moving = _moving(state, failed=True, held=None, lost=False)
            pause = _pause_after(state)
            return change(state, status=_up_again(state), migration=moving, pause_reason=pause)
        case m.VmMigrationDropped():
            left = tuple(host for host in state.may_run_on if host != event.destination)
            moving = None if state.run is None else _moving(state, dropped=True)
            return change(state, may_run_on=left, migration=moving)
        case _:
            return None


def _spec_there(state: VmState) -> RunSpec | None:
    run, migration = state.run, state.migration
    if run is None or migration is None:
        return run.spec if run is not None else None
    return migration.there(run.spec)


def _sending(entry: OpenJob, **changes: bool) -> OpenJob:
    sending = entry.job.sending
    if sending is None:
        return entry
    change = msgspec.structs.replace
    return change(entry, job=change(entry.job, sending=change(sending, **changes)))


def _moving(state: VmState, **changes: object) -> Migration | None:
    """Return the migration after a change; one that failed and left nothing is over, unless the
    source is still to let the VM go on.
    """
    if state.migration is None:
        return None
    after = msgspec.structs.replace(state.migration, **changes)
    over = after.failed and after.dropped and after.held is None and not after.lost
    return None if over else after


def _half_alone(event: m.VmMigrationLost) -> Migration:
    """Return what stands for a migration of which the log knows only the half that it left."""
    return Migration(
        id="",
        source=event.host,
        destination=event.host,
        destination_name=event.host_name,
        position=0,
        departed=True,
        held=Held.POST_COPY,
        lost=True,
        reason=event.reason,
        detail=event.detail,
    )


def _up_again(state: VmState) -> VmStatus:
    return VmStatus.UP if state.status is VmStatus.MIGRATING else state.status


def _pause_after(state: VmState) -> PauseReason | None:
    """Return why the VM is paused after a migration: it is not, if it was stopped for that."""
    return None if state.status is VmStatus.MIGRATING else state.pause_reason


def _done(event: Event) -> bool:
    return isinstance(event, VmJobDone)


def _run(state: VmState, **changes: object) -> Run | None:
    return None if state.run is None else msgspec.structs.replace(state.run, **changes)


def _adopted(state: VmState, event: e.VmAdopted, recorded: Recorded) -> VmState:
    run = Run(
        host=event.host,
        host_name=event.host_name,
        incarnation=event.incarnation,
        position=recorded.position,
        spec=event.spec,
        started=True,
    )
    kept = _memory_used(state) if event.memory_host is not None else state
    disks = (
        (event.host, event.host_name) if event.disks else (kept.disks_host, kept.disks_host_name)
    )
    return msgspec.structs.replace(
        kept,
        status=VmStatus.POWERING_UP,
        run=run,
        incarnation=event.incarnation,
        first_host=event.spec.first_host,
        guest=Guest(),
        may_run_on=(event.host,),
        migration=None,
        disks_host=disks[0],
        disks_host_name=disks[1],
        pause_reason=None,
        skipped=_skipped(state, event.incarnation),
    )


def _skipped(state: VmState, incarnation: int) -> tuple[tuple[int, int], ...]:
    if incarnation <= state.incarnation + 1:
        return state.skipped
    return (*state.skipped, (state.incarnation, incarnation))


def _ran(state: VmState) -> bool:
    return state.run is not None and state.run.started


def _memory_used(state: VmState) -> VmState:
    gone = (state.memory,) if state.memory is not None else ()
    return msgspec.structs.replace(
        state, memory=None, discarded_memory=(*state.discarded_memory, *gone)
    )


def _ended(state: VmState, host: str) -> VmState:
    may_run_on = tuple(other for other in state.may_run_on if other != host)
    migration = state.migration
    if migration is not None and (migration.departed or migration.dropped):
        migration = None
    return msgspec.structs.replace(
        state, run=None, may_run_on=may_run_on, pause_reason=None, migration=migration
    )


def removed_vm(key: str, name: str) -> VmState:
    """Return a VM of which nothing is kept any more, for the sake of a copy that turned up."""
    return VmState(
        id=key,
        name=name,
        data_center="",
        cluster="",
        description="",
        delete_protected=False,
        configuration=VmConfiguration(memory_bytes=0),
        status=VmStatus.REMOVED,
    )


VM = Fold("vm", VmState, evolve)
