"""What to do next: the whole intended state against the whole actual state, as a pure function.

`decide` is asked again after every change, at every reconnect and at least once a minute; it keeps
nothing between two calls. It errs on the side of not starting: an incarnation is started once, by
an order of this session, and never where an older one may still be about.

| what should be | what is                       | action                                          |
|----------------|-------------------------------|-------------------------------------------------|
| run            | runs                          | none; adopted if the journal does not know it   |
| run            | never begun, nothing older    | start                                           |
| run            | begun, no domain              | end: start failed, or host lost after a reboot  |
| run            | did run, no domain            | end, with the reason that was seen              |
| run            | ended before                  | none (its absence is reported)                  |
| absent         | runs, or may                  | destroy, end with the order's reason            |
| absent if half | has all of its memory         | as for run                                      |
| incoming       | anything                      | none, until the engine says what became of it   |
| run            | came in, and stands still     | land: let it run, the source has let go of it   |
| run            | came in part                  | none, until the rest has come, or cannot        |
| any            | runs although it had ended    | destroy: the promise is kept                    |
| (not ordered)  | runs                          | none; reported, and the engine decides          |
| (not ordered)  | begun, no domain              | end quietly                                     |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

import msgspec

from events.types.job import Job, JobKind
from events.types.migration import Held
from events.types.vm import DownReason
from events.wire.agent import IntentVm, JobState, Role
from hostagent.driver import Domain
from hostagent.records import JobMemory, Remembered, Run, RunKey


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended, as the driver told of it."""

    reason: DownReason
    detail: str = ""


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision depends on.

    `welcomed` is the position of the intent that opened the session. `busy` are the VMs that a
    task of this agent works on, or worked on while the domains were listed: what the list says of
    them may be old. `starts_allowed` is False while orders may be out of date.
    """

    boot: str
    welcomed: int
    intent: Mapping[RunKey, IntentVm]
    jobs: Mapping[str, Job]
    domains: Mapping[RunKey, Domain]
    remembered: Remembered
    endings: Mapping[RunKey, Ending]
    busy: frozenset[str] = frozenset()
    starts_allowed: bool = True
    ordered_or_there: Mapping[str, AbstractSet[int]] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Index the incarnations by VM: a host may have hundreds."""
        index: dict[str, set[int]] = {}
        for vm, incarnation in (*self.intent, *self.domains):
            index.setdefault(vm, set()).add(incarnation)
        msgspec.structs.force_setattr(self, "ordered_or_there", index)

    def incarnations(self, vm: str) -> AbstractSet[int]:
        """Return the incarnations of a VM that are ordered, there, or remembered."""
        return self.remembered.incarnations(vm) | self.ordered_or_there.get(vm, frozenset())


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Start the incarnation: write that it is begun, then act."""

    item: IntentVm


class Adopt(msgspec.Struct, frozen=True, kw_only=True):
    """Write down that the incarnation runs; it is not touched."""

    run: RunKey


class End(msgspec.Struct, frozen=True, kw_only=True):
    """Make certain that the incarnation is gone, by destroying it if `destroy`.

    Then promise that it never starts here again, and report that. With `only_half` nothing is done
    if it has all of its memory by then.
    """

    run: RunKey
    reason: DownReason
    detail: str = ""
    destroy: bool = False
    only_half: bool = False


class Land(msgspec.Struct, frozen=True, kw_only=True):
    """Let the incarnation run that came in by a migration: its source has nothing of it."""

    run: RunKey


class RunJob(msgspec.Struct, frozen=True, kw_only=True):
    """Do a job; `resumed` if it was begun before and its outcome is not known."""

    job: Job
    resumed: bool = False


Action = Start | Adopt | End | Land | RunJob


def decide(situation: Situation) -> tuple[Action, ...]:
    """Return what is to be done now, at most one thing for each VM."""
    actions: dict[str, Action] = {}
    for action in _run_actions(situation):
        vm = action.item.vm if isinstance(action, Start) else action.run.vm
        if vm not in actions and (vm not in situation.busy or _preempts(situation, action)):
            actions[vm] = action
    for job in situation.jobs.values():
        if job.vm not in situation.busy and job.vm not in actions:
            ready = _job_action(situation, job)
            if ready is not None:
                actions[job.vm] = ready
    return tuple(actions.values())


def _preempts(situation: Situation, action: Action) -> bool:
    """Whether the action goes before what is under way: only an ordered end does."""
    if not isinstance(action, End):
        return False
    item = situation.intent.get(action.run)
    return item is not None and item.role is Role.ABSENT


def _run_actions(situation: Situation) -> Iterator[Start | Adopt | End | Land]:
    keys = set(situation.intent) | set(situation.domains)
    keys |= {RunKey(run.vm, run.incarnation) for run in situation.remembered.open_runs()}
    # Older incarnations first: they must be over before a newer one starts.
    for key in sorted(keys, key=lambda key: (key.vm, key.incarnation)):
        action = (
            _with_domain(situation, key)
            if key in situation.domains
            else _without_domain(situation, key)
        )
        if action is not None:
            yield action


def _with_domain(situation: Situation, key: RunKey) -> Adopt | End | Land | None:
    item = situation.intent.get(key)
    run = situation.remembered.runs.get(key)
    if item is None:
        return None
    if run is not None and run.tombstone is not None:
        promise = run.tombstone
        return End(run=key, reason=promise.reason, detail=promise.detail, destroy=True)
    half = situation.domains[key].held is Held.POST_COPY
    if item.role is Role.ABSENT and (half or not item.only_half):
        reason = _ordered_reason(item)
        return End(run=key, reason=reason, destroy=True, only_half=item.only_half)
    if item.role is Role.INCOMING:
        return None
    if run is not None and run.arrival and run.done is None:
        # Not before all of its memory is here: post-copy may have broken off, or be about to.
        return None if half or situation.domains[key].fetching else Land(run=key)
    if run is None or run.done is None:
        return Adopt(run=key)
    return None


def _without_domain(situation: Situation, key: RunKey) -> Start | End | None:
    item = situation.intent.get(key)
    run = situation.remembered.runs.get(key)
    if run is not None and run.tombstone is not None:
        return None
    if item is not None and item.role is Role.ABSENT:
        return _order_absent(situation, item, run)
    if item is not None and item.role is Role.INCOMING:
        return _not_there_yet(situation, key, run)
    if _left_to_job(situation, key):
        return None
    if run is not None and run.begun is not None and run.done is None:
        return _begun_and_not_there(situation, key, run)
    if run is not None or (item is not None and item.started):
        return _ended(situation, key, run)
    if item is None or item.role is not Role.RUN:
        return None
    return _never_begun(situation, item)


def _order_absent(situation: Situation, item: IntentVm, run: Run | None) -> End:
    """What never was begun cannot be there; anything else is destroyed to be certain."""
    return End(
        run=RunKey(item.vm, item.incarnation),
        reason=_ordered_reason(item),
        destroy=run is not None or item.started or item.vm in situation.busy,
    )


def _not_there_yet(situation: Situation, key: RunKey, run: Run | None) -> End | None:
    """What comes in may do so at any time, but into the boot that it was announced in."""
    if run is None or run.boot == situation.boot:
        return None
    return End(run=key, reason=DownReason.HOST_LOST, detail="the host was restarted")


def _begun_and_not_there(situation: Situation, key: RunKey, run: Run) -> End:
    if run.boot != situation.boot:
        return End(
            run=key,
            reason=DownReason.HOST_LOST,
            detail="the host was restarted while the VM was being started",
        )
    if run.arrival:
        detail = "the VM did not come in whole"
        return End(run=key, reason=DownReason.CRASHED, detail=detail, destroy=True)
    # Destroyed nevertheless: a start that outlived its agent may still be on its way. It may even
    # have run: then "start failed" would let a memory be restored a second time.
    return End(
        run=key,
        reason=DownReason.CRASHED if run.restored else DownReason.START_FAILED,
        detail="the start was interrupted on the host",
        destroy=True,
    )


def _ended(situation: Situation, key: RunKey, run: Run | None) -> End:
    if run is not None and run.boot and run.boot != situation.boot:
        return End(run=key, reason=DownReason.HOST_LOST, detail="the host was restarted")
    seen = situation.endings.get(key)
    if _shutdown_asked(situation, key) and (seen is None or seen.reason is DownReason.GUEST):
        return End(run=key, reason=DownReason.ADMIN)
    if seen is not None and seen.reason is DownReason.SUSPENDED:
        return _saved(situation, key)
    if seen is not None:
        return End(run=key, reason=seen.reason, detail=seen.detail)
    return End(
        run=key,
        reason=DownReason.CRASHED,
        detail="the VM is gone from the host; nobody saw how it ended",
    )


def _saved(situation: Situation, key: RunKey) -> End:
    """A run is suspended if a job asked for it; by hand, its memory lies where nobody looks."""
    if any(_jobs_of(situation, key, JobKind.VM_SUSPEND)):
        return End(run=key, reason=DownReason.SUSPENDED)
    return End(
        run=key, reason=DownReason.ADMIN, detail="the VM was saved by hand, on the host itself"
    )


def _never_begun(situation: Situation, item: IntentVm) -> Start | End | None:
    key = RunKey(item.vm, item.incarnation)
    if max(situation.incarnations(item.vm)) > item.incarnation:
        return End(
            run=key,
            reason=DownReason.START_FAILED,
            detail="a newer incarnation of the VM is known on this host",
        )
    if situation.remembered.lost:
        if item.position > situation.welcomed:
            return None
        restores = item.spec is not None and item.spec.restore_from is not None
        return End(
            run=key,
            reason=DownReason.CRASHED if restores else DownReason.START_FAILED,
            detail="the agent lost its journal and cannot tell whether this start was begun",
        )
    if not situation.starts_allowed or item.spec is None or _older_unanswered(situation, key):
        return None
    return Start(item=item)


def _older_unanswered(situation: Situation, key: RunKey) -> bool:
    """Whether an older incarnation of the VM runs here, or is not known to be over."""
    runs = situation.remembered.runs
    for incarnation in situation.incarnations(key.vm) - {key.incarnation}:
        older = RunKey(key.vm, incarnation)
        run = runs.get(older)
        if older in situation.domains or run is None or run.tombstone is None:
            return True
    return False


def _ordered_reason(item: IntentVm) -> DownReason:
    return item.reason or DownReason.ADMIN


def _jobs_of(situation: Situation, key: RunKey, kind: JobKind) -> Iterator[JobMemory]:
    return (
        known
        for known in situation.remembered.jobs.values()
        if known.kind is kind and (known.vm, known.incarnation) == key
    )


def _shutdown_asked(situation: Situation, key: RunKey) -> bool:
    return any(
        known.state is not JobState.FAILED
        for known in _jobs_of(situation, key, JobKind.VM_SHUTDOWN)
    )


def _left_to_job(situation: Situation, key: RunKey) -> bool:
    """Whether a job that ends the run was begun, is wanted, and is to find out how it ended."""
    return any(
        known.state is None and known.job in situation.jobs
        for kind in (JobKind.VM_SUSPEND, JobKind.VM_MIGRATE)
        for known in _jobs_of(situation, key, kind)
    )


def _job_action(situation: Situation, job: Job) -> RunJob | None:
    known = situation.remembered.jobs.get(job.id)
    if known is not None and known.state is not None:
        return None
    if known is None and job.incarnation and _not_settled(situation, job):
        return None
    return RunJob(job=job, resumed=known is not None)


def _not_settled(situation: Situation, job: Job) -> bool:
    """Whether the run that the job is about has yet to start."""
    key = RunKey(job.vm, job.incarnation)
    run = situation.remembered.runs.get(key)
    return (
        key in situation.intent
        and key not in situation.domains
        and (run is None or run.tombstone is None)
    )
