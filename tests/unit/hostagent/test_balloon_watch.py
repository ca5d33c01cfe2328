"""Balloons that do not do what is asked of them are told, and the end of that as well."""

from __future__ import annotations

import msgspec

from events.types.vm_memory import BalloonProblem
from hostagent.balloon_watch import LOOKS_MAX, BalloonWatch
from hostagent.memory_policy import Balloon
from hostagent.records import RunKey

GIB = 1 << 30
KEY = RunKey("a", 1)
GUEST = Balloon(
    key=KEY,
    defined_bytes=4 * GIB,
    guaranteed_bytes=GIB,
    current_bytes=4 * GIB,
    usable_bytes=3 * GIB,
)
SILENT = msgspec.structs.replace(GUEST, usable_bytes=None)


def looks(watch: BalloonWatch, each: Balloon, times: int = 1, *, short: bool = True) -> list[bool]:
    return [KEY in watch.look([each], enabled=True, short=short) for _ in range(times)]


def test_a_guest_without_a_driver_is_told_after_a_while_and_once() -> None:
    watch = BalloonWatch()
    assert looks(watch, SILENT, LOOKS_MAX + 2) == [False] * (LOOKS_MAX - 1) + [True, False, False]
    assert watch.problems == {KEY: BalloonProblem.SILENT}

    # once the driver is there, that is told
    assert looks(watch, GUEST) == [True]
    assert watch.problems == {}


def test_who_is_asked_for_nothing_is_no_trouble() -> None:
    watch = BalloonWatch()
    assert not any(looks(watch, SILENT, 9, short=False))
    guaranteed = msgspec.structs.replace(SILENT, guaranteed_bytes=4 * GIB)
    assert not any(looks(watch, guaranteed, 9))
    assert not any(looks(watch, GUEST, 9))


def test_a_balloon_that_does_not_move_is_told_until_it_does() -> None:
    watch = BalloonWatch()
    told = []
    for _ in range(LOOKS_MAX + 1):
        told += looks(watch, GUEST)
        watch.asked([GUEST], {KEY: 3 * GIB})
    assert told == [False] * LOOKS_MAX + [True]
    assert watch.problems == {KEY: BalloonProblem.UNCONTROLLED}
    # that nothing is asked any more says nothing
    watch.asked([GUEST], {})
    assert looks(watch, GUEST) == [False]
    assert watch.problems == {KEY: BalloonProblem.UNCONTROLLED}
    # it moves
    watch.asked([GUEST], {KEY: 3 * GIB})
    moved = msgspec.structs.replace(GUEST, current_bytes=3 * GIB + 5)
    assert looks(watch, moved) == [True]
    assert watch.problems == {}


def test_what_is_gone_or_switched_off_has_no_problem() -> None:
    watch = BalloonWatch()
    looks(watch, SILENT, LOOKS_MAX)
    assert watch.look([SILENT], enabled=False, short=True) == {KEY}
    looks(watch, SILENT, LOOKS_MAX)
    assert watch.look([], enabled=True, short=True) == {KEY}
    assert watch.problems == {}
