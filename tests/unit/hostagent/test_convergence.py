"""When copying stalls, and what each policy does about it."""

from __future__ import annotations

import pytest

from events.types.migration import MigrationPolicy, Tuning
from hostagent.convergence import (
    GO_ON,
    STALLS_PER_RESORT,
    Convergence,
    Copying,
    Move,
    Resort,
)
from hostagent.libvirt_job_stats import read_copying

GIB = 1024**3
P = MigrationPolicy


def rounds(convergence: Convergence, *remaining_mib: int, per_round: int = 1) -> list[Move]:
    """Return what is done as rounds begin with so much left; each is seen `per_round` times."""
    moves, copied = [], 0
    for number, left in enumerate(remaining_mib, start=1):
        for look in range(per_round):
            copied += 1
            seen = Copying(
                total_bytes=GIB,
                remaining_bytes=(left << 20) - look,
                copied_bytes=copied,
                round_number=number,
            )
            move = convergence.look(seen, float(copied))
            if move != GO_ON:
                moves.append(move)
    return moves


def stalled(policy: MigrationPolicy, count: int, **tuning: int) -> list[Move]:
    """Return what is done over so many rounds that never shrink."""
    convergence = Convergence(Tuning(policy=policy, **tuning))
    return rounds(convergence, 1024, *([100] * (count + 1)))


def down_times(moves: list[Move]) -> list[int]:
    return [move.down_time_ms for move in moves if move.down_time_ms is not None]


def resorts(moves: list[Move]) -> list[Resort]:
    return [move.resort for move in moves if move.resort is not None]


def test_what_shrinks_round_by_round_is_left_alone() -> None:
    convergence = Convergence(Tuning())
    assert rounds(convergence, 1024, 400, 100, 30, 9, per_round=5) == []
    assert convergence.stalls == 0


def test_the_second_round_is_compared_with_the_first_one_after_the_whole_memory() -> None:
    convergence = Convergence(Tuning())
    assert rounds(convergence, 1024, 1000) == [Move(down_time_ms=150)]
    assert rounds(Convergence(Tuning()), 1024, 900) == []


def test_down_times_rise_as_in_ovirts_minimal_downtime_and_then_it_is_aborted() -> None:
    moves = stalled(P.MINIMAL_DOWN_TIME, 8)
    assert down_times(moves) == [150, 200, 300, 400, 500]
    assert resorts(moves) == [Resort.ABORT]
    assert moves[-1].resort is Resort.ABORT


def test_it_is_not_aborted_before_the_last_down_time_had_its_chance() -> None:
    assert resorts(stalled(P.MINIMAL_DOWN_TIME, 6 + STALLS_PER_RESORT - 1)) == []


def test_post_copy_comes_after_two_longer_down_times() -> None:
    moves = stalled(P.POST_COPY, 2 + 6)
    assert down_times(moves) == [150, 200]
    assert resorts(moves)[0] is Resort.POST_COPY
    assert Convergence(Tuning(policy=P.POST_COPY)).terms.may_post_copy
    assert not Convergence(Tuning()).terms.may_post_copy


def test_a_workload_is_suspended_after_a_long_down_time() -> None:
    moves = stalled(P.SUSPEND_WORKLOAD, 20)
    assert down_times(moves) == [150, 200, 300, 400, 500, 5_000]
    assert resorts(moves) == [Resort.SUSPEND, Resort.ABORT]


@pytest.mark.parametrize("policy", list(P))
def test_it_is_known_whether_the_workload_was_suspended(policy: MigrationPolicy) -> None:
    convergence = Convergence(Tuning(policy=policy))
    rounds(convergence, 1024, *([100] * 9))
    assert not convergence.suspends, "before the longest down time had its chance"
    rounds(convergence, *([100] * 40))
    assert convergence.suspends is (policy is P.SUSPEND_WORKLOAD)


@pytest.mark.parametrize("policy", list(P))
def test_a_down_time_that_was_set_is_the_longest(policy: MigrationPolicy) -> None:
    convergence = Convergence(Tuning(policy=policy, down_time_ms=160))
    assert convergence.terms.down_time_ms == 100
    moves = rounds(convergence, 1024, *([100] * 20))
    assert down_times(moves) == [150, 160]
    assert resorts(moves)[-1] is Resort.ABORT
    assert Convergence(Tuning(policy=policy, down_time_ms=40)).terms.down_time_ms == 40


def test_rounds_that_were_not_seen_count_and_cause_one_resort_at_a_time() -> None:
    convergence = Convergence(Tuning(policy=P.SUSPEND_WORKLOAD))
    first = Copying(total_bytes=GIB, remaining_bytes=100, copied_bytes=1, round_number=2)
    convergence.look(first, 1.0)
    late = Copying(total_bytes=GIB, remaining_bytes=100, copied_bytes=2, round_number=40)
    assert convergence.look(late, 2.0) == Move(down_time_ms=500)


def test_a_line_on_which_nothing_moves_is_a_stall() -> None:
    convergence = Convergence(Tuning(), still_s=10.0)
    seen = Copying(total_bytes=GIB, remaining_bytes=GIB, copied_bytes=7, round_number=1)
    assert convergence.look(seen, 0.0) == GO_ON
    assert convergence.look(seen, 9.0) == GO_ON
    assert convergence.look(seen, 10.0) == Move(down_time_ms=150)
    assert convergence.look(seen, 11.0) == GO_ON


def test_in_post_copy_nothing_is_done_any_more() -> None:
    convergence = Convergence(Tuning(policy=P.POST_COPY), still_s=1.0)
    seen = Copying(total_bytes=GIB, remaining_bytes=GIB, round_number=1, post_copy=True)
    assert [convergence.look(seen, float(at)) for at in range(50)] == [GO_ON] * 50


def test_percent_is_of_all_memory_and_never_full() -> None:
    assert Copying().percent == 0
    assert Copying(total_bytes=200, remaining_bytes=100).percent == 50
    assert Copying(total_bytes=200, remaining_bytes=0).percent == 99


def test_libvirts_figures_are_read() -> None:
    figures = {
        "type": 2,
        "memory_total": 1000,
        "memory_remaining": 250,
        "memory_processed": 800,
        "memory_bps": 77,
        "memory_dirty_rate": 3,
        "memory_page_size": 4096,
        "memory_iteration": 4,
        "auto_converge_throttle": 20,
    }
    assert read_copying(figures, post_copy=False) == Copying(
        total_bytes=1000,
        remaining_bytes=250,
        copied_bytes=800,
        copied_bytes_per_s=77,
        dirty_bytes_per_s=3 * 4096,
        round_number=4,
        throttle_percent=20,
    )
