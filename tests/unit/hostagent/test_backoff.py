"""Agents that lost the engine together do not come back together."""

from __future__ import annotations

import random
import statistics

from hostagent.backoff import Backoff


def test_waits_grow_to_a_limit_and_begin_anew() -> None:
    backoff = Backoff(1.0, 8.0, random.Random(1))
    waits = [backoff.next_s() for _ in range(6)]
    for wait, most in zip(waits, (1, 2, 4, 8, 8, 8), strict=True):
        assert most / 2 <= wait <= most
    backoff.reset()
    assert backoff.next_s() <= 1


def test_who_is_told_the_same_time_to_wait_is_spread_all_the_same() -> None:
    """given thousands that were turned away with one Retry-After, then they do not come at once"""
    waits = [Backoff(0.1, 8.0, random.Random(seed)).next_s(10.0) for seed in range(2_000)]
    assert min(waits) >= 10.0
    assert max(waits) <= 15.0
    assert statistics.stdev(waits) > 1.0
