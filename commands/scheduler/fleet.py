"""All hosts by cluster, with what VMs take of them: what the scheduler chooses from.

Kept up with each event, so that a choice is a few operations over whole columns; the reasons why
not are worked out only where no host is left, or where somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from commands.scheduler.bounds import Affinities
from commands.scheduler.columns import Columns, Numbers, Rows
from commands.scheduler.dedicating import dedicated
from commands.scheduler.layout import (
    NOTHING_SPECIAL,
    Special,
    added,
    guaranteed_of,
    special_of,
    with_cpus,
)
from commands.scheduler.load import Load, Readings, part, read, shifted
from commands.scheduler.need import (
    VERDICTS_BYTES_MAX,
    Assessment,
    Candidate,
    Choice,
    Need,
)
from commands.scheduler.policies import objections, passing, weights_of
from commands.scheduler.weights import ranked
from commands.state.affinity import ResolvedGroup
from commands.state.host import HostState, HostStatus
from commands.state.vm import VmState, VmStatus
from events.types.operation import Verdict
from events.types.run_spec import RunSpec, VmConfiguration
from events.types.scheduling_units import Selector
from events.types.vm_tuning import CpuPolicy, Dedicated


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM takes of a host."""

    memory_bytes: int = 0
    guaranteed_bytes: int = 0
    processors: int = 0
    highly_available: bool = False
    special: Special = NOTHING_SPECIAL


def share_of(vm: VmState, host: str | None = None) -> Share:
    """Return what a VM takes of a host: as much as it was given, whatever is set now.

    Without a host it is what it takes wherever it is, without CPUs.
    """
    spec = _spec_of(vm)
    given = _given(vm)
    huge = given.tuning.huge_page_bytes is not None
    return Share(
        memory_bytes=0 if huge else given.memory_bytes,
        guaranteed_bytes=guaranteed_of(given, spec.memory_percent if spec is not None else 100),
        processors=given.topology.count,
        highly_available=vm.availability.highly_available,
        special=_special(vm, given, host),
    )


def share_at(vm: VmState, own: Dedicated | None) -> Share:
    """Return what a VM takes of a host that it is to come to, where these CPUs are its own."""
    share = share_of(vm)
    special = with_cpus(share.special, _given(vm).tuning, own)
    return msgspec.structs.replace(share, special=special)


def _spec_of(vm: VmState) -> RunSpec | None:
    if vm.run is not None:
        return vm.run.spec
    return vm.memory.spec if vm.memory is not None else None


def _given(vm: VmState) -> VmConfiguration:
    """Return what a VM runs with, or is to run with next: saved memory with what it was saved."""
    spec = _spec_of(vm)
    return spec.configuration if spec is not None else vm.configuration


def _special(vm: VmState, given: VmConfiguration, host: str | None) -> Special:
    special = special_of(given)
    if host is None:
        return special
    own, move = None, vm.migration
    if vm.run is not None and vm.run.host == host:
        own = vm.run.spec.dedicated
    elif move is not None and move.destination == host:
        own = move.dedicated
    return with_cpus(special, given.tuning, own)


class Fleet:
    """Every host with what is taken of it: the placement's view."""

    def __init__(self) -> None:
        self._candidates: dict[str, Candidate] = {}
        self._clusters: dict[str, Columns] = {}
        self._affinities: dict[str, Affinities] = {}
        self._places: dict[str, tuple[str, ...]] = {}
        self._coming: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def group(self, cluster: str, groups: Iterable[ResolvedGroup]) -> None:
        """Take in a cluster's affinity groups, in place of those it had."""
        affinities = Affinities(groups)
        if affinities.groups:
            self._affinities[cluster] = affinities
        else:
            self._affinities.pop(cluster, None)

    def affinities(self, cluster: str) -> Affinities:
        """Return a cluster's affinity groups."""
        return self._affinities.get(cluster) or Affinities(())

    def candidates(self, cluster: str) -> list[Candidate]:
        """Return a cluster's hosts with what is taken of them, by name."""
        return list(self._columns(cluster).candidates)

    def candidate(self, host: str) -> Candidate | None:
        """Return a host with what is taken of it."""
        return self._candidates.get(host)

    def draft(self, cluster: str) -> Fleet:
        """Return a copy of one cluster, to try moves in."""
        copy = Fleet()
        for candidate in self._columns(cluster).candidates:
            copy._candidates[candidate.host.id] = candidate
        if cluster in self._affinities:
            copy._affinities[cluster] = self._affinities[cluster]
        copy._places.update(self._places)
        copy._coming.update(self._coming)
        copy._names = self._names
        return copy

    def move(
        self, vm: VmState, source: str, destination: str, own: Dedicated | None = None
    ) -> None:
        """Count a VM that runs on one host on another, where these CPUs are its own.

        It brings with it what it is taken to be measured at: as much for each of its virtual CPUs
        as those of its host have, all together, for each of theirs.
        """
        share = share_of(vm, source)
        there = self._candidates.get(source)
        if there is not None and there.load is not None:
            count = share.processors
            busy = part(there.load, count, there.processors_taken)
            for host, sign in ((source, -1), (destination, 1)):
                self._shift(host, sign * count, sign * busy)
        self.take(source, share, -1)
        self.take(destination, share_at(vm, own))
        self._places[vm.id] = (destination,)

    def _shift(self, host: str, processors: int, busy: int) -> None:
        before = self._candidates.get(host)
        if before is not None:
            self.load(host, shifted(before.load, before.processors_taken, processors, busy))

    def load(self, host: str, load: Load | None) -> None:
        """Take in what is measured of a host, in place of what was."""
        before = self._candidates.get(host)
        if before is not None and before.load is not load:
            candidate = msgspec.structs.replace(before, load=load)
            self._candidates[host] = candidate
            self._show(candidate)

    def hosts(self) -> list[str]:
        """Return the ids of all hosts."""
        return list(self._candidates)

    def measure(
        self, found: Mapping[str, Readings], minute: int, hosts: Iterable[str] | None = None
    ) -> None:
        """Take in all readings at a minute, of these hosts alone where some are named.

        A host without new ones keeps what it has, until that is too old.
        """
        for host in self.hosts() if hosts is None else hosts:
            before = self._candidates.get(host)
            if before is None:
                continue
            abilities = before.host.capabilities
            cpus = abilities.cpus if abilities is not None else 0
            taken = before.processors_taken
            self.load(host, read(found.get(host), before.load, taken, cpus, minute))

    def expect(self, vm: str, host: str | None) -> None:
        """Take in that a VM will be on a host in a moment; None: it is there, or will not be."""
        if host is None:
            self._coming.pop(vm, None)
        else:
            self._coming[vm] = host

    def put(self, host: HostState) -> None:
        """Take in a host, new or changed; one that was removed is forgotten."""
        before = self._candidates.get(host.id)
        if host.removed:
            self._candidates.pop(host.id, None)
            self._clusters.pop(host.cluster, None)
            return
        if before is None:
            self._candidates[host.id] = Candidate(host=host)
            self._clusters.pop(host.cluster, None)
            return
        candidate = msgspec.structs.replace(before, host=host)
        self._candidates[host.id] = candidate
        if (before.host.name, before.host.cluster) != (host.name, host.cluster):
            self._clusters.pop(before.host.cluster, None)
            self._clusters.pop(host.cluster, None)
            return
        self._show(candidate)

    def account(self, vm: VmState, sign: int) -> None:
        """Count a VM on each host where it may run, else where its disks are; -1 takes it back."""
        if sign > 0 and vm.may_run_on:
            self._places[vm.id] = vm.may_run_on
            self._names[vm.id] = vm.name
        else:
            self._places.pop(vm.id, None)
            self._names.pop(vm.id, None)
        for host in vm.may_run_on:
            self.take(host, share_of(vm, host), sign)
        if not vm.may_run_on and vm.disks_host and vm.status is not VmStatus.REMOVED:
            self.take(vm.disks_host, share_of(vm), sign, runs=False)

    def take(self, host_id: str, share: Share, sign: int = 1, *, runs: bool = True) -> None:
        """Count a share as taken of a host (sign -1: given back); if not `runs`, as expected."""
        before = self._candidates.get(host_id)
        if before is None:
            return
        taken = sign if runs else 0
        candidate = Candidate(
            host=before.host,
            memory_taken_bytes=before.memory_taken_bytes + taken * share.memory_bytes,
            guaranteed_taken_bytes=before.guaranteed_taken_bytes + taken * share.guaranteed_bytes,
            processors_taken=before.processors_taken + taken * share.processors,
            memory_expected_bytes=before.memory_expected_bytes + sign * share.memory_bytes,
            processors_expected=before.processors_expected + sign * share.processors,
            vms_expected=before.vms_expected + sign,
            highly_available=before.highly_available + sign * share.highly_available,
            special=added(before.special, share.special, taken),
            load=before.load,
        )
        self._candidates[host_id] = candidate
        self._show(candidate)

    def choose(self, need: Need) -> Choice:
        """Return the best host of the cluster (of equals the first by name), or why there is none.

        Where only one host will do, nothing is compared.
        """
        need = self._prepared(need)
        columns = self._columns(need.cluster)
        row = None
        if need.only_host is not None:
            only = columns.index.get(need.only_host)
            if only is not None and not objections(need, columns.candidates[only]):
                row = only
        else:
            mask = passing(need, columns)
            rows = _rows(mask)
            if len(rows):
                at = slice(None) if len(rows) == len(mask) else rows
                row = int(rows[np.argmax(_scores(need, columns, at))])
        if row is not None:
            return _chosen(need, columns.candidates[row])
        return _refused(need, columns) if need.explained else Choice(host=None)

    def assess(self, need: Need) -> list[Assessment]:
        """Return what the scheduler makes of each host: the best first, then the rest by name."""
        need = self._prepared(need)
        columns = self._columns(need.cluster)
        rows = _rows(passing(need, columns))
        scores = _scores(need, columns, rows)
        weights = {
            each.weight.name: weights.tolist() if weights is not None else [0] * len(rows)
            for each in weights_of(need.scheduling)
            for weights in (each.weight.weigh(need, columns, rows),)
        }
        order = np.argsort(-scores, kind="stable").tolist()
        found = []
        for rank, place in enumerate(order, start=1):
            host = columns.candidates[rows[place]].host
            found.append(
                Assessment(
                    host=host.id,
                    host_name=host.name,
                    rank=rank,
                    score=int(scores[place]),
                    weights={name: of_all[place] for name, of_all in weights.items()},
                )
            )
        fitting = set(rows.tolist())
        return found + [
            Assessment(
                host=candidate.host.id,
                host_name=candidate.host.name,
                reasons=objections(need, candidate),
            )
            for row, candidate in enumerate(columns.candidates)
            if row not in fitting
        ]

    def _prepared(self, need: Need) -> Need:
        need = self._widened(need)
        affinities = self._affinities.get(need.cluster)
        if affinities is None or need.vm is None or not need.starts:
            return need
        source = self._candidates.get(need.leaves or "")
        leaving = source is not None and source.host.status is not HostStatus.UP
        leaving = leaving or need.falls
        ignored = need.leaves if leaving else None
        bounds = affinities.bounds(need.vm, self.places, ignored, self._names)
        return need if bounds is None else msgspec.structs.replace(need, bounds=bounds)

    def places(self, vm: str) -> tuple[str, ...]:
        """Return the hosts where a VM may run, or will in a moment."""
        there, coming = self._places.get(vm, ()), self._coming.get(vm)
        return there if coming is None or coming in there else (*there, coming)

    def _widened(self, need: Need) -> Need:
        """Let hosts that share the folder of the VM's files take it as well as their holder."""
        if not need.for_files or need.only_host is None:
            return need
        holder = self._candidates.get(need.only_host)
        abilities = holder.host.capabilities if holder is not None else None
        if abilities is None or not abilities.storage_id:
            return need
        return msgspec.structs.replace(need, only_host=None, storage_id=abilities.storage_id)

    def _show(self, candidate: Candidate) -> None:
        columns = self._clusters.get(candidate.host.cluster)
        if columns is not None:
            columns.set(columns.index[candidate.host.id], candidate)

    def _columns(self, cluster_id: str) -> Columns:
        """Return a cluster's columns; made anew after a host came, went or moved."""
        found = self._clusters.get(cluster_id)
        if found is None:
            hosts = [c for c in self._candidates.values() if c.host.cluster == cluster_id]
            found = self._clusters[cluster_id] = Columns(hosts)
        return found


def _rows(mask: np.typing.NDArray[np.bool_]) -> np.typing.NDArray[np.intp]:
    return np.flatnonzero(mask)


def _scores(need: Need, columns: Columns, rows: Rows) -> Numbers:
    """Return each host's ranks, times their factors, summed: the most is the best. Without ranks it
    is the weights themselves, less being better, that are taken away.
    """
    total: Numbers | None = None
    basic = need.scheduling.selector is Selector.BASIC_WEIGHTING
    for each in weights_of(need.scheduling):
        weights = each.weight.weigh(need, columns, rows)
        if weights is None:
            continue
        score = (-weights if basic else ranked(weights)) * each.factor
        total = score if total is None else total + score
    # A policy of somebody's own may have no weight that tells hosts apart.
    return np.zeros(len(columns.up[rows]), np.int64) if total is None else total


def _chosen(need: Need, candidate: Candidate) -> Choice:
    abilities, tuning = candidate.host.capabilities, need.tuning
    if tuning.cpu_policy is CpuPolicy.NONE or abilities is None:
        return Choice(host=candidate.host)
    own = dedicated(abilities, candidate.special, tuning, need.topology)
    return Choice(host=candidate.host, dedicated=own)


def _refused(need: Need, columns: Columns) -> Choice:
    verdicts: list[Verdict] = []
    left_bytes = VERDICTS_BYTES_MAX
    for candidate in columns.candidates[: need.explained_max]:
        verdict = Verdict(
            host=candidate.host.id,
            host_name=candidate.host.name,
            reasons=objections(need, candidate),
        )
        left_bytes -= len(msgspec.json.encode(verdict)) + 1
        if left_bytes < 0:
            break
        verdicts.append(verdict)
    return Choice(host=None, verdicts=tuple(verdicts), hosts=len(columns.candidates))
