"""From what an agent reports to events: only differences from what is known become events."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from commands.gateway import restored
from commands.kernel.command import Context, Decision
from commands.kernel.fold import Fold, World
from commands.state import fitness, host_failing, migrations
from commands.state.cluster import CLUSTER
from commands.state.host import HOST, HostState
from commands.state.operation import OPERATION
from commands.state.orders import order_job
from commands.state.strays import stray_name
from commands.state.vm import VM, Run, VmState, VmStatus
from events.envelope import NewEvent, Recorded
from events.types import vm as e
from events.types.base import Event, type_of
from events.types.host import (
    Capabilities,
    HostCapabilitiesReported,
    HostClockSkewed,
    HostUnmanagedDomainsFound,
)
from events.types.job import Job, JobKind
from events.types.migration import CopyProgress, Held
from events.types.operation import OperationProgressed
from events.types.vm import DownReason, PauseReason
from events.types.vm_copies import VmStaleCopyFound, VmStaleCopyGone
from events.types.vm_jobs import VmJobDone, VmJobFailed
from events.types.vm_memory import VmBalloonReported
from events.types.vm_power import VmRebooted, VmSuspended
from events.wire.agent import (
    CapabilitiesItem,
    FullStateItem,
    JobItem,
    JobState,
    VmStateItem,
)
from events.wire.agent import (
    VmState as Reported,
)

PROGRESS_STEP_PERCENT = 5
"""Progress in smaller steps than this is not worth an event."""
SKEW_S_MAX = 5.0
_BOOTING = frozenset({VmStatus.POWERING_UP, VmStatus.RESTORING_STATE})
_MAY_PAUSE = frozenset({VmStatus.PAUSED, VmStatus.SAVING_STATE, VmStatus.MIGRATING})
"""Where a pause is known already, or a part of what goes on."""
_ENDED_BY_ORDER = frozenset({DownReason.ADMIN, DownReason.WITHDRAWN})


class ReportingHost:
    """The host that reports, as the decision reads it."""

    def __init__(self, world: World, host_id: str) -> None:
        state = world.get(HOST, host_id)
        if state is None:
            message = f"host {host_id} reports but does not exist"
            raise LookupError(message)
        self.id = host_id
        self.state: HostState = state
        self._world = world

    def fitness(self, abilities: Capabilities) -> tuple[Event, ...]:
        """Return what follows from what the host can do for its being fit for its cluster."""
        cluster = self._world.get(CLUSTER, self.state.cluster)
        found = fitness.found(self.state, cluster, abilities) if cluster is not None else None
        return (found,) if found is not None else ()


class _Vm:
    """A VM within one decision: events are folded as they are decided."""

    def __init__(self, world: World, context: Context, vm_id: str) -> None:
        self.state: VmState | None = world.get(VM, vm_id)
        self.events: list[NewEvent] = []
        self.context = context
        self._stream = VM.stream(vm_id)

    def add(self, event: Event, addressee: str | None = None) -> None:
        self.put(NewEvent(self._stream, event, addressee))

    def put(self, new: NewEvent) -> None:
        self.events.append(new)
        self.state = _folded(VM, self.state, new, self.context)


def decide_vm_state(
    world: World, context: Context, host: ReportingHost, item: VmStateItem, applied: int
) -> Decision:
    """Return the events that follow from what an incarnation is on the host, which had taken up its
    orders up to `applied` when it said so.
    """
    vm = _Vm(world, context, item.vm)
    if vm.state is None or migrations.is_from_before(vm.state, host.id, item, applied):
        return Decision(id=item.vm)
    for event in restored.adoption(world, host.state, vm.state, item):
        vm.add(event)
    run = vm.state.run
    migration = migrations.moving(vm.state, host.id, item.incarnation)
    if migration is not None:
        arrival = migrations.at_destination(vm.state, migration, item)
        if arrival is not None:
            vm.add(arrival)
    elif run is None or run.host != host.id or run.incarnation != item.incarnation:
        _stale(vm, host, item)
    elif item.state is Reported.ABSENT:
        _ended(vm, host, run, item)
    elif item.held is Held.POST_COPY:
        _half(vm, vm.state, run)
    elif item.state in {Reported.RUNNING, Reported.PAUSED}:
        _whole_after_all(vm, world, host, run, item)
        _running(vm, host, run, item)
    return Decision(id=item.vm, events=tuple(vm.events), correlation=vm.state.operation)


def decide_job(world: World, context: Context, host: ReportingHost, item: JobItem) -> Decision:
    """Return the events that follow from how far a job is."""
    vm = world.get(VM, item.vm)
    entry = vm.job(item.job) if vm is not None else None
    if vm is None or entry is None or entry.host != host.id:
        return Decision(id=item.vm)
    stream, kind = VM.stream(item.vm), entry.job.kind
    if item.state is JobState.RUNNING:
        held = migrations.held(vm, item)
        stopped = (NewEvent(stream, held),) if held is not None else ()
        return Decision(
            id=item.vm,
            events=(*_progress(world, context, item), *stopped),
            correlation=item.job.partition("/")[0],
        )
    event: Event = VmJobDone(job=item.job, kind=kind, host=host.id)
    if item.state is JobState.FAILED:
        reason = item.reason or "The host gave no reason."
        event = VmJobFailed(
            job=item.job, kind=kind, host=host.id, reason=reason, elsewhere=item.elsewhere
        )
    correlation = item.job.partition("/")[0]
    return Decision(id=item.vm, events=(NewEvent(stream, event),), correlation=correlation)


def decide_host(
    context: Context,
    host: ReportingHost,
    item: FullStateItem | CapabilitiesItem | None,
    host_time: dt.datetime,
    strays: Sequence[VmStateItem] = (),
) -> Decision:
    """Return the events on the host's own stream; `strays` are shown as what is not managed."""
    events: list[Event] = []
    skew_s = (host_time - context.time).total_seconds()
    if abs(skew_s) > SKEW_S_MAX and not host.state.skewed:
        events.append(HostClockSkewed(name=host.state.name, skew_s=round(skew_s, 1)))
    if isinstance(item, CapabilitiesItem) and not host.state.has_reported(item.capabilities):
        events.append(HostCapabilitiesReported(capabilities=item.capabilities))
        events += host.fitness(item.capabilities)
    if isinstance(item, FullStateItem) and item.known:
        names = (stray_name(one.vm, one.incarnation) for one in strays)
        domains = (*item.unmanaged, *names)
        if domains != host.state.unmanaged:
            events.append(HostUnmanagedDomainsFound(name=host.state.name, domains=domains))
    stream = HOST.stream(host.id)
    return Decision(id=host.id, events=tuple(NewEvent(stream, event) for event in events))


def _stale(vm: _Vm, host: ReportingHost, item: VmStateItem) -> None:
    state = vm.state
    assert state is not None  # noqa: S101 - the caller has looked
    if state.never_ordered(item.incarnation):
        return  # The log was cut short: what it has forgotten is not destroyed, but shown.
    known = (host.id, item.incarnation) in state.stale_copies
    if item.state is Reported.ABSENT:
        if known:
            vm.add(VmStaleCopyGone(name=state.name, host=host.id, incarnation=item.incarnation))
    elif not known:
        found = VmStaleCopyFound(
            name=state.name,
            host=host.id,
            host_name=host.state.name,
            incarnation=item.incarnation,
        )
        vm.add(found, addressee=host.id)


def _ended(vm: _Vm, host: ReportingHost, run: Run, item: VmStateItem) -> None:
    state = vm.state
    assert state is not None  # noqa: S101 - the caller has looked
    if item.reason is DownReason.SUSPENDED:
        for new in migrations.called_off(state):
            vm.put(new)
        vm.add(
            VmSuspended(
                name=state.name,
                host=host.id,
                host_name=host.state.name,
                incarnation=run.incarnation,
                saved_memory=f"{state.id}/memory-{run.incarnation}.save",
            )
        )
        return
    reason: DownReason = item.reason or DownReason.CRASHED
    if reason is DownReason.WITHDRAWN and run.started:
        reason = DownReason.ADMIN  # It had begun to run before the order to drop it came.
    if migrations.departs(state):
        for new in migrations.departure(state, reason, item.detail):
            vm.put(new)
        return
    reason, detail = migrations.why_ended(state, reason, item.detail)
    if reason is DownReason.START_FAILED:
        of_host, now = host.state, vm.context.time
        failing = of_host.failing
        for event in host_failing.after_failure(failing, of_host.name, state.id, state.name, now):
            vm.put(NewEvent(HOST.stream(host.id), event))
    vm.add(
        e.VmDown(
            name=state.name,
            host=host.id,
            host_name=host.state.name,
            incarnation=run.incarnation,
            reason=reason,
            detail=detail,
            restored=_used_memory(run, item, reason),
        )
    )


def _used_memory(run: Run, item: VmStateItem, reason: DownReason) -> bool:
    """Tell whether the memory that the run was to restore may have been restored.

    A run that an order ended may have run for a moment that no report showed; the agent says so.
    """
    if not run.restores or reason is DownReason.START_FAILED:
        return run.restores and run.started
    return run.started or item.restored or reason not in _ENDED_BY_ORDER


def _half(vm: _Vm, state: VmState, run: Run) -> None:
    """Take up that a host has only half of the VM's memory: it goes on by its migration, or it is
    over. It never counts as a run.
    """
    migration = state.migration
    if migration is not None and (migration.held or not migration.failed):
        found = migrations.half_held(state, migration, run.host, run.host_name)
        if found is not None:
            vm.add(found)
    elif not (run.stopping or run.withdrawn or (migration is not None and migration.lost)):
        for new in migrations.half_alone(state, run):
            vm.put(new)


def _whole_after_all(
    vm: _Vm, world: World, host: ReportingHost, run: Run, item: VmStateItem
) -> None:
    """Take back that post-copy broke off: the host has all, and nobody said so meanwhile."""
    migration = vm.state.migration if vm.state is not None else None
    if migration is None or item.state is not Reported.RUNNING:
        return
    if vm.state is not None and not migration.departed and host.state.unconfirmed:
        over = migrations.runs_on_at_source(vm.state, migration, run)
        if over is not None:
            vm.add(over, addressee=over.destination or None)
    elif vm.state is not None and migration.departed and migration.held is not None:
        source = world.get(HOST, migration.source)
        vm.add(migrations.mended(vm.state, source.name if source is not None else ""))


def _running(vm: _Vm, host: ReportingHost, run: Run, item: VmStateItem) -> None:
    state = vm.state
    assert state is not None  # noqa: S101 - the caller has looked
    name, incarnation = state.name, run.incarnation
    if state.migration is not None and state.migration.departed:
        if item.state is Reported.PAUSED:
            return  # It has arrived, and is about to be let run.
        vm.add(migrations.landed(state, state.migration))
    if not run.started:
        started = e.VmStarted(
            name=name,
            host=host.id,
            host_name=host.state.name,
            incarnation=incarnation,
            restored=run.restores,
        )
        vm.add(started)
        _discard_memory(vm, run)
        for event in host_failing.after_success(host.state.failing, host.state.name):
            vm.put(NewEvent(HOST.stream(host.id), event))
    if item.resets > run.resets:
        vm.add(VmRebooted(name=name, incarnation=incarnation, resets=item.resets))
    if run.stopping:
        return  # It is being powered off: whatever it does meanwhile is of no interest.
    if item.state is Reported.PAUSED:
        if vm.state is not None and vm.state.status not in _MAY_PAUSE:
            reason = item.pause_reason or PauseReason.OTHER
            vm.add(e.VmPaused(name=name, incarnation=incarnation, reason=reason))
    elif vm.state is not None and vm.state.status is VmStatus.PAUSED:
        vm.add(e.VmContinued(name=name, incarnation=incarnation))
    _guest(vm, host, item)


def _guest(vm: _Vm, host: ReportingHost, item: VmStateItem) -> None:
    state = vm.state
    assert state is not None  # noqa: S101 - the caller has looked
    if item.guest_up and state.status in _BOOTING:
        vm.add(
            e.VmUp(
                name=state.name,
                host=host.id,
                host_name=host.state.name,
                incarnation=item.incarnation,
            )
        )
    if item.balloon is not state.guest.balloon:
        vm.add(
            VmBalloonReported(
                name=state.name,
                host=host.id,
                host_name=host.state.name,
                incarnation=item.incarnation,
                problem=item.balloon,
                previous=state.guest.balloon,
            )
        )
    said = (item.hostname, item.addresses, item.operating_system)
    known = (state.guest.hostname, state.guest.addresses, state.guest.operating_system)
    if any(said) and said != known:
        vm.add(
            e.VmGuestReported(
                incarnation=item.incarnation,
                hostname=item.hostname,
                addresses=item.addresses,
                operating_system=item.operating_system,
            )
        )


def _discard_memory(vm: _Vm, run: Run) -> None:
    """Have the host remove a memory that was restored: it must never be restored again."""
    if run.spec.restore_from is None:
        return
    job = Job(
        id=f"{run.spec.vm}/{run.incarnation}/discard_memory",
        kind=JobKind.VOLUMES_REMOVE,
        vm=run.spec.vm,
        volumes=(run.spec.restore_from,),
    )
    vm.put(order_job(job, run.host))


def _progress(world: World, context: Context, item: JobItem) -> tuple[NewEvent, ...]:
    del context
    operation_id, _, rest = item.job.partition("/")
    step = rest.partition("/")[0]
    operation = world.get(OPERATION, operation_id)
    if operation is None or not operation.open or item.percent is None:
        return ()
    before = operation.progress.get(step, 0)
    percent = max(0, min(100, item.percent))
    news = item.copying is not None and _is_news(item.copying, operation.copying)
    if percent - before < PROGRESS_STEP_PERCENT and not news:
        return ()
    event = OperationProgressed(step=step, percent=max(before, percent), copying=item.copying)
    return (NewEvent(OPERATION.stream(operation_id), event),)


def _is_news(copying: CopyProgress, known: CopyProgress | None) -> bool:
    """Tell whether a migration's figures are worth an event though its percent hardly changed."""
    if known is None:
        return True
    return copying.steps != known.steps or copying.rounds >= max(2, 2 * known.rounds)


def _folded(
    fold: Fold[VmState], state: VmState | None, new: NewEvent, context: Context
) -> VmState | None:
    """Fold an event that is being decided, as if it were recorded."""
    return fold.evolve(
        state,
        Recorded(
            position=0,
            stream=new.stream,
            version=0,
            name=type_of(type(new.event)).name,
            event=new.event,
            time=context.time,
            actor=context.actor,
            command=context.command,
            addressee=new.addressee,
        ),
    )
