"""How a host's processors and memory lie, and what VMs take of them: for pins, NUMA, huge pages.

All of it is worked out for one host from what it reports, and kept for each host as columns that
are made when somebody first asks for them: few VMs do.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from events.types.host import Capabilities
from events.types.host_hardware import NumaNode
from events.types.host_memory import SWAP_PRESSURE_LEAST
from events.types.run_spec import VmConfiguration
from events.types.vm_tuning import CpuPolicy, Dedicated, NumaMode, Tuning, members

TSC_TOLERANCE_PPM = 250
"""KVM runs a guest's time-stamp counter at the host's rate within it: its tsc_tolerance_ppm."""


class Special(msgspec.Struct, frozen=True, kw_only=True):
    """What VMs take of a host beside ordinary memory and CPUs.

    `pages` maps a size of huge pages to their number, `nodes` a NUMA node to the bytes that are
    bound to it. `dedicated` are CPUs that are a VM's alone, `pinned` those that VMs are pinned to,
    each with the number of these VMs; `UNKNOWN_CPU` is among the first where it is not known which
    CPUs are a VM's alone.
    """

    pages: Mapping[int, int] = {}
    nodes: Mapping[int, int] = {}
    dedicated: Mapping[int, int] = {}
    pinned: Mapping[int, int] = {}

    def __hash__(self) -> int:
        """Needs are kept in sets, to look for the same only once."""
        parts = (self.pages, self.nodes, self.dedicated, self.pinned)
        return hash(tuple(frozenset(part.items()) for part in parts))


NOTHING_SPECIAL = Special()
UNKNOWN_CPU = -1


def special_of(configuration: VmConfiguration) -> Special:
    """Return what a VM takes; memory that is bound to several nodes counts in equal parts."""
    tuning = configuration.tuning
    size = tuning.huge_page_bytes
    nodes: dict[int, int] = {}
    for node in tuning.numa_nodes:
        if node.host_nodes and node.mode is NumaMode.STRICT:
            bound = sorted(members(node.host_nodes))
            for number in bound:
                nodes[number] = nodes.get(number, 0) + node.memory_bytes // len(bound)
    pages = {} if size is None else {size: -(-configuration.memory_bytes // size)}
    return Special(pages=pages, nodes=nodes) if pages or nodes else NOTHING_SPECIAL


def with_cpus(special: Special, tuning: Tuning, own: Dedicated | None) -> Special:
    """Return what a VM takes together with its CPUs on one host."""
    if own is not None:
        return msgspec.structs.replace(special, dedicated=dict.fromkeys(members(own.cpus), 1))
    if tuning.cpu_policy is not CpuPolicy.NONE:
        return msgspec.structs.replace(special, dedicated={UNKNOWN_CPU: 1})
    if tuning.pins:
        return msgspec.structs.replace(special, pinned=dict.fromkeys(pinned_cpus(tuning), 1))
    return special


def added(before: Special, share: Special, sign: int) -> Special:
    """Return what is taken with a share more, or less."""
    if share is NOTHING_SPECIAL:
        return before
    return Special(
        pages=_sum(before.pages, share.pages, sign),
        nodes=_sum(before.nodes, share.nodes, sign),
        dedicated=_sum(before.dedicated, share.dedicated, sign),
        pinned=_sum(before.pinned, share.pinned, sign),
    )


def _sum(before: Mapping[int, int], share: Mapping[int, int], sign: int) -> dict[int, int]:
    total = {key: before.get(key, 0) + sign * share.get(key, 0) for key in {*before, *share}}
    return {key: count for key, count in total.items() if count}


def ordinary_memory_of(abilities: Capabilities) -> int:
    """Return a host's memory without what is set aside as huge pages, in bytes."""
    hardware = abilities.hardware
    if hardware is None or not hardware.huge_pages:
        return abilities.memory_bytes
    aside = sum(pages.size_bytes * pages.count for pages in hardware.huge_pages)
    return max(0, abilities.memory_bytes - aside)


def guaranteed_of(configuration: VmConfiguration, given_out_percent: int) -> int:
    """Return the memory that a VM is never asked to give back, in bytes, but for huge pages."""
    huge = configuration.tuning.huge_page_bytes is not None
    return 0 if huge else configuration.memory_kept_bytes(given_out_percent)


def swap_pressure(abilities: Capabilities | None) -> int:
    """Return how far a host is from taking back what it swapped out, in percent of its memory."""
    if abilities is None or abilities.swap is None:
        return SWAP_PRESSURE_LEAST
    return abilities.swap.pressure_percent


def nodes_of(abilities: Capabilities) -> dict[int, NumaNode]:
    """Return a host's NUMA nodes by their numbers; none where it does not tell."""
    return {node.node: node for node in abilities.hardware.numa_nodes} if abilities.hardware else {}


def cpus_there(abilities: Capabilities) -> frozenset[int]:
    """Return the numbers of a host's CPUs."""
    nodes = nodes_of(abilities)
    if not nodes:
        return frozenset(range(abilities.cpus))
    return frozenset[int]().union(*(members(node.cpus) for node in nodes.values()))


def pages_of(abilities: Capabilities, size_bytes: int) -> int:
    """Return how many huge pages of a size a host has set aside."""
    found = abilities.hardware.huge_pages if abilities.hardware is not None else ()
    return sum(pages.count for pages in found if pages.size_bytes == size_bytes)


def pinned_cpus(tuning: Tuning) -> frozenset[int]:
    """Return all CPUs that a VM's virtual CPUs are pinned to."""
    return frozenset[int]().union(*(members(pin.cpus) for pin in tuning.pins))


def bound_nodes(tuning: Tuning) -> frozenset[int]:
    """Return all NUMA nodes that a VM's memory is taken of, in whatever mode."""
    return frozenset[int]().union(*(members(node.host_nodes) for node in tuning.numa_nodes))


def agrees(tuning: Tuning, abilities: Capabilities) -> bool:
    """Tell whether pinned CPUs are on the NUMA nodes that their guest's node takes memory of."""
    there = nodes_of(abilities)
    pins = {pin.vcpu: members(pin.cpus) for pin in tuning.pins}
    for node in tuning.numa_nodes:
        if not node.host_nodes:
            continue
        bound = (there[number] for number in members(node.host_nodes) if number in there)
        near = frozenset[int]().union(*(members(each.cpus) for each in bound))
        if any(not pins[vcpu] <= near for vcpu in members(node.vcpus) if vcpu in pins):
            return False
    return True


def same_tsc(one_hz: int, other_hz: int) -> bool:
    """Tell whether two time-stamp counters run as fast, as KVM sees it."""
    return abs(one_hz - other_hz) * 1_000_000 <= TSC_TOLERANCE_PPM * one_hz
