"""The weights: each gives every host that is left a number from 0 (best) to `WEIGHT_MAX`.

No load is measured here, for no measurement is an event: a host's CPU load is what the VMs that it
has, and is expected to have, are reckoned to take.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from commands.scheduler.columns import Columns, Numbers, Reals, Rows
from commands.scheduler.filters import VCPU_CONSUMPTION_PERCENT
from commands.scheduler.need import Need

WEIGHT_MAX = 1_000
"""oVirt's MaxSchedulerWeight."""
_PERMILLE_OF_VCPU = 10 * VCPU_CONSUMPTION_PERCENT

Weigh = Callable[[Need, Columns, Rows], Numbers]


class Weight(msgspec.Struct, frozen=True, kw_only=True):
    """One weight, by oVirt's name."""

    name: str
    weigh: Weigh


def _load(need: Need, columns: Columns, rows: Rows) -> Reals:
    """Return the CPU load with the VM, in permille."""
    processors = columns.processors_expected[rows] + need.processors
    load: Reals = processors * columns.per_cpu[rows] * _PERMILLE_OF_VCPU
    return load


def _free(need: Need, columns: Columns, rows: Rows) -> Reals:
    """Return the free memory with the VM, 0 where none is left."""
    free: Reals = np.maximum(columns.memory_free_expected[rows] - need.memory_bytes, 0.0)
    return free


def _share_free(free: Reals) -> Reals:
    """Return free memory in thousandths of the most that any host has."""
    share: Reals = free * (WEIGHT_MAX / max(1.0, float(free.max(initial=0.0))))
    return share


def _whole(weights: Reals) -> Numbers:
    return np.minimum(weights, WEIGHT_MAX).astype(np.int64)


def _even_cpu(need: Need, columns: Columns, rows: Rows) -> Numbers:
    load = _load(need, columns, rows)
    ratio = need.scheduling.vcpu_to_physical_cpu_ratio
    if ratio > 0:
        load[load > ratio * _PERMILLE_OF_VCPU] = WEIGHT_MAX
    return _whole(load)


def _even_memory(need: Need, columns: Columns, rows: Rows) -> Numbers:
    return _whole(WEIGHT_MAX - _share_free(_free(need, columns, rows)))


def _even_guests(need: Need, columns: Columns, rows: Rows) -> Numbers:
    return np.minimum(columns.vms[rows], WEIGHT_MAX)


def _saving_cpu(need: Need, columns: Columns, rows: Rows) -> Numbers:
    load = _load(need, columns, rows)
    weights = WEIGHT_MAX - np.minimum(load, WEIGHT_MAX)
    weights[load > 10 * need.scheduling.high_utilization_percent] = WEIGHT_MAX
    return _whole(weights)


def _saving_memory(need: Need, columns: Columns, rows: Rows) -> Numbers:
    free = _free(need, columns, rows)
    weights = _share_free(free)
    low = need.scheduling.max_free_memory_for_over_utilized_bytes
    high = need.scheduling.min_free_memory_for_under_utilized_bytes
    if low is not None:
        weights[free < low] = WEIGHT_MAX
    if high is not None:
        weights[free > high] = WEIGHT_MAX
    return _whole(weights)


EVEN_CPU = Weight(name="OptimalForCpuEvenDistribution", weigh=_even_cpu)
EVEN_MEMORY = Weight(name="OptimalForMemoryEvenDistribution", weigh=_even_memory)
EVEN_GUESTS = Weight(name="OptimalForEvenGuestDistribution", weigh=_even_guests)
SAVING_CPU = Weight(name="OptimalForCpuPowerSaving", weigh=_saving_cpu)
SAVING_MEMORY = Weight(name="OptimalForMemoryPowerSaving", weigh=_saving_memory)


def ranked(weights: Numbers) -> Numbers:
    """Return for each host how many hosts weigh more: equal weights, equal ranks.

    Weights are few whole numbers, so they are counted and not sorted.
    """
    counts = np.bincount(weights, minlength=WEIGHT_MAX + 1)
    worse: Numbers = (len(weights) - np.cumsum(counts))[weights]
    return worse
