"""The scheduler: each filter, weight and policy, and all of them against a plain reckoning."""

from __future__ import annotations

import math
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.scheduler.bounds import Bounds, HostBound, Tie, Wish
from commands.scheduler.filters import FILTERS
from commands.scheduler.fleet import Fleet, Share
from commands.scheduler.layout import NOTHING_SPECIAL, Special, added
from commands.scheduler.load import Load
from commands.scheduler.need import HOST_RESERVE_BYTES, Candidate, Need
from commands.scheduler.policies import objections, weights_of
from commands.state.host import Duty, HostState, Identity
from events.types.cluster import Scheduling, SchedulingPolicy
from events.types.host_hardware import CpuTopology, Hardware, HugePages, NumaNode
from events.types.host_memory import Swap, swap_of
from events.types.run_spec import Topology
from events.types.scheduling_units import FilterUnit, Selector, WeightFactor, WeightUnit
from events.types.vm_tuning import CpuPin, CpuPolicy, GuestNumaNode, NumaMode, Tuning, members
from tests.unit.policies.stage import CAPABILITIES

MIB = 1024**2


def host(
    number: int, memory_mib: int = 1_000, *, cpus: int = 8, up: bool = True, **changes: object
) -> HostState:
    """A host of a cluster, up or not."""
    state = HostState(
        id=f"h{number}",
        name=f"host-{number:03}",
        cluster="c",
        data_center="d",
        address="",
        approved=True,
        identity=Identity(public_key_sha256="", hardware="", signing_request="", token=""),
        session="s" if up else None,
        capabilities=msgspec.structs.replace(
            CAPABILITIES, memory_bytes=HOST_RESERVE_BYTES + memory_mib * MIB, cpus=cpus
        ),
    )
    return msgspec.structs.replace(state, **changes)


def fleet_of(*hosts: HostState) -> Fleet:
    fleet = Fleet()
    for state in hosts:
        fleet.put(state)
    return fleet


def chosen(fleet: Fleet, need: Need) -> str | None:
    found = fleet.choose(need).host
    return None if found is None else found.id


def share(memory_mib: int = 0, processors: int = 0) -> Share:
    return Share(memory_bytes=memory_mib * MIB, processors=processors)


def able(number: int, **changes: object) -> HostState:
    return host(number, capabilities=msgspec.structs.replace(CAPABILITIES, **changes))


TWO_NODES = Hardware(
    tsc_hz=2_000_000_000,
    topology=CpuTopology(sockets=2, cores=2, threads=1),
    cores="0 1 2 3",
    numa_nodes=(
        NumaNode(node=0, cpus="0-1", memory_bytes=100 * MIB),
        NumaNode(node=1, cpus="2-3", memory_bytes=100 * MIB),
    ),
    huge_pages=(HugePages(size_bytes=2 * MIB, count=10),),
)


def bound_to(host_nodes: str, memory_mib: int, mode: NumaMode = NumaMode.STRICT) -> Tuning:
    node = GuestNumaNode(vcpus="0", memory_bytes=memory_mib * MIB, host_nodes=host_nodes, mode=mode)
    return Tuning(numa_nodes=(node,))


# ---------------------------------------------------------------------------------------- filters
TOO_FEW_CORES = (
    "3 of the VM's 4 virtual CPUs would have a core of their own; the host keeps its first core."
)
REFUSED = [
    ("Status", host(1, up=False), Need(cluster="c"), "The host is unassigned."),
    (
        "Status",
        host(1, duty=Duty.MAINTENANCE),
        Need(cluster="c"),
        "The host is maintenance.",
    ),
    (
        "PinToHost",
        host(1),
        Need(cluster="c", only_host="h9", only_host_why="Its disks lie on h9."),
        "Its disks lie on h9.",
    ),
    (
        "Tried",
        host(1),
        Need(cluster="c", tried=("h1",)),
        "It was tried and could not start the VM.",
    ),
    (
        "StartsAtOnce",
        host(1),
        Need(cluster="c", starts_at_once_max=4, busy=("h1",)),
        "It is starting 4 VMs already.",
    ),
    (
        "ShuttingDown",
        host(1),
        Need(cluster="c", shutting_down=("h1",)),
        "It was shutting down when the VM ended there.",
    ),
    ("Migration", host(1), Need(cluster="c", leaves="h1"), "The VM runs there."),
    (
        "ClusterInMaintenance",
        host(1),
        Need(cluster="c", scheduling=Scheduling(policy=SchedulingPolicy.CLUSTER_MAINTENANCE)),
        "The cluster is in maintenance: only highly available VMs are started in it.",
    ),
    (
        "Memory",
        host(1, 100),
        Need(cluster="c", memory_bytes=101 * MIB),
        "It has 100 MiB of memory free, 101 are needed.",
    ),
    (
        "Capabilities",
        host(1, capabilities=None),
        Need(cluster="c"),
        "It has not said yet what it can do.",
    ),
    (
        "PinToHost",
        host(1),
        Need(cluster="c", pinned=frozenset({"h9"})),
        "The VM is pinned to other hosts.",
    ),
    (
        "Memory",
        host(1, 100),  # 356 MiB with what is left to itself
        Need(cluster="c", memory_percent=150, memory_bytes=279 * MIB),
        "It has 278 MiB of memory free, 279 are needed.",
    ),
    (
        "Memory",
        host(1, 100),
        Need(
            cluster="c",
            memory_percent=200,
            ballooning=True,
            memory_bytes=120 * MIB,
            guaranteed_bytes=101 * MIB,
        ),
        "It has 100 MiB of memory that no VM is guaranteed, 101 are to be guaranteed.",
    ),
    (
        "VmAffinityGroups",
        host(1),
        Need(cluster="c", bounds=Bounds(apart={"h1": ("web02", "replicas")})),
        "VM web02 is there, and affinity group replicas keeps the two apart.",
    ),
    (
        "VmAffinityGroups",
        host(1),
        Need(cluster="c", bounds=Bounds(tie=Tie(groups=("a", "b"), hosts={"h9": "web02"}))),
        "VM web02, which affinity group a, b keeps on one host with it, is elsewhere.",
    ),
    (
        "VmToHostsAffinityGroups",
        host(1),
        Need(
            cluster="c",
            bounds=Bounds(bound=(HostBound(group="licensed", hosts=frozenset({"h9"})),)),
        ),
        "Affinity group licensed keeps the VM on other hosts.",
    ),
    (
        "VmToHostsAffinityGroups",
        host(1),
        Need(
            cluster="c", bounds=Bounds(barred=(HostBound(group="loud", hosts=frozenset({"h1"})),))
        ),
        "Affinity group loud keeps the VM off this host.",
    ),
    (
        "Balancing",
        host(1),
        Need(cluster="c", avoid=frozenset({"h1"})),
        "Balancing leaves it out: it is over-used, or to be emptied, or a VM comes or goes.",
    ),
    (
        "Swap",
        able(1, swap=Swap(total_bytes=2**30, used_bytes=2**29, pressure_percent=11)),
        Need(cluster="c", scheduling=Scheduling(maximum_allowed_swap_usage_percent=10)),
        "It has swapped out 11 % of its memory more than is free; above 10 % it gets no more VMs.",
    ),
    (
        "Swap",
        able(1, swap=Swap(total_bytes=2**30, used_bytes=2**29, pressure_percent=1)),
        Need(cluster="c"),
        "It has swapped out 1 % of its memory more than is free; above 0 % it gets no more VMs.",
    ),
    ("CPU", host(1, cpus=2), Need(cluster="c", processors=3), "It has 2 CPUs, the VM wants 3."),
    (
        "Emulated-Machine",
        host(1),
        Need(cluster="c", machine_type="pc-q35-99.0"),
        "It does not know machine type pc-q35-99.0.",
    ),
    (
        "CPU-Level",
        host(1),
        Need(cluster="c", cpu_model="Newest"),
        "It cannot provide CPU model Newest.",
    ),
    (
        "Network",
        host(1),
        Need(cluster="c", bridges=("br0", "br7", "br1")),
        "It has no bridge br1, br7.",
    ),
    (
        "StorageFolder",
        able(1, storage_id="mine"),
        Need(cluster="c", storage_id="another"),
        "It does not see the storage folder that the VM's files lie in.",
    ),
    (
        "Storage",
        able(1, storage_free_bytes=0),
        Need(cluster="c", storage_bytes=1),
        "Its storage folder has no space left.",
    ),
    (
        "CpuPinning",
        host(1, cpus=4),
        Need(cluster="c", tuning=Tuning(pins=(CpuPin(vcpu=0, cpus="2-5,7"),))),
        "It has no CPU 4-5,7, which the VM is pinned to.",
    ),
    (
        "CpuPinning",
        able(1, hardware=TWO_NODES),
        Need(
            cluster="c",
            topology=Topology(cores=4),
            tuning=Tuning(cpu_policy=CpuPolicy.DEDICATED),
        ),
        "3 of the VM's 4 cores would have CPUs of their own; the host keeps its first core.",
    ),
    (
        "CpuPinning",
        able(1, hardware=TWO_NODES),
        Need(
            cluster="c",
            topology=Topology(threads=4),
            tuning=Tuning(cpu_policy=CpuPolicy.ISOLATE_THREADS),
        ),
        TOO_FEW_CORES,
    ),
    (
        "NUMA",
        able(1, hardware=TWO_NODES),
        Need(cluster="c", tuning=bound_to("0,2", 10)),
        "It has no NUMA node 2, which the VM's memory is taken of.",
    ),
    (
        "NUMA",
        able(1, hardware=TWO_NODES),
        Need(cluster="c", tuning=bound_to("1", 200), special=Special(nodes={1: 200 * MIB})),
        "Its NUMA node 1 has 100 MiB that are not bound to VMs, 200 are needed.",
    ),
    (
        "NUMA",
        able(1),
        Need(cluster="c", tuning=bound_to("0", 1)),
        "It has no NUMA node 0, which the VM's memory is taken of.",
    ),
    (
        "HugePages",
        able(1, hardware=TWO_NODES),
        Need(cluster="c", special=Special(pages={2 * MIB: 11})),
        "It has 10 huge pages of 2 MiB free, 11 are needed.",
    ),
    (
        "Migration-Tsc-Frequency",
        able(1, hardware=Hardware(tsc_hz=2_000_000_000)),
        Need(cluster="c", tsc_hz=2_001_000_000),
        "Its time-stamp counter runs at 2000.000 MHz, the one of the VM's host at 2001.000 MHz.",
    ),
    (
        "Migration-Tsc-Frequency",
        able(1),
        Need(cluster="c", tsc_hz=2_000_000_000),
        "Its time-stamp counter is not known, the one of the VM's host at 2000.000 MHz.",
    ),
]


@pytest.mark.parametrize(
    ("name", "state", "need", "reason"),
    REFUSED,
    ids=[f"{n}-{case[0]}" for n, case in enumerate(REFUSED)],
)
def test_a_filter_says_why_not(name: str, state: HostState, need: Need, reason: str) -> None:
    fleet = fleet_of(state)
    choice = fleet.choose(need)
    assert choice.host is None
    assert choice.verdicts[0].reasons == (reason,)
    (objecting,) = (f.name for f in FILTERS if f.objection(need, Candidate(host=state)))
    assert objecting == name


@pytest.mark.parametrize("need", [case[2] for case in REFUSED[2:]])
def test_another_host_is_chosen_where_there_is_one(need: Need) -> None:
    if need.scheduling.policy is SchedulingPolicy.CLUSTER_MAINTENANCE:
        need = msgspec.structs.replace(need, starts=False)  # disks are still made there
    names = {"bridges": need.bridges, "machine_types": (need.machine_type or "",)}
    files = need.storage_id or ""
    hardware = Hardware(
        tsc_hz=need.tsc_hz + 300_000,
        cores=" ".join(map(str, range(8))),
        numa_nodes=tuple(NumaNode(node=n, cpus=f"{n}", memory_bytes=2**30) for n in range(8)),
        huge_pages=(HugePages(size_bytes=2 * MIB, count=11),),
    )
    fit = able(
        9,
        **names,
        cpu_models=(need.cpu_model or "",),
        memory_bytes=2**40,
        storage_id=files,
        hardware=hardware,
    )
    assert chosen(fleet_of(host(1), fit), need) in {"h9", "h1"}
    assert chosen(fleet_of(fit), need) == "h9"


@pytest.mark.parametrize(
    "scheduling",
    [
        Scheduling(policy=SchedulingPolicy.CLUSTER_MAINTENANCE),
        Scheduling(filters=(FilterUnit.CLUSTER_IN_MAINTENANCE,)),
    ],
)
def test_in_a_cluster_in_maintenance_vms_move_and_highly_available_ones_start(
    scheduling: Scheduling,
) -> None:
    fleet = fleet_of(host(1), host(2))
    start = Need(cluster="c", scheduling=scheduling)
    assert chosen(fleet, start) is None
    available = msgspec.structs.replace(start, highly_available=True)
    assert chosen(fleet, available) == "h1"
    move = msgspec.structs.replace(start, moves=True, leaves="h1", storage_id=None)
    assert chosen(fleet, move) == "h2"
    assert fleet.assess(move)[0].rank == 1
    disks = msgspec.structs.replace(start, starts=False)
    assert chosen(fleet, disks) == "h1"


def test_a_host_whose_vms_take_too_much_gets_no_more() -> None:
    fleet = fleet_of(host(1, cpus=2))
    need = Need(cluster="c", processors=1)
    fleet.take("h1", share(0, 16))  # 16 x 10 % of 2 CPUs: 80 %, which is allowed
    assert chosen(fleet, need) == "h1"
    fleet.take("h1", share(0, 1))
    assert fleet.choose(need).refusal == (
        "host-001: Its VMs are reckoned to take 85 % of its CPUs; above 80 % it gets no more."
    )
    assert chosen(fleet, msgspec.structs.replace(need, starts=False)) == "h1"
    patient = Scheduling(high_utilization_percent=90)
    assert chosen(fleet, msgspec.structs.replace(need, scheduling=patient)) == "h1"


def test_every_reason_of_a_host_is_told() -> None:
    fleet = fleet_of(host(1, 100, cpus=1, up=False))
    need = Need(cluster="c", memory_bytes=200 * MIB, processors=2)
    assert len(fleet.choose(need).verdicts[0].reasons) == 3


# ---------------------------------------------------------------------------------------- weights
def scheduled(policy: SchedulingPolicy, **parameters: object) -> Need:
    scheduling = msgspec.structs.replace(Scheduling(policy=policy), **parameters)
    return Need(cluster="c", memory_bytes=10 * MIB, processors=1, scheduling=scheduling)


@pytest.mark.parametrize("policy", [SchedulingPolicy.NONE, SchedulingPolicy.EVENLY_DISTRIBUTED])
def test_vms_are_spread(policy: SchedulingPolicy) -> None:
    fleet = fleet_of(host(1), host(2), host(3))
    for expected in ("h1", "h2", "h3", "h1"):
        assert chosen(fleet, scheduled(policy)) == expected
        fleet.take(expected, share(10, 1))


def test_processors_count_twice_as_much_as_memory() -> None:
    fleet = fleet_of(host(1), host(2))
    fleet.take("h1", share(500, 1))
    fleet.take("h2", share(0, 5))
    assert chosen(fleet, scheduled(SchedulingPolicy.NONE)) == "h1"


def test_weights_are_added_up_where_no_host_is_ranked() -> None:
    """by ranks h1 wins with the better memory; its load is far worse, which only weights show"""
    fleet = fleet_of(host(1, 1_010, cpus=2), host(2, 1_000, cpus=64))
    weights = (
        WeightFactor(unit=WeightUnit.EVEN_CPU, factor=1),
        WeightFactor(unit=WeightUnit.EVEN_MEMORY, factor=2),
    )
    need = Need(cluster="c", processors=1, scheduling=Scheduling(weights=weights))
    assert chosen(fleet, need) == "h1"
    basic = msgspec.structs.replace(need.scheduling, selector=Selector.BASIC_WEIGHTING)
    need = msgspec.structs.replace(need, scheduling=basic)
    assert chosen(fleet, need) == "h2"
    first, second = fleet.assess(need)
    assert (first.host, second.host) == ("h2", "h1")
    for each in (first, second):
        names = ("OptimalForCpuEvenDistribution", "OptimalForMemoryEvenDistribution")
        load, memory = (each.weights[name] for name in names)
        assert each.score == -(load + 2 * memory)


def test_hosts_above_the_ratio_come_last() -> None:
    fleet = fleet_of(host(1, cpus=4), host(2, 100, cpus=4))
    fleet.take("h1", share(0, 4))
    fleet.take("h2", share(0, 6))
    assert chosen(fleet, scheduled(SchedulingPolicy.EVENLY_DISTRIBUTED)) == "h1"
    limited = scheduled(SchedulingPolicy.EVENLY_DISTRIBUTED, vcpu_to_physical_cpu_ratio=1.0)
    weights = {a.host: a.weights for a in fleet.assess(limited)}
    assert {w["OptimalForCpuEvenDistribution"] for w in weights.values()} == {1_000}
    fleet.take("h2", share(0, 6), -1)
    assert chosen(fleet, limited) == "h2"


def test_power_is_saved_by_filling_hosts_up_to_the_limit() -> None:
    fleet = fleet_of(host(1, cpus=1), host(2, cpus=1))
    saving = scheduled(SchedulingPolicy.POWER_SAVING)
    fleet.take("h2", share(0, 1))
    for _ in range(7):  # up to 8 virtual CPUs: 80 % of one
        assert chosen(fleet, saving) == "h2"
        fleet.take("h2", share(0, 1))
    assert chosen(fleet, saving) == "h1"


def test_memory_is_saved_within_its_limits() -> None:
    fleet = fleet_of(host(1, 300), host(2, 200), host(3, 100))
    assert chosen(fleet, scheduled(SchedulingPolicy.POWER_SAVING)) == "h3"
    limits = {"max_free_memory_for_over_utilized_bytes": 100 * MIB}
    assert chosen(fleet, scheduled(SchedulingPolicy.POWER_SAVING, **limits)) == "h2"
    limits["min_free_memory_for_under_utilized_bytes"] = 250 * MIB
    found = fleet.assess(scheduled(SchedulingPolicy.POWER_SAVING, **limits))
    weights = {a.host: a.weights["OptimalForMemoryPowerSaving"] for a in found}
    assert weights["h1"] == weights["h3"] == 1_000
    assert weights["h2"] < 1_000


def test_guests_are_counted_whatever_they_take() -> None:
    fleet = fleet_of(host(1), host(2))
    fleet.take("h1", share(0, 0))
    fleet.take("h2", share(900, 8))
    fleet.take("h1", share(0, 0))
    assert chosen(fleet, scheduled(SchedulingPolicy.VM_EVENLY_DISTRIBUTED)) == "h2"


def test_a_vm_that_will_run_there_counts_where_it_does_not_run_yet() -> None:
    fleet = fleet_of(host(1, 100), host(2, 100))
    fleet.take("h1", share(95, 1), runs=False)
    assert chosen(fleet, scheduled(SchedulingPolicy.NONE)) == "h2"
    fleet.put(host(2, up=False))
    assert chosen(fleet, scheduled(SchedulingPolicy.NONE)) == "h1"  # its memory is free


# ------------------------------------------------------------------------------------ affinity
def bound(**said: object) -> Need:
    return Need(cluster="c", bounds=msgspec.structs.replace(Bounds(), **said))


def wish(priority: float, *hosts: str, wanted: bool = True) -> Wish:
    return Wish(group="g", priority=priority, hosts=frozenset(hosts), wanted=wanted)


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (
            bound(tie=Tie(groups=("g",), hosts={"h1": "a", "h3": "b"}), apart={"h1": ("c", "g")}),
            "h3",
        ),
        (bound(bound=(HostBound(group="g", hosts=frozenset({"h2", "h3"})),)), "h2"),
        (bound(barred=(HostBound(group="g", hosts=frozenset({"h1", "h2"})),)), "h3"),
        (bound(vm_wishes=(wish(1, "h2"),)), "h2"),
        (bound(vm_wishes=(wish(1, "h1", wanted=False),)), "h2"),
        (bound(host_wishes=(wish(1, "h3"),)), "h3"),
        (bound(host_wishes=(wish(1, "h1", "h2", wanted=False),)), "h3"),
        # one that matters more outweighs two that matter less, whatever their order
        (bound(vm_wishes=(wish(1, "h2"), wish(2, "h3"), wish(1, "h2"))), "h3"),
        (bound(host_wishes=(wish(5, "h3"), wish(4, "h2"), wish(3, "h2"), wish(1, "h2"))), "h3"),
        (bound(host_wishes=(wish(1, "h2"), wish(1, "h2"), wish(1, "h3"))), "h2"),
    ],
)
def test_groups_say_where_a_vm_goes(need: Need, expected: str) -> None:
    assert chosen(fleet_of(host(1), host(2), host(3)), need) == expected


def test_hundreds_of_soft_rules_do_not_overflow() -> None:
    wishes = tuple(wish(priority, "h2") for priority in range(300))
    fleet = fleet_of(host(1), host(2), host(3))
    assert chosen(fleet, bound(vm_wishes=wishes)) == "h2"
    assert chosen(fleet, bound(vm_wishes=(*wishes, wish(1_000, "h3")))) == "h3"


def test_preferred_hosts_come_before_all_else_but_not_before_what_must_be() -> None:
    fleet = fleet_of(host(1), host(2, 50), host(3))
    fleet.take("h2", share(10, 5))
    prefers = Need(cluster="c", preferred=frozenset({"h2"}), memory_bytes=10 * MIB)
    assert chosen(fleet, prefers) == "h2"
    assert chosen(fleet, msgspec.structs.replace(prefers, memory_bytes=60 * MIB)) == "h1"


def test_highly_available_vms_are_spread_where_their_cluster_reserves_room() -> None:
    fleet = fleet_of(host(1), host(2))
    fleet.take("h1", Share(highly_available=True))
    level = Scheduling(policy=SchedulingPolicy.NONE)
    need = Need(cluster="c", scheduling=level, highly_available=True, ha_reservation=True)
    assert chosen(fleet, need) == "h2"
    assert chosen(fleet, msgspec.structs.replace(need, ha_reservation=False)) == "h1"
    assert chosen(fleet, msgspec.structs.replace(need, highly_available=False)) == "h1"


def test_cores_count_as_cpus_where_threads_do_not() -> None:
    topology = Hardware(topology=CpuTopology(sockets=1, cores=2, threads=2))
    fleet = fleet_of(able(1, cpus=4, hardware=topology), able(2, cpus=3))
    need = Need(cluster="c", processors=3)
    assert chosen(fleet, need) == "h1"
    cores = msgspec.structs.replace(need, threads_as_cores=False)
    assert chosen(fleet, cores) == "h2"
    assert fleet.choose(msgspec.structs.replace(cores, processors=4)).refusal == (
        "host-001: It has 2 CPUs, the VM wants 4. host-002: It has 3 CPUs, the VM wants 4."
    )


# ------------------------------------------------------------------------------------- everything
SETS = st.frozensets(st.sampled_from(["h0", "h1", "h2", "h3", "h99"]), max_size=3)
WISHES = st.lists(
    st.builds(
        Wish,
        group=st.just("soft"),
        priority=st.sampled_from([0.0, 1.0, 2.0]),
        hosts=SETS,
        wanted=st.booleans(),
    ),
    max_size=4,
).map(tuple)
HOST_BOUNDS = st.lists(st.builds(HostBound, group=st.just("g"), hosts=SETS), max_size=1).map(tuple)
BOUNDS = st.builds(
    Bounds,
    bound=HOST_BOUNDS,
    barred=HOST_BOUNDS,
    tie=st.none()
    | st.builds(
        Tie,
        groups=st.just(("one", "two")),
        hosts=st.dictionaries(st.sampled_from(["h0", "h1", "h99"]), st.just("web02"), min_size=1),
    ),
    apart=st.dictionaries(
        st.sampled_from(["h0", "h1", "h99"]), st.just(("web02", "g")), max_size=2
    ),
    vm_wishes=WISHES,
    host_wishes=WISHES,
)
TUNINGS = st.builds(
    Tuning,
    pins=st.sampled_from([(), (), (CpuPin(vcpu=0, cpus="0-1"),), (CpuPin(vcpu=0, cpus="2"),)]),
    numa_nodes=st.sampled_from(
        [(), (), bound_to("0", 20).numa_nodes, bound_to("0-1", 50).numa_nodes]
    ),
    high_performance=st.booleans(),
    cpu_policy=st.sampled_from([CpuPolicy.NONE, CpuPolicy.NONE, *CpuPolicy]),
)
NEEDS = st.builds(
    Need,
    cluster=st.just("c"),
    starts=st.booleans(),
    memory_bytes=st.integers(0, 45).map(lambda n: n * MIB),
    guaranteed_bytes=st.integers(0, 45).map(lambda n: n * MIB),
    ballooning=st.booleans(),
    processors=st.integers(0, 5),
    machine_type=st.sampled_from([None, "pc-q35-7.2", "other"]),
    cpu_model=st.sampled_from([None, "qemu64", "other"]),
    bridges=st.sampled_from([(), ("br0",), ("br0", "br1")]),
    storage_bytes=st.integers(0, 1),
    only_host=st.sampled_from([None, None, None, "h0", "h1", "h99"]),
    storage_id=st.sampled_from([None, None, "", "shared"]),
    leaves=st.sampled_from([None, "h0"]),
    moves=st.booleans(),
    tried=st.sampled_from([(), ("h1",), ("h2", "h99")]),
    busy=st.sampled_from([(), ("h0",), ("h1", "h99")]),
    shutting_down=st.sampled_from([(), (), ("h2", "h99")]),
    pinned=st.sampled_from([None, None, None, frozenset({"h0", "h2", "h99"})]),
    preferred=st.sampled_from([frozenset(), frozenset({"h1"}), frozenset({"h2", "h99"})]),
    bounds=st.none() | BOUNDS,
    memory_percent=st.sampled_from([100, 100, 150, 101]),
    threads_as_cores=st.booleans(),
    highly_available=st.booleans(),
    ha_reservation=st.booleans(),
    avoid=st.sampled_from([frozenset(), frozenset(), frozenset({"h1", "h99"})]),
    topology=st.builds(Topology, sockets=st.integers(1, 3), cores=st.integers(1, 3)),
    tuning=TUNINGS,
    special=st.sampled_from(
        [
            Special(),
            Special(pages={2 * MIB: 3}),
            Special(nodes={0: 20 * MIB}),
            Special(nodes={0: 20 * MIB, 1: 30 * MIB}),
        ]
    ),
    tsc_hz=st.sampled_from([0, 0, 2_000_000_000, 3_000_000_000]),
    scheduling=st.builds(
        Scheduling,
        selector=st.sampled_from(Selector),
        scale_down=st.integers(1, 20),
        policy=st.sampled_from(SchedulingPolicy),
        high_utilization_percent=st.integers(50, 99),
        cpu_over_commit_duration_minutes=st.sampled_from([1, 2, 3, 60]),
        vcpu_to_physical_cpu_ratio=st.sampled_from([0.0, 0.5, 1.0]),
        maximum_allowed_swap_usage_percent=st.sampled_from([0, 0, 8]),
        max_free_memory_for_over_utilized_bytes=st.sampled_from([None, 5 * MIB]),
        min_free_memory_for_under_utilized_bytes=st.sampled_from([None, 20 * MIB]),
        filters=st.none() | st.lists(st.sampled_from(FilterUnit), max_size=6).map(tuple),
        weights=st.none()
        | st.lists(
            st.builds(
                WeightFactor,
                unit=st.sampled_from(sorted({*WeightUnit} - {WeightUnit.ONE_NODE})),
                factor=st.integers(1, 9),
            ),
            max_size=4,
            unique_by=lambda each: each.unit,
        ).map(tuple),
    ),
)
SPECIALS = [
    NOTHING_SPECIAL,
    NOTHING_SPECIAL,
    Special(pages={2 * MIB: 4}),
    Special(nodes={0: 45 * MIB}, pages={2 * MIB: 1}),
    Special(dedicated={1: 1}),
    Special(dedicated={3: 1}, pinned={1: 1}),
]
HOSTS = st.tuples(
    st.integers(0, 40), st.integers(1, 4), st.booleans(), st.booleans(), st.sampled_from([0, 1])
)


LOADS = st.none() | st.builds(
    Load,
    minute=st.just(1),
    busy=st.integers(0, 4_000),
    sustained=st.lists(st.integers(0, 1_000), min_size=1, max_size=15).map(
        lambda found: tuple(sorted(found, reverse=True))
    ),
    processors_then=st.integers(0, 8),
    processors_now=st.just(0),
)
SWAPS = [swap_of(100, 50, 50 - n, 100) for n in (0, 1, 9)]
_THREADED = Hardware(topology=CpuTopology(sockets=1, cores=1, threads=4), cores="0-3")


@st.composite
def states(draw: st.DrawFn, number: int) -> HostState:
    memory, cpus, up, known, storage = draw(HOSTS)
    state = host(number, memory, cpus=cpus, up=up)
    assert state.capabilities is not None
    abilities = msgspec.structs.replace(
        state.capabilities,
        storage_free_bytes=storage,
        storage_id=draw(st.sampled_from(["", "shared"])),
        migration_address=draw(st.sampled_from(["", "192.0.2.1:54329"])),
        bridges=draw(st.sampled_from([(), ("br0",), ("br0", "br1")])),
        machine_types=draw(st.sampled_from([("pc-q35-7.2",), ("other",)])),
        swap=draw(st.sampled_from([None, None, *SWAPS])),
        hardware=draw(st.sampled_from([None, Hardware(), _THREADED, TWO_NODES, TWO_NODES])),
    )
    return msgspec.structs.replace(state, capabilities=abilities if known else None)


def naive(need: Need, candidates: list[Candidate]) -> str | None:
    """What the policies say, host by host."""
    fitting = [c for c in candidates if not objections(need, c)]
    scores = dict.fromkeys((c.host.id for c in fitting), 0)
    for each in weights_of(need.scheduling):
        weights = {c.host.id: weigh(each.weight.name, need, c, fitting) for c in fitting}
        for key, weight in weights.items():
            worse = sum(other > weight for other in weights.values())
            basic = need.scheduling.selector is Selector.BASIC_WEIGHTING
            scores[key] += each.factor * (-weight if basic else worse)
    order = sorted(fitting, key=lambda c: (-scores[c.host.id], c.host.name))
    return order[0].host.id if order else None


def weigh(name: str, need: Need, candidate: Candidate, fitting: list[Candidate]) -> int:
    scheduling = need.scheduling
    load = _load(need, candidate)
    free = _free(need, candidate)
    share_free = free * (1_000 / max(1.0, *(_free(need, c) for c in fitting)))
    match name:
        case "OptimalForCpuEvenDistribution":
            ratio = scheduling.vcpu_to_physical_cpu_ratio
            crowded = _reckoned(need, candidate, candidate.processors_expected)
            return 1_000 if 0 < ratio * 100 < crowded else int(min(load, 1_000))
        case "OptimalForMemoryEvenDistribution":
            return int(1_000 - share_free)
        case "OptimalForEvenGuestDistribution":
            return min(candidate.vms_expected, 1_000)
        case "OptimalForCpuPowerSaving":
            high = scheduling.high_utilization_percent
            return 1_000 if load > high * 10 else int(1_000 - min(load, 1_000))
        case "OptimalForMemoryPowerSaving":
            low = scheduling.max_free_memory_for_over_utilized_bytes
            most = scheduling.min_free_memory_for_under_utilized_bytes
            outside = (low is not None and free < low) or (most is not None and free > most)
            return 1_000 if outside else int(share_free)
    return weigh_of_all(name, need, candidate, fitting)


def weigh_of_all(name: str, need: Need, candidate: Candidate, fitting: list[Candidate]) -> int:
    """The weights that every policy has."""
    match name:
        case "PreferredHosts":
            return 1_000 if need.preferred and candidate.host.id not in need.preferred else 0
        case "OptimalForHaReservation":
            return _crowded(need, candidate, fitting)
        case "VmAffinityGroups":
            return _broken(need.bounds.vm_wishes if need.bounds else (), candidate)
        case "VmToHostsAffinityGroups":
            return _broken(need.bounds.host_wishes if need.bounds else (), candidate)
        case "CPU for high performance VMs":
            return 1_000 if need.tuning.high_performance and _smaller(need, candidate) else 0
        case "CPU and NUMA pinning compatibility":
            return 1_000 if _far(need, candidate) else 0
    raise AssertionError(name)


def _smaller(need: Need, candidate: Candidate) -> bool:
    assert candidate.host.capabilities is not None
    hardware = candidate.host.capabilities.hardware or Hardware()
    has, wants = hardware.topology, need.topology
    return has.sockets < wants.sockets or has.cores < wants.cores or has.threads < wants.threads


def _far(need: Need, candidate: Candidate) -> bool:
    assert candidate.host.capabilities is not None
    hardware = candidate.host.capabilities.hardware or Hardware()
    if not need.tuning.pins or not need.tuning.numa_nodes:
        return False
    (pin,), (node,) = need.tuning.pins, need.tuning.numa_nodes
    near: set[int] = set()
    for each in hardware.numa_nodes:
        if each.node in members(node.host_nodes):
            near |= members(each.cpus)
    return not members(pin.cpus) <= near


def _crowded(need: Need, candidate: Candidate, fitting: list[Candidate]) -> int:
    counts = [c.highly_available for c in fitting]
    if not (need.ha_reservation and need.highly_available) or min(counts) == max(counts):
        return 0
    share = (candidate.highly_available - min(counts)) * 100 / (max(counts) - min(counts))
    return math.ceil(share) // need.scheduling.scale_down


def _broken(wishes: tuple[Wish, ...], candidate: Candidate) -> int:
    """Broken rules of a lower priority count less, all together, than one of a higher."""
    total = 0
    for wish in wishes:
        broken = (candidate.host.id in wish.hosts) is not wish.wanted
        total += broken * 5 ** int(wish.priority)
    return total


def _load(need: Need, candidate: Candidate) -> float:
    load, taken = candidate.load, candidate.processors_taken
    if load is None:
        return _reckoned(need, candidate, candidate.processors_expected)
    assert candidate.host.capabilities is not None
    then, later = load.processors_then, candidate.processors_expected - taken
    busy = load.busy if taken >= then else load.busy * taken // then
    unseen = _reckoned(need, candidate, max(0, taken - then) + later)
    return unseen + busy / candidate.host.capabilities.cpus


def _reckoned(need: Need, candidate: Candidate, processors: int) -> float:
    assert candidate.host.capabilities is not None
    abilities = candidate.host.capabilities
    per_cpu = 1 / abilities.cpus
    if not need.threads_as_cores and abilities.hardware is not None:
        topology = abilities.hardware.topology
        per_cpu = 1 / (topology.sockets * topology.cores or abilities.cpus)
    return (processors + need.processors) * per_cpu * 100


def _free(need: Need, candidate: Candidate) -> float:
    assert candidate.host.capabilities is not None
    abilities = candidate.host.capabilities
    aside = 20 * MIB if abilities.hardware is TWO_NODES else 0  # 10 huge pages
    memory = (abilities.memory_bytes - aside) * need.memory_percent // 100 - HOST_RESERVE_BYTES
    return max(0.0, float(memory - candidate.memory_expected_bytes - need.memory_bytes))


@given(st.data(), st.integers(1, 12), NEEDS)
def test_columns_choose_as_a_look_at_each_host_does(
    data: st.DataObject, count: int, need: Need
) -> None:
    fleet = Fleet()
    now = {f"h{n}": Candidate(host=data.draw(states(n))) for n in range(count)}
    for candidate in now.values():
        fleet.put(candidate.host)
    steps = st.tuples(st.integers(0, count - 1), st.integers(0, 10), st.integers(0, 4))
    for number, memory, processors in data.draw(st.lists(steps, max_size=12)):
        runs, late = data.draw(st.booleans()), data.draw(st.booleans())
        if late:
            fleet.choose(need)
        before = now[f"h{number}"]
        available = data.draw(st.booleans())
        special = data.draw(st.sampled_from(SPECIALS))
        guaranteed = data.draw(st.integers(0, 20))
        taken = Share(
            memory_bytes=memory * MIB,
            guaranteed_bytes=guaranteed * MIB,
            processors=processors,
            highly_available=available,
            special=special,
        )
        load = data.draw(LOADS)
        if data.draw(st.booleans()):
            fleet.load(f"h{number}", load)
            fleet.take(f"h{number}", taken, runs=runs)
        else:
            fleet.take(f"h{number}", taken, runs=runs)
            fleet.load(f"h{number}", load)
        changed = Candidate(
            host=data.draw(states(number)) if late else before.host,
            memory_taken_bytes=before.memory_taken_bytes + runs * memory * MIB,
            guaranteed_taken_bytes=before.guaranteed_taken_bytes + runs * guaranteed * MIB,
            processors_taken=before.processors_taken + runs * processors,
            memory_expected_bytes=before.memory_expected_bytes + memory * MIB,
            processors_expected=before.processors_expected + processors,
            vms_expected=before.vms_expected + 1,
            highly_available=before.highly_available + available,
            special=added(before.special, special, 1) if runs else before.special,
            load=load,
        )
        fleet.put(changed.host)
        now[f"h{number}"] = changed
    candidates = sorted(now.values(), key=lambda candidate: candidate.host.name)
    choice = fleet.choose(need)
    assert (choice.host.id if choice.host else None) == naive(need, candidates)
    assessed = fleet.assess(need)
    assert {a.host: a.reasons for a in assessed} == {
        c.host.id: objections(need, c) for c in candidates
    }
    first = assessed[0]
    assert (first.host if first.rank == 1 else None) == naive(need, candidates)
    if choice.host is None:
        assert {v.host: v.reasons for v in choice.verdicts} == {a.host: a.reasons for a in assessed}


def test_what_vms_are_guaranteed_is_there_where_their_memory_is_over_committed() -> None:
    fleet = fleet_of(host(1, 1_000))
    need = Need(
        cluster="c",
        memory_percent=300,
        ballooning=True,
        memory_bytes=600 * MIB,
        guaranteed_bytes=400 * MIB,
    )
    taken = Share(memory_bytes=600 * MIB, guaranteed_bytes=400 * MIB)
    for _ in range(2):
        assert chosen(fleet, need) == "h1"
        fleet.take("h1", taken)
    assert fleet.choose(need).refusal == (
        "host-001: It has 200 MiB of memory that no VM is guaranteed, 400 are to be guaranteed."
    )
    # less is enough for another VM; without ballooning nobody gives anything back
    assert chosen(fleet, msgspec.structs.replace(need, guaranteed_bytes=200 * MIB)) == "h1"
    assert chosen(fleet, msgspec.structs.replace(need, ballooning=False)) == "h1"
    # what lies on a host, and does not run yet, is guaranteed nothing yet
    fleet.take("h1", taken, -1)
    fleet.take("h1", taken, runs=False)
    assert chosen(fleet, need) == "h1"


def test_hosts_that_do_not_tell_or_take_back_what_they_swapped_out_pass() -> None:
    for swap in (None, swap_of(2**30, 2**29, 2**29, 2**30), Swap(total_bytes=0)):
        assert chosen(fleet_of(able(1, swap=swap)), Need(cluster="c")) == "h1"
    swapping = able(1, swap=swap_of(2**30, 2**29, 2**28, 2**30))
    need = Need(cluster="c")
    assert chosen(fleet_of(swapping), need) is None
    # disks are still made there, and a policy may leave the filter out
    assert chosen(fleet_of(swapping), msgspec.structs.replace(need, starts=False)) == "h1"
    for scheduling in (
        Scheduling(filters=(FilterUnit.MEMORY,)),
        Scheduling(maximum_allowed_swap_usage_percent=25),
    ):
        without = msgspec.structs.replace(need, scheduling=scheduling)
        assert chosen(fleet_of(swapping), without) == "h1"


def test_figures_of_hosts_follow_what_vms_take_and_what_hosts_report() -> None:
    fleet = fleet_of(able(1, hardware=TWO_NODES), able(2, hardware=TWO_NODES))
    pages = Need(cluster="c", special=Special(pages={2 * MIB: 6}))
    node = Need(cluster="c", tuning=bound_to("1", 60), special=Special(nodes={1: 60 * MIB}))
    sockets = Need(cluster="c", tuning=Tuning(high_performance=True), topology=Topology(sockets=3))
    assert [chosen(fleet, need) for need in (pages, node, sockets)] == ["h1", "h1", "h1"]

    both = Special(pages={2 * MIB: 6}, nodes={1: 60 * MIB})
    fleet.take("h1", Share(special=both))
    assert [chosen(fleet, need) for need in (pages, node)] == ["h2", "h2"]
    fleet.take("h2", Share(special=both))
    assert [chosen(fleet, need) for need in (pages, node)] == [None, None]
    fleet.take("h1", Share(special=both), -1)
    assert [chosen(fleet, need) for need in (pages, node)] == ["h1", "h1"]

    larger = msgspec.structs.replace(
        TWO_NODES,
        topology=CpuTopology(sockets=3, cores=2, threads=1),
        huge_pages=(HugePages(size_bytes=2 * MIB, count=20),),
    )
    fleet.put(able(2, hardware=larger))
    assert chosen(fleet, sockets) == "h2"
    more = msgspec.structs.replace(pages, special=Special(pages={2 * MIB: 14}))
    assert chosen(fleet, more) == "h2"


def test_a_host_that_was_removed_is_not_chosen() -> None:
    fleet = fleet_of(host(1, 10))
    need = Need(cluster="c", memory_bytes=MIB)
    assert chosen(fleet, need) == "h1"
    fleet.put(host(1, 10, removed=True))
    assert fleet.choose(need).refusal == "The cluster has no host."


def test_a_host_that_moved_is_found_in_its_new_cluster_only() -> None:
    fleet = fleet_of(host(1))
    assert chosen(fleet, Need(cluster="c")) == "h1"
    fleet.put(host(1, cluster="other"))
    assert chosen(fleet, Need(cluster="c")) is None
    assert chosen(fleet, Need(cluster="other")) == "h1"


def test_no_process_loads_numpy_that_places_nothing() -> None:
    """Of ours; pyarrow, where it is used, looks for it too."""
    parts = ("agent", "engine", "notifier", "projector", "relay")
    imports = "".join(f"import chronovisor.parts.{part}\n" for part in parts)
    code = f"{imports}import chronovisor.cli.main, sys\nassert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_vm_starts_where_its_files_are_seen_though_their_holder_is_away() -> None:
    hosts = [
        able(1, storage_id="shared"),
        able(2, storage_id="another"),
        able(3, storage_id="shared"),
    ]
    need = Need(cluster="c", only_host="h1", only_host_why="Its disks lie on h1.", for_files=True)
    lonely = msgspec.structs.replace(hosts[0], session=None)

    assert chosen(fleet_of(lonely, *hosts[1:]), need) == "h3"
    assert chosen(fleet_of(lonely, hosts[1]), need) is None
    own = able(1, storage_id="")
    assert chosen(fleet_of(own, able(2, storage_id="")), need) == "h1"
    assert chosen(fleet_of(msgspec.structs.replace(own, session=None), able(2)), need) is None
