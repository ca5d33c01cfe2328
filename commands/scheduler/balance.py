"""Balancing: which VMs are to be moved from where to where, and why. Computed, never done, here.

Affinity groups come first. Then each policy has its own idea, with oVirt's parameters:
evenly_distributed relieves hosts that are over-used, power_saving does so and empties hosts that
are under-used, vm_evenly_distributed levels the numbers of VMs. The others move nothing.

A host's CPU load is measured (`load.py`), and reckoned from its VMs where it is not. A plan looks
at the load of the moment: "over-used for so long" is counted by the automatic mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from commands.scheduler.draft import Draft, cpu_percent, cpu_permille, cpus, memory_free
from commands.scheduler.enforcement import enforce
from commands.scheduler.fleet import Fleet, share_of
from commands.scheduler.load import VCPU_CONSUMPTION_PERCENT
from commands.scheduler.need import Candidate
from commands.scheduler.plans import Plan
from commands.state.cluster import ClusterState
from commands.state.vm import VmState
from events.types.cluster import SchedulingPolicy

TRIES_MAX = 8
"""So many destinations are tried for a VM before it stays."""
_MIB = 1024**2


def plan(
    fleet: Fleet,
    cluster: ClusterState,
    vms: Iterable[VmState],
    *,
    busy: frozenset[str] = frozenset(),
    moves_max: int,
) -> Plan:
    """Return the moves that would make a cluster better, most urgent first; none where all is well.

    `vms` are the cluster's; hosts that are `busy` with migrations are left out.
    """
    draft = Draft(fleet, cluster, vms, busy=busy, moves_max=moves_max)
    enforce(draft)
    balance = _POLICIES.get(cluster.scheduling.policy)
    if balance is not None:
        balance(draft)
    return draft.plan()


def over_used(candidate: Candidate, cluster: ClusterState, vms: int) -> str:
    """Return why a host is over-used, in a sentence; "" where it is not."""
    return _over_used_cpus(candidate, cluster) or _over_used_memory(candidate, cluster, vms)


def _over_used_cpus(candidate: Candidate, cluster: ClusterState) -> str:
    scheduling, name = cluster.scheduling, candidate.host.name
    percent, counted = cpu_percent(candidate, cluster), cpus(candidate, cluster)
    if percent > scheduling.high_utilization_percent:
        limit = scheduling.high_utilization_percent
        if candidate.load is not None:
            return f"Host {name} is over-used: its CPUs are busy to {percent} %, above {limit} %."
        return (
            f"Host {name} is over-used: its VMs are reckoned to take {percent} % of its CPUs, above"
            f" {limit} %."
        )
    ratio = scheduling.vcpu_to_physical_cpu_ratio
    if 0 < ratio * counted < candidate.processors_taken:
        return (
            f"Host {name} is over-used: its VMs have {candidate.processors_taken} virtual CPUs,"
            f" above {ratio:g} for each of its {counted}."
        )
    return ""


def _over_used_memory(candidate: Candidate, cluster: ClusterState, vms: int) -> str:
    least, free = cluster.scheduling.max_free_memory_for_over_utilized_bytes, memory_free(candidate)
    if least is None or vms <= 1 or free >= least:
        return ""
    return (
        f"Host {candidate.host.name} is over-used: it has {max(0, free) // _MIB} MiB of memory"
        f" free, below {least // _MIB}."
    )


def under_used(candidate: Candidate, cluster: ClusterState, vms: int) -> str:
    """Return why a host is under-used, in a sentence; "" where it is not, or runs nothing."""
    scheduling, percent = cluster.scheduling, cpu_percent(candidate, cluster)
    most = scheduling.min_free_memory_for_under_utilized_bytes
    if not vms or percent >= scheduling.low_utilization_percent:
        return ""
    if most is not None and memory_free(candidate) <= most:
        return ""
    return (
        f"Host {candidate.host.name} is under-used ({percent} % of its CPUs, below"
        f" {scheduling.low_utilization_percent} %), and can be emptied."
    )


def _evenly(draft: Draft) -> None:
    """Relieve hosts that are over-used, the worst first."""
    cluster = draft.cluster
    worst = sorted(
        draft.hosts(), key=lambda c: (-cpu_percent(c, cluster), memory_free(c), c.host.name)
    )
    for found in worst:
        host = found.host.id
        while draft.left > 0:
            reason = over_used(draft.candidate(host), cluster, draft.running(host))
            if not reason or not _relieve(draft, host, reason):
                break


def _relieve(draft: Draft, host: str, reason: str) -> bool:
    """Move one VM off a host: the smallest that is enough, else the largest that can go."""
    excess, avoid = _excess(draft, host), _without_memory_to_spare(draft, host)
    vms = sorted(
        draft.movable[host].values(),
        key=lambda vm: _fit(share_of(vm).processors, share_of(vm).memory_bytes, excess, vm.name),
    )
    return any(_move_well(draft, vm, host, lambda _to: reason, avoid) for vm in vms[:TRIES_MAX])


def _without_memory_to_spare(draft: Draft, host: str) -> frozenset[str]:
    """Return the hosts that a host whose memory alone is over-used is not relieved to.

    As in oVirt's OptimalForEvenDistribution: VMs go to hosts with more free memory than
    MinFreeMemoryForUnderUtilized; those of a host with too little CPU go to any.
    """
    scheduling = draft.cluster.scheduling
    most = scheduling.min_free_memory_for_under_utilized_bytes
    evenly = scheduling.policy is SchedulingPolicy.EVENLY_DISTRIBUTED
    if most is None or not evenly or _over_used_cpus(draft.candidate(host), draft.cluster):
        return frozenset()
    return frozenset(found.host.id for found in draft.hosts() if memory_free(found) <= most)


def _fit(
    processors: int, memory: int, excess: tuple[int, int], name: str
) -> tuple[bool, int, int, str]:
    """Order what is enough by size, and then what is not, the largest first."""
    enough = processors >= excess[0] and memory >= excess[1]
    sign = 1 if enough else -1
    return not enough, sign * processors, sign * memory, name


def _excess(draft: Draft, host: str) -> tuple[int, int]:
    """Return by how many virtual CPUs and bytes of memory a host has too much."""
    scheduling, candidate = draft.cluster.scheduling, draft.candidate(host)
    counted = cpus(candidate, draft.cluster)
    allowed = _allowed(candidate, draft.cluster, scheduling.high_utilization_percent)
    if scheduling.vcpu_to_physical_cpu_ratio > 0:
        allowed = min(allowed, int(scheduling.vcpu_to_physical_cpu_ratio * counted))
    least = scheduling.max_free_memory_for_over_utilized_bytes or 0
    lacks = max(0, least - memory_free(candidate)) if least else 0
    return max(0, candidate.processors_taken - allowed), lacks


def _allowed(candidate: Candidate, cluster: ClusterState, percent: int) -> int:
    """Return how many of a host's virtual CPUs come to a load: each takes as much as another."""
    if candidate.load is None:
        return percent * cpus(candidate, cluster) // VCPU_CONSUMPTION_PERCENT
    now = cpu_permille(candidate, cluster)
    taken = candidate.processors_taken
    return taken * 10 * percent // now if now else taken


def _move_well(
    draft: Draft,
    vm: VmState,
    source: str,
    reason: Callable[[str], str],
    avoid: frozenset[str] = frozenset(),
) -> bool:
    """Move a VM to the best host that it does not make over-used; False where there is none."""
    need = draft.need(vm, source)
    avoid = avoid | need.avoid
    for _ in range(TRIES_MAX):
        need = msgspec.structs.replace(need, avoid=avoid)
        destination = draft.choose(need)
        if destination is None:
            return False
        made = draft.made
        draft.move(vm, source, destination, reason(destination))
        count = draft.running(destination)
        if not over_used(draft.candidate(destination), draft.cluster, count):
            return True
        draft.take_back(made)
        avoid |= {destination}
    return False


def _save_power(draft: Draft) -> None:
    """Relieve what is over-used, and then empty what is under-used, the least loaded first."""
    _evenly(draft)
    cluster, received = draft.cluster, set[str]()
    idle = frozenset(c.host.id for c in draft.hosts() if not draft.running(c.host.id))
    for found in sorted(draft.hosts(), key=lambda c: (cpu_percent(c, cluster), c.host.name)):
        host = found.host.id
        if host in received or draft.left <= 0:
            continue
        reason = under_used(draft.candidate(host), cluster, draft.running(host))
        went = _empty(draft, host, reason, idle) if reason else set()
        received |= went
        idle |= {host} if went else set()


def _empty(draft: Draft, host: str, reason: str, idle: frozenset[str]) -> set[str]:
    """Move all VMs off a host, to hosts that have some; return where they went, if all could."""
    vms = sorted(draft.movable[host].values(), key=lambda vm: -share_of(vm).memory_bytes)
    if len(vms) != draft.running(host) or len(vms) > draft.left:
        return set()
    before = draft.made
    went: set[str] = set()
    for vm in vms:
        if not _move_well(draft, vm, host, lambda _to: reason, idle):
            draft.take_back(before)
            return set()
        went.update(draft.fleet.places(vm.id))
    return went


def _level(draft: Draft) -> None:
    """Move VMs from the hosts that run the most to those that run the fewest."""
    scheduling = draft.cluster.scheduling
    stuck: set[str] = set()
    hosts = [candidate.host.id for candidate in draft.hosts()]
    while draft.left > 0:
        counts = {host: draft.running(host) for host in hosts}
        crowded = {host: n for host, n in counts.items() if host not in stuck}
        if not crowded:
            return
        most = max(sorted(crowded), key=lambda host: crowded[host])
        room = counts[most] - scheduling.migration_threshold
        if counts[most] < scheduling.high_vm_count or min(counts.values()) > room:
            return
        if not _thin_out(draft, most, counts, room):
            stuck.add(most)


def _thin_out(draft: Draft, host: str, counts: dict[str, int], room: int) -> bool:
    """Move one VM from a host to one that runs at most `room`."""
    avoid = frozenset(other for other, n in counts.items() if n > room)

    def reason(destination: str) -> str:
        name, other = draft.candidate(host).host.name, draft.candidate(destination).host.name
        return (
            f"Host {name} runs {counts[host]} VMs, {counts[host] - counts[destination]} more than"
            f" host {other}."
        )

    vms = sorted(draft.movable[host].values(), key=lambda vm: (vm.name, vm.id))
    return any(_move_well(draft, vm, host, reason, avoid) for vm in vms[:TRIES_MAX])


_POLICIES: dict[SchedulingPolicy, Callable[[Draft], None]] = {
    SchedulingPolicy.EVENLY_DISTRIBUTED: _evenly,
    SchedulingPolicy.POWER_SAVING: _save_power,
    SchedulingPolicy.VM_EVENLY_DISTRIBUTED: _level,
}
