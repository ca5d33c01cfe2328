"""A cluster's hosts as columns: what filters and weights look at, for all hosts at once.

Row n of each column is the n-th host by name. Rows change in place, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from commands.scheduler.dedicating import core_threads, room
from commands.scheduler.layout import (
    agrees,
    cpus_there,
    nodes_of,
    ordinary_memory_of,
    pages_of,
    same_tsc,
    swap_pressure,
)
from commands.scheduler.load import measured, pending
from commands.scheduler.need import HOST_RESERVE_BYTES, Candidate, Need, cpus_of
from commands.state.host import HostStatus
from events.types.host import Capabilities
from events.types.vm_tuning import Tuning, members

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp] | slice
Key = TypeVar("Key")
Column = TypeVar("Column")
NAMES_MAX = 256
"""So many names (machine types, CPU models, bridges) have columns at a time."""
FIGURES_MAX = 32
"""So many figures of hosts; few of them are worked out anew when a VM comes or goes."""
_NO_LIMIT = 2**40


class Columns:
    """The columns of one cluster. `index` finds a host's row.

    A host that has not said what it can do is let through by all filters but `known`.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = sorted(candidates, key=lambda candidate: candidate.host.name)
        self.index = {candidate.host.id: row for row, candidate in enumerate(self.candidates)}
        rows = len(self.candidates)
        self.up: Mask = np.zeros(rows, np.bool_)
        self.known: Mask = np.zeros(rows, np.bool_)
        self.stores: Mask = np.zeros(rows, np.bool_)
        self.takes_in: Mask = np.zeros(rows, np.bool_)
        self.memory_free: Numbers = np.zeros(rows, np.int64)
        self.memory_to_guarantee: Numbers = np.zeros(rows, np.int64)
        self.swap_pressure: Numbers = np.zeros(rows, np.int64)
        self.cpus: Numbers = np.zeros(rows, np.int64)
        self.cpus_dedicated: Numbers = np.zeros(rows, np.int64)
        self.processors_reckoned: Numbers = np.zeros(rows, np.int64)
        self.memory_free_expected: Reals = np.zeros(rows, np.float64)
        self.processors_expected: Reals = np.zeros(rows, np.float64)
        self.processors_pending: Reals = np.zeros(rows, np.float64)
        self.measured: Reals = np.zeros(rows, np.float64)
        self.per_cpu: Reals = np.zeros(rows, np.float64)
        self.cores: Numbers = np.zeros(rows, np.int64)
        self.per_core: Reals = np.zeros(rows, np.float64)
        self.vms: Numbers = np.zeros(rows, np.int64)
        self.memory: Numbers = np.zeros(rows, np.int64)
        self.highly_available: Numbers = np.zeros(rows, np.int64)
        self._sets: dict[frozenset[str], Mask] = {}
        self._named: dict[tuple[str, str], Mask] = {}
        self._agreeing: dict[Tuning, Mask] = {}
        self._figures: dict[tuple[str, int], Numbers] = {}
        for row in range(rows):
            self._fill(row)

    def set(self, row: int, candidate: Candidate) -> None:
        """Change one host's row."""
        before = self.candidates[row]
        self.candidates[row] = candidate
        self._fill(row)
        reported = candidate.host.capabilities is not before.host.capabilities
        others, read = candidate.special is not before.special, candidate.load is not before.load
        if reported or others or read:
            for (kind, key), figures in self._figures.items():
                if reported or (others and kind in _OF_VMS) or (read and kind in _OF_READINGS):
                    figures[row] = _FIGURES[kind](candidate, key)
        if reported:
            for (kind, name), column in self._named.items():
                column[row] = _has(candidate, kind, name)
            for tuning, mask in self._agreeing.items():
                mask[row] = _agrees(candidate, tuning)

    def having(self, kind: str, name: str) -> Mask:
        """Return which hosts have a name among those that `_NAMES` looks at."""
        column = self._named.get((kind, name))
        if column is None:
            column = np.fromiter(
                (_has(candidate, kind, name) for candidate in self.candidates),
                np.bool_,
                len(self.candidates),
            )
            _keep(self._named, (kind, name), column, NAMES_MAX)
        return column

    def figures(self, kind: str, key: int = 0) -> Numbers:
        """Return a figure of each host: one of `_FIGURES`, of a page size or a NUMA node."""
        column = self._figures.get((kind, key))
        if column is None:
            found = (_FIGURES[kind](candidate, key) for candidate in self.candidates)
            column = np.fromiter(found, np.int64, len(self.candidates))
            _keep(self._figures, (kind, key), column, FIGURES_MAX)
        return column

    def agreeing(self, tuning: Tuning) -> Mask:
        """Return on which hosts a VM's pins agree with the nodes that its memory is taken of."""
        column = self._agreeing.get(tuning)
        if column is None:
            found = (_agrees(candidate, tuning) for candidate in self.candidates)
            column = np.fromiter(found, np.bool_, len(self.candidates))
            _keep(self._agreeing, tuning, column, FIGURES_MAX)
        return column

    def among(self, hosts: Collection[str]) -> Mask:
        """Return which hosts are among these; sets that cannot change are looked up once."""
        known = self._sets.get(hosts) if isinstance(hosts, frozenset) else None
        if known is not None:
            return known
        mask: Mask = np.zeros(len(self.candidates), np.bool_)
        mask[[self.index[host] for host in hosts if host in self.index]] = True
        if isinstance(hosts, frozenset):
            _keep(self._sets, hosts, mask, NAMES_MAX)
        return mask

    def counted(self, need: Need) -> Numbers:
        """Return how many CPUs each host counts as having."""
        return self.cpus if need.threads_as_cores else self.cores

    def over_commit(self, percent: int) -> Numbers | int:
        """Return the memory that each host gives out beyond what it has, in bytes."""
        return self.memory * (percent - 100) // 100 if percent != 100 else 0  # noqa: PLR2004

    def _fill(self, row: int) -> None:
        candidate = self.candidates[row]
        abilities = candidate.host.capabilities
        self.up[row] = candidate.host.status is HostStatus.UP
        self.known[row] = abilities is not None
        self.processors_expected[row] = candidate.processors_expected
        self._fill_load(row, candidate)
        self.vms[row] = candidate.vms_expected
        self.highly_available[row] = candidate.highly_available
        self.memory[row] = ordinary_memory_of(abilities) if abilities else 0
        memory = int(self.memory[row]) - HOST_RESERVE_BYTES if abilities else 0
        self.memory_free[row] = memory - candidate.memory_taken_bytes
        self.memory_to_guarantee[row] = memory - candidate.guaranteed_taken_bytes
        self.memory_free_expected[row] = memory - candidate.memory_expected_bytes
        self.swap_pressure[row] = swap_pressure(abilities)
        self.cpus[row] = abilities.cpus if abilities else _NO_LIMIT
        self.cpus_dedicated[row] = len(candidate.special.dedicated)
        self.per_cpu[row] = 1 / max(1, abilities.cpus) if abilities else 0
        cores = cpus_of(abilities, threads_as_cores=False) if abilities else _NO_LIMIT
        self.cores[row] = cores
        self.per_core[row] = 1 / max(1, cores) if abilities else 0
        self.takes_in[row] = abilities is None or bool(abilities.migration_address)
        self.stores[row] = abilities is None or abilities.storage_free_bytes > 0

    def _fill_load(self, row: int, candidate: Candidate) -> None:
        """Fill in what the CPU load is made of: what is measured, and the VMs that are not.

        `measured` is in thousandths; `processors_pending` are those that no reading shows, VMs
        that will run there among them. `processors_reckoned` is 0 where something is measured.
        """
        load, taken = candidate.load, candidate.processors_taken
        self.processors_reckoned[row] = taken if load is None else 0
        self.processors_pending[row] = pending(load, taken) + candidate.processors_expected - taken
        abilities = candidate.host.capabilities
        cpus = max(1, abilities.cpus) if abilities else 1
        self.measured[row] = measured(load, taken) / cpus


def _keep(kept: dict[Key, Column], key: Key, column: Column, at_most: int) -> None:
    """Keep a column for whoever asks for it again; where there are too many, the oldest goes."""
    if len(kept) >= at_most:
        del kept[next(iter(kept))]
    kept[key] = column


_NAMES: dict[str, Callable[[Capabilities], tuple[str, ...]]] = {
    "machine_types": lambda abilities: abilities.machine_types,
    "cpu_models": lambda abilities: abilities.cpu_models,
    "bridges": lambda abilities: abilities.bridges,
    "storage_ids": lambda abilities: (abilities.storage_id,),
}
_SETS: dict[str, Callable[[Capabilities], Collection[int]]] = {
    "cpus": cpus_there,
    "numa_nodes": nodes_of,
}
"""Numbers of which a host must have all: the name is a set such as `0-3,8`."""


def _has(candidate: Candidate, kind: str, name: str) -> bool:
    abilities = candidate.host.capabilities
    if abilities is None:
        return True
    if kind in _SETS:
        return members(name).issubset(_SETS[kind](abilities))
    if kind == "tsc_hz":
        rate = abilities.hardware.tsc_hz if abilities.hardware is not None else 0
        return same_tsc(int(name), rate)
    return name in _NAMES[kind](abilities)


def _agrees(candidate: Candidate, tuning: Tuning) -> bool:
    abilities = candidate.host.capabilities
    return abilities is None or agrees(tuning, abilities)


def pages_free(candidate: Candidate, size_bytes: int) -> int:
    """Return how many huge pages of a size no VM has."""
    abilities = candidate.host.capabilities
    if abilities is None:
        return _NO_LIMIT
    return pages_of(abilities, size_bytes) - candidate.special.pages.get(size_bytes, 0)


def node_free(candidate: Candidate, number: int) -> int:
    """Return how many bytes of a NUMA node are not bound to VMs; 0 where it is not there."""
    abilities = candidate.host.capabilities
    if abilities is None:
        return _NO_LIMIT
    node = nodes_of(abilities).get(number)
    return node.memory_bytes - candidate.special.nodes.get(number, 0) if node is not None else 0


def own_cpus(candidate: Candidate, threads: int) -> int:
    """Return how many times so many CPUs of one core are nobody's (0: all of the core)."""
    abilities = candidate.host.capabilities
    return _NO_LIMIT if abilities is None else room(abilities, candidate.special, threads)


def taken_among(candidate: Candidate, cpus: int) -> int:
    """Return how many of some CPUs are a VM's alone; bit n of `cpus` stands for CPU n."""
    return sum(cpus >> cpu & 1 for cpu in candidate.special.dedicated if cpu >= 0)


def threads_of_cores(candidate: Candidate, _key: int = 0) -> int:
    """Return how many threads the host's cores have; 0 where it does not tell of its cores."""
    abilities = candidate.host.capabilities
    return _NO_LIMIT if abilities is None else core_threads(abilities)


def _of_topology(name: str) -> Callable[[Candidate, int], int]:
    def figure(candidate: Candidate, _key: int) -> int:
        abilities = candidate.host.capabilities
        known = abilities.hardware if abilities is not None else None
        return getattr(known.topology, name) if known is not None else 0

    return figure


def _largest_node(candidate: Candidate, _key: int) -> int:
    abilities = candidate.host.capabilities
    nodes = nodes_of(abilities).values() if abilities is not None else ()
    return max((node.memory_bytes for node in nodes), default=0)


def _cpus_of_a_node(candidate: Candidate, _key: int) -> int:
    """Return how many CPUs the largest NUMA node has."""
    abilities = candidate.host.capabilities
    nodes = nodes_of(abilities).values() if abilities is not None else ()
    largest = max(nodes, key=lambda node: node.memory_bytes, default=None)
    return len(members(largest.cpus)) if largest is not None else 0


def _busy_for(candidate: Candidate, minutes: int) -> int:
    """Return the least reading of the last minutes, in thousandths; 0 where one is missing."""
    return candidate.load.least(minutes) if candidate.load is not None else 0


_FIGURES: dict[str, Callable[[Candidate, int], int]] = {
    "pages_free": pages_free,
    "node_free": node_free,
    "own_cpus": own_cpus,
    "taken_among": taken_among,
    "threads_of_cores": threads_of_cores,
    "sockets": _of_topology("sockets"),
    "cores": _of_topology("cores"),
    "threads": _of_topology("threads"),
    "largest_node": _largest_node,
    "cpus_of_a_node": _cpus_of_a_node,
    "busy_for": _busy_for,
}
_OF_VMS = frozenset({"pages_free", "node_free", "own_cpus", "taken_among"})
"""Those that change when a VM comes or goes that takes something special; all others, only when the
host reports something else.
"""
_OF_READINGS = frozenset({"busy_for"})
"""Those that change when something is measured."""
