"""Whether a VM's memory is copied faster than it changes, and what to do if it is not. Pure.

A round is one pass over the memory that changed in the pass before. Where a round begins with not
much less to copy than the one before it, copying stalls: each stall allows a longer down time, and
after the last of these the policy's last resorts come, one by one. A line on which nothing moves is
a stall as well. The numbers are those of oVirt's migration policies.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from events.types.migration import MigrationPolicy, Tuning

SHRINKS_TO = 0.9
"""A round that begins with more than this part of the one before it is a stall."""
STILL_S = 30.0
"""Nothing copied for so long is a stall."""
STALLS_PER_RESORT = 2
SUSPENDING_DOWN_TIME_MS = 5_000


class Copying(msgspec.Struct, frozen=True, kw_only=True):
    """How far the copying of a VM's memory is, as the hypervisor counts; `round_number` from 1.

    `throttle_percent` is how much the hypervisor slows the VM's CPUs down to keep up; `stopped`
    says that they stand still, for the migration.
    """

    total_bytes: int = 0
    remaining_bytes: int = 0
    copied_bytes: int = 0
    copied_bytes_per_s: int = 0
    dirty_bytes_per_s: int = 0
    round_number: int = 0
    throttle_percent: int = 0
    post_copy: bool = False
    stopped: bool = False

    @property
    def percent(self) -> int:
        """How much of the memory is there: never 100, which is said by its end alone."""
        if not self.total_bytes:
            return 0
        there = self.total_bytes - self.remaining_bytes
        return max(0, min(99, 100 * there // self.total_bytes))


class Resort(enum.StrEnum):
    """What a policy comes to when longer down times did not help."""

    LONG_DOWN_TIME = "long_down_time"
    POST_COPY = "post_copy"
    SUSPEND = "suspend"
    ABORT = "abort"


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done now: a down time to allow, or a resort; nothing if both are None."""

    down_time_ms: int | None = None
    resort: Resort | None = None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How copying begins: the down time to allow, the most that it may take (None: no limit), and
    whether it may come to post-copy, which the hypervisor has to know from the start.

    `there` is what the VM is to be at the destination, in the hypervisor's words, secrets included;
    "" where that is what it is here.
    """

    down_time_ms: int
    bandwidth_bytes_per_s: int | None = None
    may_post_copy: bool = False
    there: str = ""

    def __repr__(self) -> str:
        """Say nothing of `there`: this may land in a log."""
        return f"Terms(down_time_ms={self.down_time_ms}, may_post_copy={self.may_post_copy})"


Look = Callable[[Copying], Move]
"""Is shown every now and then how far copying is, and says what to do."""
GO_ON = Move()
ABORT = Move(resort=Resort.ABORT)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's table: after so many stalls, this down time; then the last resorts."""

    start_down_time_ms: int
    steps: tuple[tuple[int, int], ...]
    last: tuple[Resort, ...]


_STEPS = ((1, 150), (2, 200), (3, 300), (4, 400), (6, 500))
POLICIES = {
    MigrationPolicy.MINIMAL_DOWN_TIME: Policy(
        start_down_time_ms=100, steps=_STEPS, last=(Resort.ABORT,)
    ),
    MigrationPolicy.POST_COPY: Policy(
        start_down_time_ms=100, steps=_STEPS[:2], last=(Resort.POST_COPY, Resort.ABORT)
    ),
    MigrationPolicy.SUSPEND_WORKLOAD: Policy(
        start_down_time_ms=100,
        steps=_STEPS,
        last=(Resort.LONG_DOWN_TIME, Resort.SUSPEND, Resort.ABORT),
    ),
}


class Convergence:
    """Watches one migration. `look` is told what the hypervisor counts, and says what to do.

    `down_time_ms` is what it allows by now; `suspends` is whether it had the VM stopped.
    """

    def __init__(self, tuning: Tuning, *, still_s: float = STILL_S) -> None:
        self._bandwidth_bytes_per_s = tuning.bandwidth_bytes_per_s
        self._policy = POLICIES[tuning.policy]
        self._still_s = still_s
        self._down_time_ms_max = tuning.down_time_ms
        self.down_time_ms = self._allowed(self._policy.start_down_time_ms)
        self.stalls = 0
        self.suspends = False
        self._resorts = 0
        self._round = 0
        self._began_with_bytes = 0
        self._copied_bytes = -1
        self._moved_at_s: float | None = None

    @property
    def terms(self) -> Terms:
        """How copying begins."""
        return Terms(
            down_time_ms=self.down_time_ms,
            bandwidth_bytes_per_s=self._bandwidth_bytes_per_s,
            may_post_copy=Resort.POST_COPY in self._policy.last,
        )

    def look(self, seen: Copying, at_s: float) -> Move:
        """Return what is to be done; `at_s` is now, on a clock that never jumps."""
        if seen.post_copy:
            return GO_ON  # there is no way back, and it ends by itself
        if not self._stalled(seen, at_s):
            return GO_ON
        wanted = [ms for after, ms in self._policy.steps if after <= self.stalls]
        down_time_ms = self._allowed(wanted[-1]) if wanted else self.down_time_ms
        if down_time_ms > self.down_time_ms:
            self.down_time_ms = down_time_ms
            return Move(down_time_ms=down_time_ms)
        return self._resort()

    def _stalled(self, seen: Copying, at_s: float) -> bool:
        """Count stalls; tell whether there was a new one."""
        if self._moved_at_s is None or seen.copied_bytes != self._copied_bytes:
            self._moved_at_s, self._copied_bytes = at_s, seen.copied_bytes
        elif at_s - self._moved_at_s >= self._still_s:
            self._moved_at_s = at_s
            self.stalls += 1
            return True
        if seen.round_number <= self._round:
            return False
        rounds, first = seen.round_number - self._round, self._round < 1
        before, self._began_with_bytes = self._began_with_bytes, seen.remaining_bytes
        self._round = seen.round_number
        if first or seen.remaining_bytes <= SHRINKS_TO * before:
            return False
        self.stalls += rounds
        return True

    def _resort(self) -> Move:
        """Return the next of the last resorts, once it has stalled often enough for it."""
        last, policy = self._policy.steps[-1][0], self._policy
        due = last + STALLS_PER_RESORT * (self._resorts + 1)
        if self.stalls < due:
            return GO_ON
        self.stalls = due  # rounds that were missed do not add up to two resorts at once
        while self._resorts < len(policy.last):
            resort = policy.last[self._resorts]
            self._resorts += 1
            if resort is not Resort.LONG_DOWN_TIME:
                self.suspends = self.suspends or resort is Resort.SUSPEND
                return Move(resort=resort)
            allowed = self._allowed(SUSPENDING_DOWN_TIME_MS)
            if allowed > self.down_time_ms:
                self.down_time_ms = allowed
                return Move(down_time_ms=allowed)
        return GO_ON

    def _allowed(self, down_time_ms: int) -> int:
        limit = self._down_time_ms_max
        return down_time_ms if limit is None else min(limit, down_time_ms)
