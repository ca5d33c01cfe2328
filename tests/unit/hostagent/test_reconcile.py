"""The reconciler: what is done, for every combination of intent, domain and memory."""

import datetime as dt
import itertools
from collections.abc import Iterable

import pytest

from events.types.job import Job, JobKind
from events.types.vm import DownReason
from events.wire.agent import IntentVm, JobState, Role
from hostagent.driver import Domain
from hostagent.reconcile import Action, Adopt, End, Ending, RunJob, Situation, Start, decide
from hostagent.records import (
    Begun,
    Done,
    JobBegun,
    JobEnded,
    Lost,
    Record,
    Remembered,
    RunKey,
    Tombstone,
)
from tests.unit.hostagent.samples import OTHER, VM, a_job, run_item

T = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ONE, TWO = RunKey(VM, 1), RunKey(VM, 2)


def begun(incarnation: int = 1, boot: str = "b1") -> Begun:
    return Begun(vm=VM, incarnation=incarnation, boot=boot, time=T)


def done(incarnation: int = 1) -> Done:
    return Done(vm=VM, incarnation=incarnation, time=T)


def buried(incarnation: int = 1, reason: DownReason = DownReason.CRASHED) -> Tombstone:
    return Tombstone(vm=VM, incarnation=incarnation, reason=reason, time=T)


def absent(incarnation: int = 1, reason: DownReason | None = DownReason.ADMIN) -> IntentVm:
    return IntentVm(vm=VM, incarnation=incarnation, role=Role.ABSENT, position=11, reason=reason)


def plan(
    *intent: IntentVm,
    domains: Iterable[RunKey] = (),
    records: Iterable[Record] = (),
    jobs: Iterable[Job] = (),
    endings: dict[RunKey, Ending] | None = None,
    busy: Iterable[str] = (),
    starts_allowed: bool = True,
) -> tuple[Action, ...]:
    return decide(
        Situation(
            boot="b1",
            welcomed=50,
            intent={RunKey(item.vm, item.incarnation): item for item in intent},
            jobs={job.id: job for job in jobs},
            domains={key: Domain(vm=key.vm, incarnation=key.incarnation) for key in domains},
            remembered=Remembered(records),
            endings=endings or {},
            busy=frozenset(busy),
            starts_allowed=starts_allowed,
        )
    )


class TestStarting:
    def test_an_order_never_begun_starts(self) -> None:
        assert plan(run_item()) == (Start(item=run_item()),)

    def test_what_runs_is_adopted_once(self) -> None:
        assert plan(run_item(), domains=[ONE]) == (Adopt(run=ONE),)
        assert plan(run_item(), domains=[ONE], records=[begun(), done()]) == ()

    def test_a_start_of_a_former_agent_is_adopted_or_ended(self) -> None:
        assert plan(run_item(), domains=[ONE], records=[begun()]) == (Adopt(run=ONE),)
        (end,) = plan(run_item(), records=[begun()])
        assert isinstance(end, End)
        assert (end.reason, end.destroy) == (DownReason.START_FAILED, True)

    def test_a_start_of_a_former_boot_is_lost(self) -> None:
        (end,) = plan(run_item(), records=[begun(boot="b0")])
        assert isinstance(end, End)
        assert end.reason is DownReason.HOST_LOST

    def test_a_buried_incarnation_never_starts(self) -> None:
        assert plan(run_item(), records=[buried()]) == ()
        assert plan(run_item(started=True), records=[buried()]) == ()

    def test_stale_orders_start_nothing(self) -> None:
        assert plan(run_item(), starts_allowed=False) == ()

    def test_a_busy_vm_is_left(self) -> None:
        assert plan(run_item(), busy=[VM]) == ()
        assert plan(run_item(), busy=[OTHER]) == (Start(item=run_item()),)

    def test_an_incoming_vm_is_awaited(self) -> None:
        assert plan(run_item(role=Role.INCOMING)) == ()

    def test_an_order_without_a_spec_starts_nothing(self) -> None:
        item = IntentVm(vm=VM, incarnation=1, role=Role.RUN, position=1)
        assert plan(item) == ()


class TestOlderIncarnations:
    @pytest.mark.parametrize(
        ("domains", "records"),
        [
            ([ONE], []),
            ([ONE], [begun(), done()]),
            ([ONE], [buried()]),
        ],
    )
    def test_a_newer_one_does_not_start_beside_it(
        self, domains: list[RunKey], records: list[Record]
    ) -> None:
        actions = plan(run_item(incarnation=2), domains=domains, records=records)
        assert not any(isinstance(action, Start) for action in actions)

    def test_one_that_nobody_ordered_is_not_destroyed(self) -> None:
        assert plan(run_item(incarnation=2), domains=[ONE], records=[begun(), done()]) == ()

    def test_one_that_is_gone_is_buried_before_the_newer_one_starts(self) -> None:
        records: list[Record] = [begun(), done()]
        (end,) = plan(run_item(incarnation=2), records=records)
        assert isinstance(end, End)
        assert end.run == ONE
        records.append(buried())
        assert plan(run_item(incarnation=2), records=records) == (
            Start(item=run_item(incarnation=2)),
        )

    def test_one_that_is_ordered_away_goes_first(self) -> None:
        actions = plan(absent(1), run_item(incarnation=2), domains=[ONE])
        assert actions == (End(run=ONE, reason=DownReason.ADMIN, destroy=True),)

    @pytest.mark.parametrize("newer", [[begun(2)], [buried(2)]], ids=["begun", "buried"])
    def test_an_order_older_than_what_is_known_is_answered_absent(
        self, newer: list[Record]
    ) -> None:
        ends = [action for action in plan(run_item(), records=newer) if isinstance(action, End)]
        assert ONE in {end.run for end in ends}
        assert not any(isinstance(action, Start) for action in plan(run_item(), records=newer))

    def test_of_two_orders_the_older_is_answered_absent(self) -> None:
        (end,) = plan(run_item(), run_item(incarnation=2))
        assert isinstance(end, End)
        assert end.run == ONE


class TestEnding:
    def test_a_run_that_is_gone_is_a_crash_by_default(self) -> None:
        (end,) = plan(run_item(started=True), records=[begun(), done()])
        assert isinstance(end, End)
        assert (end.reason, end.destroy) == (DownReason.CRASHED, False)

    def test_a_run_that_the_engine_knew_started_is_never_started_again(self) -> None:
        (end,) = plan(run_item(started=True))
        assert isinstance(end, End)
        assert end.reason is DownReason.CRASHED

    def test_a_run_of_a_former_boot_is_lost(self) -> None:
        (end,) = plan(run_item(started=True), records=[begun(boot="b0"), done()])
        assert isinstance(end, End)
        assert end.reason is DownReason.HOST_LOST

    @pytest.mark.parametrize(
        "reason", [DownReason.GUEST, DownReason.CRASHED, DownReason.HOST_SHUTDOWN]
    )
    def test_the_reason_that_was_seen_is_told(self, reason: DownReason) -> None:
        ending = Ending(reason=reason, detail="why")
        actions = plan(run_item(), records=[begun(), done()], endings={ONE: ending})
        assert actions == (End(run=ONE, reason=reason, detail="why"),)

    @pytest.mark.parametrize(
        ("ordered", "reason"), [(True, DownReason.SUSPENDED), (False, DownReason.ADMIN)]
    )
    def test_a_saved_run_is_suspended_only_if_a_job_asked(
        self, *, ordered: bool, reason: DownReason
    ) -> None:
        records: list[Record] = [begun(), done()]
        if ordered:
            job = JobBegun(job="j", kind=JobKind.VM_SUSPEND, vm=VM, incarnation=1, time=T)
            records += [job, JobEnded(job="j", state=JobState.FAILED)]
        endings = {ONE: Ending(reason=DownReason.SUSPENDED)}
        (end,) = plan(run_item(started=True), records=records, endings=endings)
        assert isinstance(end, End)
        assert end.reason is reason

    @pytest.mark.parametrize(
        ("state", "seen", "reason"),
        [
            (None, None, DownReason.ADMIN),
            (None, DownReason.GUEST, DownReason.ADMIN),
            (None, DownReason.CRASHED, DownReason.CRASHED),
            (JobState.DONE, DownReason.GUEST, DownReason.ADMIN),
            (JobState.FAILED, DownReason.GUEST, DownReason.GUEST),
            (JobState.FAILED, None, DownReason.CRASHED),
        ],
    )
    def test_who_ended_a_vm_that_was_asked_to_shut_down(
        self, state: JobState | None, seen: DownReason | None, reason: DownReason
    ) -> None:
        job = JobBegun(job="j", kind=JobKind.VM_SHUTDOWN, vm=VM, incarnation=1, time=T)
        records: list[Record] = [begun(), done(), job]
        if state is not None:
            records.append(JobEnded(job="j", state=state))
        endings = {} if seen is None else {ONE: Ending(reason=seen)}
        (end,) = plan(run_item(started=True), records=records, endings=endings)
        assert isinstance(end, End)
        assert end.reason is reason

    @pytest.mark.parametrize("reason", [DownReason.ADMIN, DownReason.WITHDRAWN, None])
    @pytest.mark.parametrize("there", [True, False])
    def test_an_ordered_end_has_the_orders_reason(
        self, *, reason: DownReason | None, there: bool
    ) -> None:
        actions = plan(
            absent(reason=reason), domains=[ONE] if there else [], records=[begun(), done()]
        )
        expected = reason or DownReason.ADMIN
        assert actions == (End(run=ONE, reason=expected, destroy=True),)

    def test_a_withdrawn_start_that_never_began_touches_nothing(self) -> None:
        actions = plan(absent(reason=DownReason.WITHDRAWN))
        assert actions == (End(run=ONE, reason=DownReason.WITHDRAWN, destroy=False),)

    def test_an_ordered_end_goes_before_what_is_under_way(self) -> None:
        (end,) = plan(absent(), records=[begun()], busy=[VM])
        assert isinstance(end, End)
        assert end.destroy

    def test_a_start_under_way_is_not_ended_because_it_is_not_there_yet(self) -> None:
        assert plan(run_item(), records=[begun()], busy=[VM]) == ()

    def test_a_buried_run_that_is_there_after_all_is_destroyed(self) -> None:
        actions = plan(run_item(), domains=[ONE], records=[buried(reason=DownReason.START_FAILED)])
        assert actions == (End(run=ONE, reason=DownReason.START_FAILED, destroy=True),)

    def test_a_stray_is_left_alone(self) -> None:
        assert plan(domains=[ONE]) == ()
        assert plan(domains=[ONE], records=[begun(), done()]) == ()
        assert plan(domains=[ONE], records=[buried()]) == ()


class TestLostJournal:
    def test_an_order_from_before_is_answered_and_not_started(self) -> None:
        (end,) = plan(run_item(position=50), records=[Lost()])
        assert isinstance(end, End)
        assert end.reason is DownReason.START_FAILED

    def test_an_order_from_after_waits(self) -> None:
        assert plan(run_item(position=51), records=[Lost()]) == ()


class TestJobs:
    def test_a_job_is_begun_once_and_resumed_after_that(self) -> None:
        job = a_job(JobKind.VOLUMES_REMOVE, incarnation=0)
        known = JobBegun(job=job.id, kind=job.kind, vm=VM, incarnation=0, time=T)
        assert plan(jobs=[job]) == (RunJob(job=job, resumed=False),)
        assert plan(jobs=[job], records=[known]) == (RunJob(job=job, resumed=True),)
        for state in (JobState.DONE, JobState.FAILED):
            assert plan(jobs=[job], records=[known, JobEnded(job=job.id, state=state)]) == ()

    def test_one_job_of_a_vm_at_a_time_in_their_order(self) -> None:
        first, second = (a_job(JobKind.VOLUMES_REMOVE, incarnation=0) for _ in range(2))
        other = a_job(JobKind.VOLUMES_REMOVE, vm=OTHER, incarnation=0)
        actions = plan(jobs=[first, second, other])
        assert actions == (RunJob(job=first), RunJob(job=other))
        assert plan(jobs=[first], busy=[VM]) == ()

    def test_a_job_on_a_run_waits_for_its_start(self) -> None:
        job = a_job(JobKind.VM_REBOOT)
        assert plan(run_item(), jobs=[job]) == (Start(item=run_item()),)
        assert plan(run_item(), jobs=[job], starts_allowed=False) == ()
        assert plan(run_item(), jobs=[job], records=[buried()]) == (RunJob(job=job),)
        running = plan(run_item(), domains=[ONE], jobs=[job], records=[begun(), done()])
        assert running == (RunJob(job=job),)

    def test_a_suspend_that_was_begun_finds_out_itself_how_the_run_ended(self) -> None:
        job = a_job(JobKind.VM_SUSPEND, saved_memory="m")
        known = JobBegun(job=job.id, kind=job.kind, vm=VM, incarnation=1, time=T)
        records: list[Record] = [begun(), done(), known]
        assert plan(run_item(started=True), jobs=[job], records=records) == (
            RunJob(job=job, resumed=True),
        )
        failed = [*records, JobEnded(job=job.id, state=JobState.FAILED)]
        (end,) = plan(run_item(started=True), jobs=[job], records=failed)
        assert isinstance(end, End)


ROLES = (None, Role.RUN, Role.INCOMING, Role.OUTGOING, Role.ABSENT)
MEMORIES: tuple[tuple[Record, ...], ...] = (
    (),
    (begun(),),
    (begun(boot="b0"),),
    (begun(), done()),
    (begun(boot="b0"), done()),
    (buried(),),
    (begun(), done(), buried()),
)


@pytest.mark.parametrize(
    ("role", "started", "there", "memory", "busy", "fresh"),
    list(
        itertools.product(
            ROLES, (False, True), (False, True), MEMORIES, (False, True), (False, True)
        )
    ),
)
def test_what_holds_of_every_combination(
    *,
    role: Role | None,
    started: bool,
    there: bool,
    memory: tuple[Record, ...],
    busy: bool,
    fresh: bool,
) -> None:
    intent = [] if role is None else [run_item(role=role, started=started)]
    domains = [ONE] if there else []

    actions = plan(
        *intent,
        domains=domains,
        records=memory,
        busy=[VM] if busy else [],
        starts_allowed=fresh,
    )

    assert len(actions) <= 1
    for action in actions:
        if isinstance(action, Start):
            assert role is Role.RUN
            refused = started or there or bool(memory) or busy or not fresh
            assert not refused
        if isinstance(action, End):
            assert not (there and role is None), "a stray was to be destroyed"
            assert not busy or role is Role.ABSENT
            buried_before = any(isinstance(record, Tombstone) for record in memory)
            if there:
                assert action.destroy
                assert role is Role.ABSENT or buried_before, "a wanted VM was to be destroyed"
            else:
                assert not buried_before
        if isinstance(action, Adopt):
            assert there
    if role is Role.ABSENT and not any(isinstance(record, Tombstone) for record in memory):
        assert [type(action) for action in actions] == [End]


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("there", [False, True])
def test_deciding_again_after_acting_leads_to_rest(
    *, memory: tuple[Record, ...], there: bool
) -> None:
    """Each action changes the situation so that it is not taken twice, and all ends in rest."""
    records: list[Record] = list(memory)
    domains = {ONE} if there else set()
    for _ in range(4):
        actions = plan(run_item(started=False), domains=domains, records=records)
        if not actions:
            break
        (action,) = actions
        match action:
            case Start():
                records += [begun(), done()]
                domains = {ONE}
            case Adopt():
                records += [begun(), done()]
            case End(destroy=destroy):
                records.append(buried())
                assert destroy or not domains
                domains = set()
            case RunJob():
                pytest.fail("no job was ordered")
    assert plan(run_item(), domains=domains, records=records) == ()
    buried_now = any(isinstance(record, Tombstone) for record in records)
    assert buried_now != bool(domains), "the VM must either run or be promised to be gone"
