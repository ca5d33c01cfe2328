"""Filters and weights for VMs that are pinned to CPUs, bound to NUMA nodes, or take huge pages.

They ask nothing of the columns for any other VM. A host that does not tell of its hardware has no
NUMA nodes and no huge pages.
"""

from __future__ import annotations

import numpy as np

from commands.scheduler.columns import (
    Columns,
    Mask,
    Numbers,
    Rows,
    node_free,
    own_cpus,
    pages_free,
    threads_of_cores,
)
from commands.scheduler.dedicating import wanted_cores
from commands.scheduler.layout import (
    bound_nodes,
    cpus_there,
    nodes_of,
    pinned_cpus,
    same_tsc,
)
from commands.scheduler.need import Candidate, Need
from commands.scheduler.units import WEIGHT_MAX, Filter, Weight
from events.types.vm_tuning import CpuPolicy, spelled

_MIB = 1024**2
_MHZ = 1_000_000


def _pins(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if abilities is None:
        return None
    if need.tuning.cpu_policy is not CpuPolicy.NONE:
        return _too_few_of_its_own(need, candidate)
    pinned = pinned_cpus(need.tuning)
    missing = pinned - cpus_there(abilities)
    if missing:
        return f"It has no CPU {spelled(missing)}, which the VM is pinned to."
    taken = pinned & candidate.special.dedicated.keys()
    if not taken:
        return None
    return f"CPU {spelled(taken)}, which the VM is pinned to, is another VM's own."


def _too_few_of_its_own(need: Need, candidate: Candidate) -> str | None:
    count, threads = wanted_cores(need.tuning, need.topology)
    there = own_cpus(candidate, threads)
    if there >= count:
        return None
    whose, what = ("cores", "CPUs") if threads else ("virtual CPUs", "a core")
    return (
        f"{there} of the VM's {count} {whose} would have {what} of their own;"
        " the host keeps its first core."
    )


def _with_cpus(need: Need, columns: Columns) -> Mask | None:
    if need.tuning.cpu_policy is not CpuPolicy.NONE:
        count, threads = wanted_cores(need.tuning, need.topology)
        enough: Mask = columns.figures("own_cpus", threads) >= count
        return enough
    if not need.tuning.pins:
        return None
    pinned = pinned_cpus(need.tuning)
    bits = sum(1 << cpu for cpu in pinned)
    there = columns.having("cpus", spelled(pinned))
    mask: Mask = there & (columns.figures("taken_among", bits) == 0)
    return mask


def _cores(need: Need, candidate: Candidate) -> str | None:
    if need.tuning.cpu_policy is CpuPolicy.NONE:
        return None
    threads = threads_of_cores(candidate)
    if not threads:
        return "It does not tell which of its CPUs make up a core."
    least = max(1, wanted_cores(need.tuning, need.topology)[1])
    if threads >= least:
        return None
    return f"Its cores have {threads} threads, the VM's {least}, which are to be on one core."


def _with_cores(need: Need, columns: Columns) -> Mask | None:
    if need.tuning.cpu_policy is CpuPolicy.NONE:
        return None
    least = max(1, wanted_cores(need.tuning, need.topology)[1])
    mask: Mask = columns.figures("threads_of_cores") >= least
    return mask


def _nodes(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if not need.tuning.numa_nodes or abilities is None:
        return None
    missing = bound_nodes(need.tuning) - nodes_of(abilities).keys()
    if missing:
        return f"It has no NUMA node {spelled(missing)}, which the VM's memory is taken of."
    for number, wanted in need.special.nodes.items():
        free = node_free(candidate, number)
        if free < wanted:
            return (
                f"Its NUMA node {number} has {max(0, free) // _MIB} MiB that are not bound to VMs,"
                f" {wanted // _MIB} are needed."
            )
    return None


def _with_nodes(need: Need, columns: Columns) -> Mask | None:
    if not need.tuning.numa_nodes:
        return None
    mask = columns.having("numa_nodes", spelled(bound_nodes(need.tuning)))
    for number, wanted in need.special.nodes.items():
        mask = mask & (columns.figures("node_free", number) >= wanted)
    return mask


def _pages(need: Need, candidate: Candidate) -> str | None:
    for size, wanted in need.special.pages.items():
        free = pages_free(candidate, size)
        if free < wanted:
            return (
                f"It has {max(0, free)} huge pages of {size // _MIB} MiB free, {wanted} are needed."
            )
    return None


def _with_pages(need: Need, columns: Columns) -> Mask | None:
    mask: Mask | None = None
    for size, wanted in need.special.pages.items():
        enough: Mask = columns.figures("pages_free", size) >= wanted
        mask = enough if mask is None else mask & enough
    return mask


def _counter(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if not need.tsc_hz or abilities is None:
        return None
    rate = abilities.hardware.tsc_hz if abilities.hardware is not None else 0
    if same_tsc(need.tsc_hz, rate):
        return None
    own = f"runs at {rate / _MHZ:.3f} MHz" if rate else "is not known"
    source = f"the one of the VM's host at {need.tsc_hz / _MHZ:.3f} MHz"
    return f"Its time-stamp counter {own}, {source}."


def _with_counter(need: Need, columns: Columns) -> Mask | None:
    return columns.having("tsc_hz", str(need.tsc_hz)) if need.tsc_hz else None


def _high_performance(need: Need, columns: Columns, rows: Rows) -> Numbers | None:
    """Prefer hosts with as many sockets, cores and threads as a high-performance VM."""
    if not need.tuning.high_performance:
        return None
    enough = (
        (columns.figures("sockets") >= need.topology.sockets)
        & (columns.figures("cores") >= need.topology.cores)
        & (columns.figures("threads") >= need.topology.threads)
    )
    return _worst_but(enough, rows)


def _pinning(need: Need, columns: Columns, rows: Rows) -> Numbers | None:
    """Prefer hosts where the CPUs that a VM is pinned to are near the memory that it is given."""
    if not need.tuning.pins or not need.tuning.numa_nodes:
        return None
    return _worst_but(columns.agreeing(need.tuning), rows)


def _one_node(need: Need, columns: Columns, rows: Rows) -> Numbers | None:
    """Prefer hosts where a VM that sees no NUMA nodes fits one of the host's."""
    if need.tuning.numa_nodes:
        return None
    huge = sum(size * count for size, count in need.special.pages.items())
    fits = (columns.figures("largest_node") >= need.memory_bytes + huge) & (
        columns.figures("cpus_of_a_node") >= need.processors
    )
    return _worst_but(fits, rows)


def _worst_but(good: Mask, rows: Rows) -> Numbers:
    weights: Numbers = np.where(good[rows], 0, WEIGHT_MAX)
    return weights


TUNING_FILTERS = (
    Filter(name="CPUTopology", passing=_with_cores, objection=_cores),
    Filter(name="CpuPinning", passing=_with_cpus, objection=_pins),
    Filter(name="NUMA", passing=_with_nodes, objection=_nodes),
    Filter(name="HugePages", passing=_with_pages, objection=_pages),
    Filter(name="Migration-Tsc-Frequency", passing=_with_counter, objection=_counter),
)
HIGH_PERFORMANCE = Weight(name="CPU for high performance VMs", weigh=_high_performance)
PINNING = Weight(name="CPU and NUMA pinning compatibility", weigh=_pinning)
ONE_NODE = Weight(name="Fit VM to single host NUMA node", weigh=_one_node)
