"""What a host does where its memory runs short: KSM, and balloons."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.types.host_memory import MemoryPolicy
from hostagent.memory_files import HostMemory, KsmState
from hostagent.memory_policy import (
    GUEST_FREE,
    PAGES_MAX,
    PAGES_MIN,
    Balloon,
    KsmWrite,
    balloon_targets,
    ksm_writes,
)
from hostagent.records import RunKey

GIB = 1 << 30
MERGE = MemoryPolicy(ksm=True)
IDLE = KsmState(
    run=0,
    merge_across_nodes=True,
    pages_to_scan=100,
    sleep_ms=10,
    pages_shared=0,
    pages_sharing=0,
)
FULL = HostMemory(16 * GIB, 1 * GIB)
EASY = HostMemory(16 * GIB, 10 * GIB)


def state(**changes: object) -> KsmState:
    return msgspec.structs.replace(IDLE, **changes)


def balloon(
    name: str = "a",
    *,
    defined: int = 4 * GIB,
    guaranteed: int = 1 * GIB,
    current: int = 4 * GIB,
    usable: int | None = 3 * GIB,
) -> Balloon:
    return Balloon(
        key=RunKey(name, 1),
        defined_bytes=defined,
        guaranteed_bytes=guaranteed,
        current_bytes=current,
        usable_bytes=usable,
    )


class TestKsm:
    def test_it_runs_where_guests_have_nearly_all_memory(self) -> None:
        writes = ksm_writes(MERGE, IDLE, FULL, 14 * GIB)
        assert writes == (KsmWrite("pages_to_scan", 400), KsmWrite("run", 1))

    def test_it_rests_where_guests_have_little(self) -> None:
        assert ksm_writes(MERGE, IDLE, EASY, 4 * GIB) == ()
        assert ksm_writes(MERGE, state(run=1), EASY, 4 * GIB) == (KsmWrite("run", 0),)

    def test_it_works_harder_under_pressure_and_less_without(self) -> None:
        running = state(run=1)
        pages = []
        for memory in [FULL] * 6 + [EASY] * 40:
            for write in ksm_writes(MERGE, running, memory, 14 * GIB):
                assert write.name == "pages_to_scan"
                running = msgspec.structs.replace(running, pages_to_scan=write.value)
            pages.append(running.pages_to_scan)
        assert pages[:6] == [400, 700, 1000, PAGES_MAX, PAGES_MAX, PAGES_MAX]
        assert pages[-1] == PAGES_MIN
        assert pages[6] == PAGES_MAX - 50

    def test_a_larger_host_sleeps_less_and_never_less_than_the_least(self) -> None:
        small = HostMemory(4 * GIB, 0)
        assert KsmWrite("sleep_millisecs", 40) in ksm_writes(MERGE, state(run=1), small, 4 * GIB)
        large = HostMemory(512 * GIB, 0)
        writes = ksm_writes(MERGE, state(run=1, sleep_ms=20), large, 512 * GIB)
        assert KsmWrite("sleep_millisecs", 10) in writes

    def test_switched_off_it_stops_and_merged_pages_stay_so(self) -> None:
        off = MemoryPolicy()
        assert ksm_writes(off, state(run=1, pages_sharing=9), FULL, 14 * GIB) == (
            KsmWrite("run", 0),
        )
        for run in (0, 2):
            assert ksm_writes(off, state(run=run), FULL, 14 * GIB) == ()

    @pytest.mark.parametrize(
        ("before", "first"),
        [
            (state(run=1, pages_shared=3), [KsmWrite("run", 2)]),
            (state(run=0, pages_shared=3), [KsmWrite("run", 2)]),
            (state(run=0), []),
        ],
    )
    def test_pages_are_taken_apart_before_nodes_are_kept_apart(
        self, before: KsmState, first: list[KsmWrite]
    ) -> None:
        apart = MemoryPolicy(ksm=True, merge_across_nodes=False)
        writes = ksm_writes(apart, before, FULL, 14 * GIB)
        assert list(writes[: len(first) + 1]) == [*first, KsmWrite("merge_across_nodes", 0)]
        assert writes[-1] == KsmWrite("run", 1)


class TestBalloons:
    def test_under_pressure_each_gives_a_twentieth(self) -> None:
        targets = balloon_targets(FULL, [balloon("a"), balloon("b", current=2 * GIB)], enabled=True)
        assert targets[RunKey("a", 1)] == 4 * GIB - round(4 * GIB * 0.05)

    def test_none_goes_below_what_it_is_guaranteed(self) -> None:
        near = balloon(guaranteed=int(3.9 * GIB))
        assert balloon_targets(FULL, [near], enabled=True) == {near.key: int(3.9 * GIB)}
        there = balloon(guaranteed=4 * GIB)
        assert balloon_targets(FULL, [there], enabled=True) == {}

    def test_what_a_guest_uses_stays_with_some_room(self) -> None:
        busy = balloon(usable=round(4 * GIB * (GUEST_FREE + 0.03)))
        (target,) = balloon_targets(FULL, [busy], enabled=True).values()
        assert target == pytest.approx(4 * GIB * 0.97, abs=4)
        full = balloon(usable=GIB // 2)
        assert balloon_targets(FULL, [full], enabled=True) == {}

    def test_a_guest_that_says_nothing_is_left_alone_and_may_get_memory_back(self) -> None:
        silent = balloon(usable=None)
        assert balloon_targets(FULL, [silent], enabled=True) == {}
        small = balloon(usable=None, current=2 * GIB)
        assert balloon_targets(EASY, [small], enabled=True) == {small.key: round(2.1 * GIB)}

    def test_memory_comes_back_as_far_as_there_is_room_the_neediest_first(self) -> None:
        threshold = round(16 * GIB * 0.2)
        memory = HostMemory(16 * GIB, threshold + round(0.12 * GIB))
        guests = [balloon("a", current=3 * GIB), balloon("b", current=2 * GIB)]
        assert balloon_targets(memory, guests, enabled=True) == {RunKey("b", 1): round(2.1 * GIB)}

    def test_the_last_bit_comes_back_too(self) -> None:
        nearly = balloon(current=4 * GIB - 4096)
        assert balloon_targets(EASY, [nearly], enabled=True) == {nearly.key: 4 * GIB}
        assert balloon_targets(EASY, [balloon()], enabled=True) == {}

    def test_switched_off_all_of_it_comes_back_at_once(self) -> None:
        small = balloon(current=2 * GIB)
        assert balloon_targets(FULL, [small], enabled=False) == {small.key: 4 * GIB}
        assert balloon_targets(FULL, [balloon()], enabled=False) == {}

    @given(
        total=st.integers(1 * GIB, 64 * GIB),
        free=st.floats(0, 1),
        parts=st.lists(
            st.tuples(st.integers(GIB // 8, 8 * GIB), *[st.floats(0, 1)] * 3), max_size=5
        ),
        enabled=st.booleans(),
    )
    def test_no_target_is_ever_out_of_bounds(
        self,
        total: int,
        free: float,
        parts: list[tuple[int, float, float, float]],
        enabled: bool,  # noqa: FBT001 - drawn
    ) -> None:
        guests = [
            balloon(
                str(number),
                defined=defined,
                guaranteed=round(defined * guaranteed),
                current=round(defined * current),
                usable=round(defined * current * usable),
            )
            for number, (defined, guaranteed, current, usable) in enumerate(parts)
        ]
        targets = balloon_targets(HostMemory(total, round(total * free)), guests, enabled=enabled)
        for each in guests:
            target = targets.get(each.key, each.current_bytes)
            assert target <= each.defined_bytes
            assert target >= min(each.guaranteed_bytes, each.current_bytes)
            assert target != each.current_bytes or each.key not in targets
