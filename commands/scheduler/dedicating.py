"""Which CPUs of a host become a VM's alone: how many there are, and which it gets.

A virtual core's threads come to lie on one core of the host. The host's first core is nobody's
own: whatever has no CPUs of its own runs there. CPUs that VMs are pinned to stay theirs, too.
"""

from __future__ import annotations

import functools

from commands.scheduler.layout import UNKNOWN_CPU, Special, nodes_of
from events.types.host import Capabilities
from events.types.run_spec import Topology
from events.types.vm_tuning import CpuPin, CpuPolicy, Dedicated, Tuning, members, spelled

Cpus = frozenset[int]
Core = tuple[Cpus, Cpus]
"""A core's CPUs, and those of them that are free."""
LAYOUTS_MAX = 4_096
"""So many layouts of cores are kept ready: hosts of one kind have the same."""


def wanted_cores(tuning: Tuning, topology: Topology) -> tuple[int, int]:
    """Return on how many cores a VM wants CPUs of its own, and how many on each (0: all of it)."""
    if tuning.cpu_policy is CpuPolicy.ISOLATE_THREADS:
        return topology.count, 0
    return topology.sockets * topology.cores, topology.threads


def core_threads(abilities: Capabilities) -> int:
    """Return how many threads a core of the host has at the most; 0 where it does not tell."""
    return max(map(len, _cores(abilities)), default=0)


def room(abilities: Capabilities, special: Special, threads: int) -> int:
    """Return how many times so many CPUs of one core are free (0: all of it)."""
    return sum(_times(core, threads) for core in _free(abilities, special))


def dedicated(
    abilities: Capabilities, special: Special, tuning: Tuning, topology: Topology
) -> Dedicated | None:
    """Return the CPUs that a VM gets, None where there are too few.

    They are of one NUMA node where one has enough: of the one that has the least of these. Cores
    that are in use already come first, so that others stay whole.
    """
    count, threads = wanted_cores(tuning, topology)
    chosen: list[int] = []
    taken: set[int] = set()
    for whole, free in _in_order(_free(abilities, special), abilities, count, threads):
        several = min(_times((whole, free), threads), count)
        count -= several
        chosen += sorted(free)[: several * (threads or 1)]
        taken |= whole if several and not threads else set()
    if count:
        return None
    pins = tuple(CpuPin(vcpu=vcpu, cpus=str(cpu)) for vcpu, cpu in enumerate(chosen))
    return Dedicated(pins=pins, cpus=spelled(taken.union(chosen)))


def _in_order(cores: list[Core], abilities: Capabilities, count: int, threads: int) -> list[Core]:
    nodes = [members(node.cpus) for node in nodes_of(abilities).values()]
    groups = [[core for core in cores if core[0] <= node] for node in nodes] or [cores]
    has = {id(group): sum(_times(core, threads) for core in group) for group in groups}
    groups.sort(key=lambda group: -has[id(group)])
    enough = [group for group in groups if has[id(group)] >= count]
    return [
        core
        for group in enough[-1:] or groups
        for core in sorted(group, key=lambda core: (len(core[1]), min(core[0])))
    ]


def _times(core: Core, threads: int) -> int:
    whole, free = core
    return len(free) // threads if threads else int(whole == free)


def _free(abilities: Capabilities, special: Special) -> list[Core]:
    """Return all cores but the first, with the CPUs of them that are nobody's."""
    if UNKNOWN_CPU in special.dedicated:
        return []
    cores = _cores(abilities)[1:]
    if not special.dedicated and not special.pinned:
        return [(core, core) for core in cores]
    taken = special.dedicated.keys() | special.pinned.keys()
    return [(core, core - taken) for core in cores]


def _cores(abilities: Capabilities) -> tuple[Cpus, ...]:
    return _read(abilities.hardware.cores) if abilities.hardware is not None else ()


@functools.lru_cache(LAYOUTS_MAX)
def _read(cores: str) -> tuple[Cpus, ...]:
    return tuple(sorted(map(members, cores.split()), key=min))
