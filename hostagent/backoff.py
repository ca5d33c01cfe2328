"""Waiting between attempts: longer each time, never beyond a limit, and never in step."""

from __future__ import annotations

import random

_DOUBLINGS_MAX = 16


class Backoff:
    """Delays that double, each shortened by chance by up to a half, so that hosts spread out."""

    def __init__(self, min_s: float, max_s: float, dice: random.Random | None = None) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._dice = dice or random.Random()  # noqa: S311
        self._attempts = 0

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Return how long to wait now: no less than `at_least_s`, which all may have been told.

        So that is lengthened by chance by up to a half: else they would all come back at once.
        """
        delay = min(self._max_s, self._min_s * 2.0 ** min(self._attempts, _DOUBLINGS_MAX))
        self._attempts += 1
        by_chance = self._dice.uniform(0.5, 1.0)
        return max(at_least_s * (0.5 + by_chance), delay * by_chance)

    def reset(self) -> None:
        """Begin anew, since an attempt succeeded."""
        self._attempts = 0
