"""A draft of a cluster: moves are tried in it, one after the other, before any is made.

It is all that balancing looks at: the hosts with what is taken of them, measured or reckoned, and
the VMs that may be moved now. A VM that is moved takes its part of its host's measured load along.
Nothing in a draft changes the fleet that it was drawn from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from commands.scheduler.fleet import Fleet
from commands.scheduler.layout import ordinary_memory_of
from commands.scheduler.load import Load, permille
from commands.scheduler.need import (
    HOST_RESERVE_BYTES,
    Candidate,
    Need,
    cpus_of,
    need_to_move,
)
from commands.scheduler.plans import Plan
from commands.state.cluster import ClusterState
from commands.state.host import HostStatus
from commands.state.vm import VmState, VmStatus
from events.types.balancing import Figures, HostFigures, PlannedMove
from events.types.migration import MigrationMode
from events.types.vm_tuning import CpuPolicy

TRIES_MAX = 500
"""So many times a host is looked for in vain for one plan, so that it never takes long."""


class Draft:
    """One cluster while a plan is made; `left` is how many more moves it may have.

    Hosts that are `busy` (a VM comes or goes there) are neither left nor come to.
    """

    def __init__(
        self,
        fleet: Fleet,
        cluster: ClusterState,
        vms: Iterable[VmState],
        *,
        busy: frozenset[str],
        moves_max: int,
    ) -> None:
        self.cluster = cluster
        self.busy = busy
        self.fleet = fleet.draft(cluster.id)
        self.affinities = fleet.affinities(cluster.id)
        self._moves: list[tuple[VmState, PlannedMove]] = []
        self._loads: list[dict[str, Load | None]] = []
        self._moves_max = moves_max
        self._tries = TRIES_MAX + moves_max
        self._before = {c.host.id: c for c in fleet.candidates(cluster.id)}
        self._running: dict[str, int] = defaultdict(int)
        self.movable: dict[str, dict[str, VmState]] = defaultdict(dict)
        for vm in vms:
            for host in vm.may_run_on:
                self._running[host] += 1
            if vm.run is not None and _may_move(vm) and self.knows(vm.run.host):
                self.movable[vm.run.host][vm.id] = vm
        self._counts_before = dict(self._running)

    @property
    def left(self) -> int:
        """How many more moves the plan may have; none once too many were tried in vain."""
        return self._moves_max - len(self._moves) if self._tries > 0 else 0

    @property
    def made(self) -> int:
        """How many moves it has."""
        return len(self._moves)

    def hosts(self) -> list[Candidate]:
        """Return the hosts that are up and not busy, as they would be now, by name."""
        return [
            candidate
            for candidate in self.fleet.candidates(self.cluster.id)
            if candidate.host.status is HostStatus.UP and candidate.host.id not in self.busy
        ]

    def knows(self, host: str) -> bool:
        """Tell whether a host is one of the cluster's."""
        return self.fleet.candidate(host) is not None

    def candidate(self, host: str) -> Candidate:
        """Return a host as it would be now."""
        found = self.fleet.candidate(host)
        assert found is not None  # noqa: S101 - it is one of the cluster's
        return found

    def running(self, host: str) -> int:
        """Return how many VMs would run on a host."""
        return self._running[host]

    def need(self, vm: VmState, source: str) -> Need:
        """Return what a VM needs of another host than the one that it is on in the draft."""
        need = need_to_move(vm, self.cluster, self.candidate(source).host)
        return msgspec.structs.replace(need, leaves=source, avoid=self.busy)

    def choose(self, need: Need) -> str | None:
        """Return the best host, None where there is none."""
        self._tries -= 1
        found = self.fleet.choose(msgspec.structs.replace(need, explained=False)).host
        return found.id if found is not None else None

    def move(
        self, vm: VmState, source: str, destination: str, reason: str, *, affinity: bool = False
    ) -> None:
        """Make a move in the draft. A VM is moved once in a plan."""
        del self.movable[source][vm.id]
        self._loads.append({host: self.candidate(host).load for host in (source, destination)})
        self.fleet.move(vm, source, destination)
        self._running[source] -= 1
        self._running[destination] += 1
        planned = PlannedMove(
            vm=vm.id,
            vm_name=vm.name,
            source=source,
            source_name=self.candidate(source).host.name,
            destination=destination,
            destination_name=self.candidate(destination).host.name,
            reason=reason,
            affinity=affinity,
        )
        self._moves.append((vm, planned))

    def take_back(self, count: int) -> None:
        """Take back all moves but the first `count`."""
        while len(self._moves) > count:
            vm, planned = self._moves.pop()
            self.fleet.move(vm, planned.destination, planned.source)
            for host, load in self._loads.pop().items():
                self.fleet.load(host, load)
            self._running[planned.destination] -= 1
            self._running[planned.source] += 1
            self.movable[planned.source][vm.id] = vm

    def plan(self) -> Plan:
        """Return the plan, with the figures of each host that it touches."""
        moves = tuple(planned for _vm, planned in self._moves)
        touched = {host for move in moves for host in (move.source, move.destination)}
        hosts = tuple(
            HostFigures(
                host=candidate.host.id,
                host_name=candidate.host.name,
                before=_figures(
                    self._before[candidate.host.id],
                    self.cluster,
                    self._counts_before.get(candidate.host.id, 0),
                ),
                after=_figures(candidate, self.cluster, self._running[candidate.host.id]),
            )
            for candidate in self.fleet.candidates(self.cluster.id)
            if candidate.host.id in touched
        )
        return Plan(moves=moves, hosts=hosts)


def busy_hosts(vms: Mapping[str, VmState]) -> frozenset[str]:
    """Return the hosts that VMs come to or leave now."""
    busy: set[str] = set()
    for vm in vms.values():
        if vm.migration is not None:
            busy |= {vm.migration.source, vm.migration.destination}
        elif vm.status is VmStatus.MIGRATING and vm.run is not None:
            busy.add(vm.run.host)
    return frozenset(busy)


def cpus(candidate: Candidate, cluster: ClusterState) -> int:
    """Return how many CPUs a host counts as having in its cluster; 0 where that is not known."""
    abilities = candidate.host.capabilities
    if abilities is None:
        return 0
    return cpus_of(abilities, threads_as_cores=cluster.resources.threads_as_cores)


def cpu_percent(candidate: Candidate, cluster: ClusterState) -> int:
    """Return to how much a host's CPUs are busy, or its VMs are reckoned to take, in percent."""
    return cpu_permille(candidate, cluster) // 10


def cpu_permille(candidate: Candidate, cluster: ClusterState) -> int:
    """Return the same in thousandths."""
    abilities = candidate.host.capabilities
    own = abilities.cpus if abilities is not None else 0
    return permille(candidate.load, candidate.processors_taken, own, cpus(candidate, cluster))


def memory_free(candidate: Candidate) -> int:
    """Return what a host has left for VMs, in bytes, without any over-commitment."""
    abilities = candidate.host.capabilities
    if abilities is None:
        return 0
    return ordinary_memory_of(abilities) - HOST_RESERVE_BYTES - candidate.memory_taken_bytes


def _figures(candidate: Candidate, cluster: ClusterState, vms: int) -> Figures:
    return Figures(
        vms=vms,
        cpu_percent=cpu_percent(candidate, cluster),
        memory_free_bytes=memory_free(candidate),
        measured=candidate.load is not None,
    )


def _may_move(vm: VmState) -> bool:
    settled = vm.status is VmStatus.UP and vm.migration is None and not vm.jobs
    own = vm.run is not None and vm.run.spec.configuration.tuning.cpu_policy is not CpuPolicy.NONE
    by_itself = vm.migrates.mode is MigrationMode.AUTOMATIC and not own
    return settled and not vm.stale_copies and by_itself
