"""The filters: each says which hosts it lets through, and why not the others, in a sentence.

Each is there twice: over the columns of all hosts, which is fast, and for one host, which gives the
reason. A property test holds the two to the same verdict.
"""

from __future__ import annotations

import numpy as np

from commands.scheduler.columns import Columns, Mask
from commands.scheduler.layout import ordinary_memory_of, swap_pressure
from commands.scheduler.need import HOST_RESERVE_BYTES, Candidate, Need, cpus_of
from commands.scheduler.overload import OVERLOADED
from commands.scheduler.tuning import TUNING_FILTERS
from commands.scheduler.units import Filter
from commands.state.host import HostStatus
from events.types.cluster import SchedulingPolicy
from events.types.host import Capabilities
from events.types.scheduling_units import FilterUnit


def _status(_need: Need, candidate: Candidate) -> str | None:
    status = candidate.host.status
    return None if status is HostStatus.UP else f"The host is {status.replace('_', ' ')}."


def _pinned(need: Need, candidate: Candidate) -> str | None:
    if need.only_host not in {None, candidate.host.id}:
        return need.only_host_why
    if need.pinned is None or candidate.host.id in need.pinned:
        return None
    return "The VM is pinned to other hosts."


def _only(need: Need, columns: Columns) -> Mask | None:
    mask = None if need.pinned is None else columns.among(need.pinned)
    if need.only_host is None:
        return mask
    only = columns.among((need.only_host,))
    return only if mask is None else only & mask


def _together_and_apart(need: Need, candidate: Candidate) -> str | None:
    bounds, host = need.bounds, candidate.host.id
    if bounds is None:
        return None
    if host in bounds.apart:
        other, group = bounds.apart[host]
        return f"VM {other} is there, and affinity group {group} keeps the two apart."
    if bounds.tie is None or host in bounds.tie.hosts:
        return None
    other = min(bounds.tie.hosts.values())
    groups = ", ".join(bounds.tie.groups)
    return f"VM {other}, which affinity group {groups} keeps on one host with it, is elsewhere."


def _tied(need: Need, columns: Columns) -> Mask | None:
    bounds = need.bounds
    if bounds is None:
        return None
    mask = _without(columns, tuple(bounds.apart))
    if bounds.tie is None:
        return mask
    tied = columns.among(bounds.tie.hosts)
    return tied if mask is None else tied & mask


def _bound_and_barred(need: Need, candidate: Candidate) -> str | None:
    if need.bounds is None:
        return None
    for each in need.bounds.bound:
        if candidate.host.id not in each.hosts:
            return f"Affinity group {each.group} keeps the VM on other hosts."
    for each in need.bounds.barred:
        if candidate.host.id in each.hosts:
            return f"Affinity group {each.group} keeps the VM off this host."
    return None


def _bound(need: Need, columns: Columns) -> Mask | None:
    if need.bounds is None:
        return None
    mask: Mask | None = None
    for each in need.bounds.bound:
        among = columns.among(each.hosts)
        mask = among if mask is None else mask & among
    for each in need.bounds.barred:
        elsewhere = ~columns.among(each.hosts)
        mask = elsewhere if mask is None else mask & elsewhere
    return mask


def _avoided(need: Need, candidate: Candidate) -> str | None:
    if candidate.host.id not in need.avoid:
        return None
    return "Balancing leaves it out: it is over-used, or to be emptied, or a VM comes or goes."


def _not_avoided(need: Need, columns: Columns) -> Mask | None:
    return ~columns.among(need.avoid) if need.avoid else None


def _tried(need: Need, candidate: Candidate) -> str | None:
    if candidate.host.id not in need.tried:
        return None
    what = "did not take the VM in" if need.moves else "could not start the VM"
    return f"It was tried and {what}."


def _folder(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if need.moves or not need.storage_id or abilities is None:
        return None
    if need.storage_id == abilities.storage_id:
        return None
    return "It does not see the storage folder that the VM's files lie in."


def _busy(need: Need, candidate: Candidate) -> str | None:
    if candidate.host.id not in need.busy:
        return None
    return f"It is starting {need.starts_at_once_max} VMs already."


def _full(need: Need, candidate: Candidate) -> str | None:
    if candidate.host.id not in need.full:
        return None
    return f"It takes in {need.incoming_max} VMs already."


def _shutting_down(need: Need, candidate: Candidate) -> str | None:
    shutting_down = candidate.host.id in need.shutting_down
    return "It was shutting down when the VM ended there." if shutting_down else None


def _left(need: Need, candidate: Candidate) -> str | None:
    if candidate.host.id == need.leaves:
        return "The VM runs there."
    abilities = candidate.host.capabilities
    if not need.moves or abilities is None:
        return None
    if not abilities.migration_address:
        return "Its agent takes no VMs in: start it with --migration ADDRESS."
    if need.storage_id is None or (need.storage_id and need.storage_id == abilities.storage_id):
        return None
    return "It does not see the storage folder that the VM's files lie in."


def _not_left(need: Need, columns: Columns) -> Mask | None:
    elsewhere = _without(columns, (need.leaves,) if need.leaves else ())
    if not need.moves:
        return elsewhere
    mask = columns.takes_in if elsewhere is None else columns.takes_in & elsewhere
    if need.storage_id is None:
        return mask
    seen = columns.having("storage_ids", need.storage_id) if need.storage_id else ~columns.known
    return mask & seen


def _without(columns: Columns, hosts: tuple[str, ...]) -> Mask | None:
    rows = [columns.index[host] for host in hosts if host in columns.index]
    if not rows:
        return None
    mask = np.ones(len(columns.candidates), np.bool_)
    mask[rows] = False
    return mask


def _maintained(need: Need, _candidate: Candidate) -> str | None:
    if not _in_maintenance(need):
        return None
    return "The cluster is in maintenance: only highly available VMs are started in it."


def _in_maintenance(need: Need) -> bool:
    """Tell whether it is a start that the filter refuses; VMs that run may move, as in oVirt."""
    if not need.starts or need.moves or need.highly_available:
        return False
    if need.scheduling.filters is not None:
        return FilterUnit.CLUSTER_IN_MAINTENANCE in need.scheduling.filters
    return need.scheduling.policy is SchedulingPolicy.CLUSTER_MAINTENANCE


def _nowhere(need: Need, columns: Columns) -> Mask | None:
    return np.zeros(len(columns.candidates), np.bool_) if _in_maintenance(need) else None


def _memory(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if abilities is None:
        return None
    memory = ordinary_memory_of(abilities)
    free = memory * need.memory_percent // 100 - HOST_RESERVE_BYTES - candidate.memory_taken_bytes
    if need.memory_bytes > free:
        wanted = need.memory_bytes
        return f"It has {max(free, 0) >> 20} MiB of memory free, {wanted >> 20} are needed."
    own = memory - HOST_RESERVE_BYTES - candidate.guaranteed_taken_bytes
    if not need.ballooning or need.guaranteed_bytes <= own:
        return None
    return (
        f"It has {max(own, 0) >> 20} MiB of memory that no VM is guaranteed,"
        f" {need.guaranteed_bytes >> 20} are to be guaranteed."
    )


def _told(_need: Need, candidate: Candidate) -> str | None:
    return None if candidate.host.capabilities else "It has not said yet what it can do."


def _enough_memory(need: Need, columns: Columns) -> Mask:
    free = columns.memory_free
    if need.memory_percent != 100:  # noqa: PLR2004
        free = free + columns.over_commit(need.memory_percent)
    mask: Mask = ~columns.known | (free >= need.memory_bytes)
    if need.ballooning:
        mask &= ~columns.known | (columns.memory_to_guarantee >= need.guaranteed_bytes)
    return mask


def _swapping(need: Need, candidate: Candidate) -> str | None:
    pressure = swap_pressure(candidate.host.capabilities)
    limit = need.scheduling.maximum_allowed_swap_usage_percent
    if not need.starts or pressure <= limit:
        return None
    return (
        f"It has swapped out {pressure} % of its memory more than is free;"
        f" above {limit} % it gets no more VMs."
    )


def _not_swapping(need: Need, columns: Columns) -> Mask | None:
    if not need.starts:
        return None
    mask: Mask = columns.swap_pressure <= need.scheduling.maximum_allowed_swap_usage_percent
    return mask


def _cpus(need: Need, abilities: Capabilities) -> int:
    return cpus_of(abilities, threads_as_cores=need.threads_as_cores)


def _processors(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if abilities is None:
        return None
    if need.processors > _cpus(need, abilities):
        return f"It has {_cpus(need, abilities)} CPUs, the VM wants {need.processors}."
    left = abilities.cpus - len(candidate.special.dedicated)
    if not need.shares_cpus or need.processors <= left:
        return None
    return f"It has {left} CPUs that are no other VM's own, the VM wants {need.processors}."


def _enough_processors(need: Need, columns: Columns) -> Mask:
    mask: Mask = columns.counted(need) >= need.processors
    if need.shares_cpus:
        mask &= columns.cpus - columns.cpus_dedicated >= need.processors
    return mask


def _machine_type(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if abilities is None or need.machine_type in {None, *abilities.machine_types}:
        return None
    return f"It does not know machine type {need.machine_type}."


def _cpu_model(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if abilities is None or need.cpu_model in {None, *abilities.cpu_models}:
        return None
    return f"It cannot provide CPU model {need.cpu_model}."


def _bridges(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    missing = set(need.bridges) - set(abilities.bridges if abilities else need.bridges)
    return f"It has no bridge {', '.join(sorted(missing))}." if missing else None


def _having(kind: str, names: tuple[str | None, ...], columns: Columns) -> Mask | None:
    mask: Mask | None = None
    for name in names:
        if name is not None:
            column = columns.having(kind, name)
            mask = column if mask is None else mask & column
    return mask


def _storage(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if not need.storage_bytes or abilities is None or abilities.storage_free_bytes > 0:
        return None
    return "Its storage folder has no space left."


def _with_storage(need: Need, columns: Columns) -> Mask | None:
    return columns.stores if need.storage_bytes else None


FILTERS: tuple[Filter, ...] = (
    Filter(name="Status", passing=lambda _need, columns: columns.up, objection=_status),
    Filter(name="PinToHost", passing=_only, objection=_pinned),
    Filter(
        name="Tried",
        passing=lambda need, columns: _without(columns, need.tried),
        objection=_tried,
    ),
    Filter(
        name="Migration",
        passing=_not_left,
        objection=_left,
    ),
    Filter(
        name="StartsAtOnce",
        passing=lambda need, columns: _without(columns, need.busy),
        objection=_busy,
    ),
    Filter(
        name="TakingIn",
        passing=lambda need, columns: _without(columns, need.full),
        objection=_full,
    ),
    Filter(
        name="ShuttingDown",
        passing=lambda need, columns: _without(columns, need.shutting_down),
        objection=_shutting_down,
    ),
    Filter(
        name="StorageFolder",
        passing=lambda need, columns: (
            None if need.moves else _having("storage_ids", (need.storage_id or None,), columns)
        ),
        objection=_folder,
    ),
    Filter(name="ClusterInMaintenance", passing=_nowhere, objection=_maintained),
    Filter(name="Capabilities", passing=lambda _need, columns: columns.known, objection=_told),
    Filter(
        name="Memory",
        passing=_enough_memory,
        objection=_memory,
    ),
    Filter(name="Swap", passing=_not_swapping, objection=_swapping),
    Filter(
        name="CPU",
        passing=_enough_processors,
        objection=_processors,
    ),
    OVERLOADED,
    Filter(
        name="Emulated-Machine",
        passing=lambda need, columns: _having("machine_types", (need.machine_type,), columns),
        objection=_machine_type,
    ),
    Filter(
        name="CPU-Level",
        passing=lambda need, columns: _having("cpu_models", (need.cpu_model,), columns),
        objection=_cpu_model,
    ),
    Filter(
        name="Network",
        passing=lambda need, columns: _having("bridges", need.bridges, columns),
        objection=_bridges,
    ),
    Filter(name="Storage", passing=_with_storage, objection=_storage),
    *TUNING_FILTERS,
    Filter(name="VmAffinityGroups", passing=_tied, objection=_together_and_apart),
    Filter(name="VmToHostsAffinityGroups", passing=_bound, objection=_bound_and_barred),
    Filter(name="Balancing", passing=_not_avoided, objection=_avoided),
)
"""All filters, in the order in which their reasons are told.

Every built-in policy has them all; ClusterInMaintenance objects under its own policy only.
`Status`, `Capabilities`, `Tried`, `StartsAtOnce`, `TakingIn`, `ShuttingDown`, `StorageFolder`,
`Storage` and `Balancing` have no name in oVirt.
"""
