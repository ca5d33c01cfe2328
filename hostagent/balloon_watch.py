"""Which balloons do not do what is asked of them. Pure, but for what it remembers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from events.types.vm_memory import BalloonProblem
from hostagent.memory_policy import Balloon
from hostagent.records import RunKey

LOOKS_MAX = 3
"""A problem that is there for so many looks is told: oVirt's IterationsWithBalloonProblem."""


class BalloonWatch:
    """What was asked of each balloon, and how often in a row nothing came of it."""

    def __init__(self) -> None:
        self.problems: dict[RunKey, BalloonProblem] = {}
        self._asked: dict[RunKey, tuple[int, int]] = {}
        self._failed: Counter[RunKey] = Counter()

    def asked(self, balloons: Sequence[Balloon], targets: Mapping[RunKey, int]) -> None:
        """Note what is asked of balloons now."""
        sizes = {each.key: each.current_bytes for each in balloons}
        self._asked = {key: (sizes[key], to) for key, to in targets.items()}

    def look(self, balloons: Sequence[Balloon], *, enabled: bool, short: bool) -> set[RunKey]:
        """Judge balloons as they are now; return those whose problem is another than before.

        `short`: the host wants memory back. Of one of which nothing is asked, what was known stays.
        """
        before = dict(self.problems)
        there = {each.key: each for each in balloons} if enabled else {}
        for key in [*self._failed, *self.problems]:
            if key not in there:
                self._failed.pop(key, None)
                self.problems.pop(key, None)
        for each in there.values():
            found = self._found(each, short=short)
            if found is None:
                continue
            if found is BalloonProblem.NONE:
                self._failed.pop(each.key, None)
                self.problems.pop(each.key, None)
                continue
            self._failed[each.key] += 1
            if self._failed[each.key] >= LOOKS_MAX:
                self.problems[each.key] = found
        keys = {*before, *self.problems}
        return {key for key in keys if before.get(key) is not self.problems.get(key)}

    def _found(self, each: Balloon, *, short: bool) -> BalloonProblem | None:
        """Return what a balloon lacks; None where nothing can be told."""
        if each.usable_bytes is None:
            could_give = short and each.current_bytes > each.guaranteed_bytes
            return BalloonProblem.SILENT if could_give else None
        asked = self._asked.get(each.key)
        if asked is None:
            silent = self.problems.get(each.key) is BalloonProblem.SILENT
            return BalloonProblem.NONE if silent else None
        size, to = asked
        moved = abs(to - each.current_bytes) < abs(to - size)
        return BalloonProblem.NONE if moved else BalloonProblem.UNCONTROLLED
