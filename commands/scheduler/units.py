"""What a filter and a weight are."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from commands.scheduler.columns import Columns, Mask, Numbers, Rows
from commands.scheduler.need import Candidate, Need

WEIGHT_MAX = 1_000
"""oVirt's MaxSchedulerWeight."""

Passing = Callable[[Need, Columns], Mask | None]
"""Which hosts pass; None where all do."""

Weigh = Callable[[Need, Columns, Rows], Numbers | None]
"""The hosts' weights; None where all are equally good."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """One filter, by oVirt's name where it has one."""

    name: str
    passing: Passing
    objection: Callable[[Need, Candidate], str | None]


class Weight(msgspec.Struct, frozen=True, kw_only=True):
    """One weight, by oVirt's name."""

    name: str
    weigh: Weigh
