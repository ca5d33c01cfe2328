"""The reconciler and a VM that came in by post-copy: only where half is here is it dropped."""

import datetime as dt

import msgspec
import pytest

from events.types.migration import Held
from events.types.vm import DownReason
from events.wire.agent import IntentVm, Role
from hostagent.driver import Domain
from hostagent.reconcile import Action, End, Land, Situation, decide
from hostagent.records import Done, Expected, Record, Remembered, RunKey
from tests.unit.hostagent.samples import VM

T = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ONE = RunKey(VM, 1)
ORDER = IntentVm(
    vm=VM,
    incarnation=1,
    role=Role.ABSENT,
    position=11,
    started=True,
    reason=DownReason.CRASHED,
    only_half=True,
)
CAME = Expected(vm=VM, incarnation=1, boot="b1", migration="m", time=T)


def plan(
    held: Held | None,
    *records: Record,
    busy: bool = False,
    fetching: bool = False,
    order: IntentVm = ORDER,
) -> tuple[Action, ...]:
    return decide(
        Situation(
            boot="b1",
            welcomed=50,
            intent={ONE: order},
            jobs={},
            domains={ONE: Domain(vm=VM, incarnation=1, held=held, fetching=fetching)},
            remembered=Remembered(records),
            endings={},
            busy=frozenset({VM} if busy else ()),
        )
    )


@pytest.mark.parametrize("busy", [False, True])
def test_a_half_is_dropped_whatever_else_is_under_way(*, busy: bool) -> None:
    end = End(run=ONE, reason=DownReason.CRASHED, destroy=True, only_half=True)
    assert plan(Held.POST_COPY, CAME, busy=busy) == (end,)


def test_what_has_all_is_let_run() -> None:
    assert plan(None, CAME) == (Land(run=ONE),)
    assert plan(None, CAME, busy=True) == ()


def test_what_is_not_all_here_is_not_let_run() -> None:
    """given a run whose place is here, then it counts as landed only once all of it has come"""
    place = msgspec.structs.replace(ORDER, role=Role.RUN, reason=None, only_half=False)
    assert plan(None, CAME, order=place, fetching=True) == ()
    assert plan(Held.POST_COPY, CAME, order=place) == ()
    assert plan(None, CAME, order=place) == (Land(run=ONE),)


def test_what_has_all_and_runs_is_left_alone() -> None:
    assert plan(None, CAME, Done(vm=VM, incarnation=1, time=T)) == ()
