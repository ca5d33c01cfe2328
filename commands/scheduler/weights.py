"""The weights: each gives every host that is left a number from 0 (best) to `WEIGHT_MAX`.

A host's CPU load is what was measured, and what the VMs are reckoned to take that no measurement
shows: those that just came, that it is expected to have, and all of them where nothing is measured
(`load.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from commands.scheduler.bounds import Wish
from commands.scheduler.columns import Columns, Numbers, Reals, Rows
from commands.scheduler.load import VCPU_CONSUMPTION_PERCENT
from commands.scheduler.need import Need
from commands.scheduler.units import WEIGHT_MAX, Weight

_PERMILLE_OF_VCPU = 10 * VCPU_CONSUMPTION_PERCENT
_UNIT_MAX = 2**40
"""Above it, sums of broken rules are made small again before they would overflow."""


def _load(need: Need, columns: Columns, rows: Rows) -> Reals:
    """Return the CPU load with the VM, in permille."""
    return _share(columns.processors_pending, need, columns, rows) + columns.measured[rows]


def _share(processors: Reals, need: Need, columns: Columns, rows: Rows) -> Reals:
    """Return what virtual CPUs and those of the VM are reckoned to take, in permille."""
    per_cpu = columns.per_cpu if need.threads_as_cores else columns.per_core
    share: Reals = (processors[rows] + need.processors) * per_cpu[rows] * _PERMILLE_OF_VCPU
    return share


def _free(need: Need, columns: Columns, rows: Rows) -> Reals:
    """Return the free memory with the VM, 0 where none is left."""
    before = columns.memory_free_expected[rows]
    if need.memory_percent != 100:  # noqa: PLR2004
        before = before + columns.memory[rows] * (need.memory_percent - 100) // 100
    free: Reals = np.maximum(before - need.memory_bytes, 0.0)
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
        crowded = _share(columns.processors_expected, need, columns, rows)
        load[crowded > ratio * _PERMILLE_OF_VCPU] = WEIGHT_MAX
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


def _preferred(need: Need, columns: Columns, rows: Rows) -> Numbers | None:
    if not need.preferred:
        return None
    weights: Numbers = np.where(columns.among(need.preferred)[rows], 0, WEIGHT_MAX)
    return weights


def _spread_highly_available(need: Need, columns: Columns, rows: Rows) -> Numbers | None:
    """Return from 0 (fewest highly available VMs) to 100, divided by ScaleDown."""
    if not need.ha_reservation or not need.highly_available:
        return None
    counts = columns.highly_available[rows]
    least, most = int(counts.min(initial=2**40)), int(counts.max(initial=0))
    if least >= most:
        return None
    share: Numbers = -(-(counts - least) * 100 // (most - least)) // need.scheduling.scale_down
    return share


def _wished(wishes: Sequence[Wish], columns: Columns, rows: Rows) -> Numbers | None:
    """Return how many soft rules each host breaks; one outweighs all those of lower priority."""
    if not wishes:
        return None
    total: Numbers = np.zeros(len(columns.candidates), np.int64)
    unit, before = 1, 0
    ordered = sorted(wishes, key=lambda wish: wish.priority)
    for place, wish in enumerate(ordered):
        if place and wish.priority != ordered[place - 1].priority:
            unit, before = unit * (place - before + 1), place
            if unit > _UNIT_MAX:
                total, unit = _dense(total), len(columns.candidates)
        among = columns.among(wish.hosts)
        total += unit * (~among if wish.wanted else among)
    return np.minimum(_dense(total[rows]), WEIGHT_MAX)


def _dense(weights: Numbers) -> Numbers:
    """Return small numbers in the same order."""
    if int(weights.max(initial=0)) <= WEIGHT_MAX:
        return weights
    found: Numbers = np.unique(weights, return_inverse=True)[1]
    return found


def _vm_wishes(need: Need, columns: Columns, rows: Rows) -> Numbers | None:
    return _wished(need.bounds.vm_wishes, columns, rows) if need.bounds is not None else None


def _host_wishes(need: Need, columns: Columns, rows: Rows) -> Numbers | None:
    return _wished(need.bounds.host_wishes, columns, rows) if need.bounds is not None else None


EVEN_CPU = Weight(name="OptimalForCpuEvenDistribution", weigh=_even_cpu)
EVEN_MEMORY = Weight(name="OptimalForMemoryEvenDistribution", weigh=_even_memory)
EVEN_GUESTS = Weight(name="OptimalForEvenGuestDistribution", weigh=_even_guests)
SAVING_CPU = Weight(name="OptimalForCpuPowerSaving", weigh=_saving_cpu)
SAVING_MEMORY = Weight(name="OptimalForMemoryPowerSaving", weigh=_saving_memory)
PREFERRED = Weight(name="PreferredHosts", weigh=_preferred)
HA_RESERVATION = Weight(name="OptimalForHaReservation", weigh=_spread_highly_available)
VM_AFFINITY = Weight(name="VmAffinityGroups", weigh=_vm_wishes)
HOST_AFFINITY = Weight(name="VmToHostsAffinityGroups", weigh=_host_wishes)


def ranked(weights: Numbers) -> Numbers:
    """Return for each host how many hosts weigh more: equal weights, equal ranks.

    Weights are few whole numbers, so they are counted and not sorted.
    """
    counts = np.bincount(weights, minlength=WEIGHT_MAX + 1)
    worse: Numbers = (len(weights) - np.cumsum(counts))[weights]
    return worse
