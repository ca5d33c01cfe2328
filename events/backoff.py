"""Waiting longer after each failure, within bounds and with jitter, until something works again."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """The waits between attempts: doubled each time up to a maximum, each shortened by chance.

    The jitter keeps many clients from coming back to a recovered server at one instant.
    """

    def __init__(self, *, first_s: float = 0.1, max_s: float = 5.0) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self.failures = 0

    def reset(self) -> None:
        """Begin anew: the last attempt worked."""
        self.failures = 0

    def next_s(self) -> float:
        """Count a failure and return how long to wait before the next attempt, in seconds."""
        doublings = min(self.failures, 30)
        self.failures += 1
        longest = min(self._max_s, self._first_s * 2.0**doublings)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  jitter is no secret

    async def wait(self) -> None:
        """Count a failure and wait before the next attempt."""
        await asyncio.sleep(self.next_s())
