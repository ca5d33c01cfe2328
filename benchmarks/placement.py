"""What choosing a host costs, against the same comparisons as bare numpy column operations.

    python -m benchmarks.placement [--hosts 10000]

Goal 13: placements over 10,000 hosts, with every filter and the weights of each policy, against the
same comparisons written out over ready columns (at least 0.3 of their rate). Each placement takes
what it placed of its host, on both sides, and both must choose the same hosts.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks._report import compare
from commands.scheduler.fleet import Fleet, Share
from commands.scheduler.layout import Special
from commands.scheduler.need import HOST_RESERVE_BYTES, Need
from commands.state.affinity import ResolvedGroup
from commands.state.host import HostState, Identity
from events.types.affinity import Polarity, Rule
from events.types.cluster import Scheduling, SchedulingPolicy
from events.types.host import Capabilities
from events.types.host_hardware import CpuTopology, Hardware, HugePages, NumaNode
from events.types.host_memory import Swap
from events.types.run_spec import Topology
from events.types.vm_tuning import CpuPin, GuestNumaNode, Tuning, members

GIB = 1024**3
ROUNDS = 5
PLACEMENTS = 300
PAGE_BYTES = 2 * 1024**2
PAGES, PAGES_OF_HOST = 16, 4_096
SPECIAL = Special(pages={PAGE_BYTES: PAGES}, nodes={0: GIB})
GUARANTEED = GIB // 2
SHARE = Share(
    memory_bytes=GIB,
    guaranteed_bytes=GUARANTEED,
    processors=2,
    highly_available=True,
    special=SPECIAL,
)
TUNING = Tuning(
    pins=(CpuPin(vcpu=0, cpus="0-3"), CpuPin(vcpu=1, cpus="8-11")),
    numa_nodes=(GuestNumaNode(vcpus="0-1", memory_bytes=GIB, host_nodes="0"),),
    high_performance=True,
)
TSC_HZ = 2_000_000_000
SEED = 13
WEIGHT_MAX = 1_000
MEMORY_PERCENT = 150
OTHER_HOST = 3
PINNED_TO = 12
"""The CPU after the last one that the VM is pinned to."""

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


def hosts(count: int) -> list[HostState]:
    """Return hosts of several sizes; some are down, some lack the bridge or the CPU model."""
    dice = random.Random(SEED)
    found = []
    for number in range(count):
        abilities = Capabilities(
            architecture="x86_64",
            cpus=dice.choice((16, 32, 64)),
            cpu_model="EPYC",
            cpu_models=("qemu64", "EPYC") if dice.random() < 0.95 else ("qemu64",),  # noqa: PLR2004
            memory_bytes=dice.choice((64, 128, 256)) * GIB,
            machine_types=("pc-q35-7.2",),
            bridges=("br0", "br1") if dice.random() < 0.95 else ("br0",),  # noqa: PLR2004
            storage_free_bytes=GIB,
            swap=Swap(total_bytes=GIB, pressure_percent=dice.choice((-5, -5, -5, 1))),
        )
        abilities = msgspec.structs.replace(abilities, hardware=hardware(abilities, dice))
        found.append(
            HostState(
                id=f"h{number}",
                name=f"host-{number:06}",
                cluster="c",
                data_center="d",
                address="",
                approved=True,
                identity=Identity(public_key_sha256="", hardware="", signing_request="", token=""),
                session="s" if dice.random() < 0.98 else None,  # noqa: PLR2004
                capabilities=abilities,
            )
        )
    return found


def hardware(abilities: Capabilities, dice: random.Random) -> Hardware:
    """Return hardware with two NUMA nodes; on some hosts the pinned CPUs are not on the first."""
    half, whole = abilities.cpus // 2, abilities.cpus
    cpus = (f"0-{half - 1}", f"{half}-{whole - 1}")
    near = dice.random() < 0.5  # noqa: PLR2004
    return Hardware(
        tsc_hz=TSC_HZ if dice.random() < 0.95 else 2 * TSC_HZ,  # noqa: PLR2004
        topology=CpuTopology(sockets=dice.choice((1, 2)), cores=half, threads=1),
        numa_nodes=tuple(
            NumaNode(node=number, cpus=cpus[number ^ (not near)], memory_bytes=half * GIB)
            for number in range(2)
        ),
        huge_pages=(HugePages(size_bytes=PAGE_BYTES, count=PAGES_OF_HOST),),
    )


def need_under(policy: SchedulingPolicy, count: int) -> Need:
    """Return a need that every filter looks at."""
    return Need(
        cluster="c",
        scheduling=Scheduling(
            policy=policy,
            vcpu_to_physical_cpu_ratio=1.0,
            max_free_memory_for_over_utilized_bytes=8 * GIB,
            min_free_memory_for_under_utilized_bytes=512 * GIB,
        ),
        memory_bytes=SHARE.memory_bytes,
        guaranteed_bytes=GUARANTEED,
        ballooning=True,
        processors=SHARE.processors,
        machine_type="pc-q35-7.2",
        cpu_model="EPYC",
        bridges=("br0", "br1"),
        storage_bytes=1,
        leaves="h1",
        tried=("h2",),
        vm="vm",
        pinned=frozenset(f"h{number}" for number in range(count) if number % 7),
        preferred=frozenset(f"h{number}" for number in range(0, count, 5)),
        memory_percent=MEMORY_PERCENT,
        highly_available=True,
        ha_reservation=True,
        topology=Topology(sockets=2),
        tuning=TUNING,
        special=SPECIAL,
        tsc_hz=TSC_HZ,
    )


def affinity(count: int) -> list[ResolvedGroup]:
    """Return groups of each kind about the VM that is placed; the other VM is on host 3."""

    def group(name: str, *, vms: bool, enforcing: bool, every: int = 0) -> ResolvedGroup:
        rule = Rule(polarity=Polarity.NEGATIVE, enforcing=enforcing)
        return ResolvedGroup(
            id=name,
            name=name,
            vm_rule=rule if vms else Rule(),
            host_rule=Rule() if vms else rule,
            priority=1.0,
            vms=("another", "vm"),
            hosts=tuple(f"h{number}" for number in range(0, count, every)) if every else (),
        )

    return [
        group("apart", vms=True, enforcing=True),
        group("barred", vms=False, enforcing=True, every=11),
        group("rather apart", vms=True, enforcing=False),
        group("rather not", vms=False, enforcing=False, every=3),
    ]


class Bare:
    """The same comparisons, written out; no events, no names, no reasons."""

    def __init__(self, states: list[HostState]) -> None:
        abilities = [state.capabilities for state in states]
        known = [each for each in abilities if each is not None]
        assert len(known) == len(states)
        self.up = np.array([state.session is not None for state in states])
        self.known = np.ones(len(states), np.bool_)
        self.elsewhere = np.array([state.id not in {"h1", "h2", "h3"} for state in states])
        numbers = np.arange(len(states))
        self.pinned, self.allowed = numbers % 7 != 0, numbers % 11 != 0
        self.preferred, self.wished = numbers % 5 == 0, numbers % 3 != 0
        self.with_other = numbers == OTHER_HOST
        self.highly_available = np.zeros(len(states), np.int64)
        self.cpus = np.array([each.cpus for each in known], np.int64)
        self.per_cpu = 1 / self.cpus
        memory = [each.memory_bytes - PAGES_OF_HOST * PAGE_BYTES for each in known]
        self.free = np.array([each - HOST_RESERVE_BYTES for each in memory], np.int64)
        self.extra = np.array([each * (MEMORY_PERCENT - 100) // 100 for each in memory], np.int64)
        self.to_guarantee = self.free.copy()
        swaps = [each.swap.pressure_percent for each in known if each.swap is not None]
        self.swap = np.array(swaps, np.int64)
        self.given_away = np.zeros(len(states), np.int64)
        described = [each.hardware for each in known if each.hardware is not None]
        self.cpus_there = self.cpus >= PINNED_TO
        self.nodes_there = np.array([len(each.numa_nodes) > 0 for each in described])
        self.node_free = np.array([each.numa_nodes[0].memory_bytes for each in described], np.int64)
        self.pages_free = np.full(len(states), PAGES_OF_HOST, np.int64)
        self.same_tsc = np.array([each.tsc_hz == TSC_HZ for each in described])
        self.sockets = np.array([each.topology.sockets for each in described], np.int64)
        self.cores = np.array([each.topology.cores for each in described], np.int64)
        self.threads = np.array([each.topology.threads for each in described], np.int64)
        self.near = np.array(
            [{*range(4), *range(8, 12)} <= members(each.numa_nodes[0].cpus) for each in described]
        )
        self.taken = np.zeros(len(states), np.int64)
        self.vms = np.zeros(len(states), np.int64)
        self.machine = np.array(["pc-q35-7.2" in each.machine_types for each in known])
        self.model = np.array(["EPYC" in each.cpu_models for each in known])
        self.bridge_0 = np.array(["br0" in each.bridges for each in known])
        self.bridge_1 = np.array(["br1" in each.bridges for each in known])
        self.stores = np.array([each.storage_free_bytes > 0 for each in known])

    def choose(self, policy: SchedulingPolicy) -> int:
        """Return the row of the best host."""
        enough = self.free + self.extra >= SHARE.memory_bytes
        mask = self.up & self.elsewhere & self.known & enough & self.pinned & self.allowed
        mask &= (self.to_guarantee >= GUARANTEED) & (self.swap <= 0)
        mask &= self.cpus >= SHARE.processors
        mask &= self.taken * 10 <= self.cpus * 80
        mask &= self.cpus_there & (self.given_away == 0)
        mask &= self.nodes_there & (self.node_free >= GIB)
        mask &= (self.pages_free >= PAGES) & self.same_tsc
        mask &= self.machine & self.model & self.bridge_0 & self.bridge_1 & self.stores
        rows = np.flatnonzero(mask)
        return int(rows[np.argmax(self._score(policy, rows) + self._score_of_all(rows))])

    def _score_of_all(self, rows: npt.NDArray[np.intp]) -> Numbers:
        """The weights that every policy has: preferred hosts, HA reservation, affinity."""
        counts = self.highly_available[rows]
        least, most = int(counts.min()), int(counts.max())
        total: Numbers = 99 * _ranks(np.where(self.preferred[rows], 0, WEIGHT_MAX))
        if most > least:
            total += _ranks(-(-(counts - least) * 100 // (most - least)))
        total += _ranks(self.with_other[rows].astype(np.int64))
        total += 20 * _ranks((~self.wished[rows]).astype(np.int64))
        enough = (self.sockets >= 2) & (self.cores >= 1) & (self.threads >= 1)  # noqa: PLR2004
        total += 4 * _ranks(np.where(enough[rows], 0, WEIGHT_MAX))
        total += 5 * _ranks(np.where(self.near[rows], 0, WEIGHT_MAX))
        return total

    def _score(self, policy: SchedulingPolicy, rows: npt.NDArray[np.intp]) -> Numbers:
        if policy is SchedulingPolicy.VM_EVENLY_DISTRIBUTED:
            return 2 * _ranks(np.minimum(self.vms[rows], WEIGHT_MAX))
        saving = policy is SchedulingPolicy.POWER_SAVING
        return 2 * _ranks(self._cpu(rows, saving=saving)) + _ranks(
            self._memory(rows, saving=saving)
        )

    def _cpu(self, rows: npt.NDArray[np.intp], *, saving: bool) -> Numbers:
        """Few temporaries live at a time: else the allocator gives pages back with each call."""
        load: Reals = (self.taken[rows] + SHARE.processors) * self.per_cpu[rows] * 100
        if saving:
            weights = WEIGHT_MAX - np.minimum(load, WEIGHT_MAX)
            weights[load > 10 * 80] = WEIGHT_MAX
            return weights.astype(np.int64)
        load[load > 1.0 * 100] = WEIGHT_MAX  # a ratio of 1.0
        return np.minimum(load, WEIGHT_MAX).astype(np.int64)

    def _memory(self, rows: npt.NDArray[np.intp], *, saving: bool) -> Numbers:
        given_out = self.free[rows] + self.extra[rows]
        free = np.maximum(given_out - float(SHARE.memory_bytes), 0.0)
        share: Reals = free * (WEIGHT_MAX / max(1.0, float(free.max())))
        if saving:
            share[(free < 8 * GIB) | (free > 512 * GIB)] = WEIGHT_MAX
        else:
            share = WEIGHT_MAX - share
        return np.minimum(share, WEIGHT_MAX).astype(np.int64)

    def take(self, row: int) -> None:
        """Count a VM."""
        self.free[row] -= SHARE.memory_bytes
        self.to_guarantee[row] -= GUARANTEED
        self.taken[row] += SHARE.processors
        self.vms[row] += 1
        self.highly_available[row] += 1
        self.node_free[row] -= GIB
        self.pages_free[row] -= PAGES


def _ranks(weights: Numbers) -> Numbers:
    """Return how many weigh more: the quickest way there is to it, counting."""
    found: Numbers = (len(weights) - np.cumsum(np.bincount(weights, minlength=WEIGHT_MAX + 1)))[
        weights
    ]
    return found


def rate(place: Callable[[], str]) -> tuple[float, list[str]]:
    """Return placements a second, and where they went."""
    began = time.perf_counter()
    went = [place() for _ in range(PLACEMENTS)]
    return PLACEMENTS / (time.perf_counter() - began), went


def measure(policy: SchedulingPolicy, states: list[HostState]) -> None:
    """Compare the scheduler with the bare columns under one policy."""
    fleet, bare, need = Fleet(), Bare(states), need_under(policy, len(states))
    for state in states:
        fleet.put(state)
    fleet.group("c", affinity(len(states)))
    fleet.expect("another", f"h{OTHER_HOST}")

    def place() -> str:
        host = fleet.choose(need).host
        assert host is not None
        fleet.take(host.id, SHARE)
        return host.id

    def place_bare() -> str:
        row = bare.choose(policy)
        bare.take(row)
        return states[row].id

    ours = raw = 0.0
    for _ in range(ROUNDS):  # by turns, and the best of each: the machine may have other work
        (our_rate, our_hosts), (raw_rate, raw_hosts) = rate(place), rate(place_bare)
        assert our_hosts == raw_hosts, "the two chose different hosts"
        ours, raw = max(ours, our_rate), max(raw, raw_rate)
    what = f"placement over {len(states):,} hosts, {policy}"
    compare(13, what, ours, raw, "1/s", limit=0.3)


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10_000)
    states = hosts(parser.parse_args().hosts)
    for policy in SchedulingPolicy:
        if policy is not SchedulingPolicy.CLUSTER_MAINTENANCE:  # nothing is placed under it
            measure(policy, states)


if __name__ == "__main__":
    main()
