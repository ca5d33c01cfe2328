"""Balancing: which VMs a plan moves and why, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.scheduler.balance import over_used, plan
from commands.scheduler.draft import cpu_percent
from commands.scheduler.fleet import Fleet
from commands.scheduler.need import HOST_RESERVE_BYTES, need_to_move
from commands.scheduler.plans import Plan
from commands.state.affinity import ResolvedGroup
from commands.state.cluster import ClusterState
from commands.state.host import Duty, HostState
from commands.state.vm import Run, VmState, VmStatus
from commands.state.vm_hosts import HostChoice
from events.types.affinity import Member, Polarity, Rule
from events.types.balancing import Figures, Resources
from events.types.cluster import Scheduling, SchedulingPolicy
from events.types.host_hardware import CpuTopology, Hardware
from events.types.migration import MigrationMode, VmMigrationSettings
from events.types.run_spec import RunSpec, Topology, VmConfiguration
from tests.unit.policies.stage import CAPABILITIES
from tests.unit.policies.test_fleet import host

MIB = 1024**2
MUST = Rule(polarity=Polarity.POSITIVE, enforcing=True)
MUST_NOT = Rule(polarity=Polarity.NEGATIVE, enforcing=True)
SHOULD = Rule(polarity=Polarity.POSITIVE)
SHOULD_NOT = Rule(polarity=Polarity.NEGATIVE)


def machine(
    name: str, where: int | None, processors: int = 1, memory_mib: int = 10, **changes: Any
) -> VmState:
    """A VM without files that is up on a host."""
    configuration = VmConfiguration(
        memory_bytes=memory_mib * MIB, topology=Topology(sockets=processors)
    )
    spec = RunSpec(
        vm=name,
        name=name,
        incarnation=1,
        first_host="h1",
        configuration=configuration,
        architecture="x86_64",
        machine_type="pc-q35-7.2",
        cpu_model="qemu64",
    )
    at = f"h{where}"
    run = Run(host=at, host_name=at, incarnation=1, position=1, spec=spec, started=True)
    state = VmState(
        id=name,
        name=name,
        data_center="d",
        cluster="c",
        description="",
        delete_protected=False,
        configuration=configuration,
        status=VmStatus.UP if where is not None else VmStatus.DOWN,
        run=run if where is not None else None,
        may_run_on=(at,) if where is not None else (),
    )
    return msgspec.structs.replace(state, **changes)


def cluster(policy: SchedulingPolicy, **parameters: Any) -> ClusterState:
    return ClusterState(
        id="c",
        name="c",
        data_center="d",
        architecture="x86_64",
        cpu_model="qemu64",
        machine_type="pc-q35-7.2",
        scheduling=msgspec.structs.replace(Scheduling(policy=policy), **parameters),
    )


def group(
    name: str, vms: str, *, vm_rule: Rule | None = None, hosts: str = "", **more: Any
) -> ResolvedGroup:
    return ResolvedGroup(
        id=name,
        name=name,
        vm_rule=vm_rule or Rule(),
        host_rule=more.get("host_rule", Rule()),
        priority=more.get("priority", 1.0),
        vms=tuple(vms.split()),
        hosts=tuple(f"h{number}" for number in hosts),
        names={vm: vm for vm in vms.split()},
    )


class Little:
    """A little cluster of three hosts with 4 CPUs each, and what a plan makes of it."""

    def __init__(self, *vms: VmState, hosts: tuple[HostState, ...] = ()) -> None:
        self.vms = vms
        self.fleet = Fleet()
        for state in hosts or tuple(host(number, cpus=4) for number in (1, 2, 3)):
            self.fleet.put(state)
        for vm in vms:
            self.fleet.account(vm, 1)

    def plan(
        self,
        policy: SchedulingPolicy = SchedulingPolicy.NONE,
        *groups: ResolvedGroup,
        moves_max: int = 20,
        busy: frozenset[str] = frozenset(),
        **parameters: Any,
    ) -> Plan:
        self.fleet.group("c", groups)
        return plan(
            self.fleet, cluster(policy, **parameters), self.vms, busy=busy, moves_max=moves_max
        )


def moves(found: Plan) -> dict[str, tuple[str, str]]:
    return {move.vm: (move.source, move.destination) for move in found.moves}


def many(count: int, where: int, processors: int = 1) -> tuple[VmState, ...]:
    return tuple(machine(f"{where}-{n:02}", where, processors) for n in range(count))


EVENLY = SchedulingPolicy.EVENLY_DISTRIBUTED
SAVING = SchedulingPolicy.POWER_SAVING
LEVEL = SchedulingPolicy.VM_EVENLY_DISTRIBUTED


# ---------------------------------------------------------------------------------- load
def test_an_over_used_host_is_relieved_until_it_is_not() -> None:
    little = Little(*many(36, 1))  # 90 % of 4 CPUs: 32 virtual ones are 80 %
    found = little.plan(EVENLY)
    assert len(found.moves) == 4
    assert {move.source for move in found.moves} == {"h1"}
    assert {move.destination for move in found.moves} == {"h2", "h3"}
    assert found.moves[0].reason == (
        "Host host-001 is over-used: its VMs are reckoned to take 90 % of its CPUs, above 80 %."
    )
    first = found.hosts[0]
    free = 1_000 * MIB
    assert first.before == Figures(vms=36, cpu_percent=90, memory_free_bytes=free - 360 * MIB)
    assert first.after == Figures(vms=32, cpu_percent=80, memory_free_bytes=free - 320 * MIB)
    assert sum(figures.after.vms for figures in found.hosts) == 36


def test_the_smallest_vm_that_is_enough_goes() -> None:
    little = Little(*many(30, 1), machine("four", 1, 4), machine("six", 1, 6))
    assert moves(little.plan(EVENLY, high_utilization_percent=90)) == {"four": ("h1", "h2")}


def test_nothing_is_moved_under_none_nor_where_all_is_well() -> None:
    crowded = Little(*many(36, 1))
    assert crowded.plan().moves == ()
    assert crowded.plan(SchedulingPolicy.CLUSTER_MAINTENANCE).moves == ()
    assert Little(*many(32, 1)).plan(EVENLY) == Plan()


def test_no_host_is_made_over_used_by_what_it_takes_in() -> None:
    little = Little(*many(36, 1), *many(31, 2), *many(32, 3))
    assert moves(little.plan(EVENLY)) == {"1-00": ("h1", "h2")}


def test_memory_and_the_ratio_of_cpus_count_as_well() -> None:
    heavy = Little(machine("a", 1, 1, 700), machine("b", 1, 1, 100), machine("c", 2))
    low: dict[str, Any] = {"max_free_memory_for_over_utilized_bytes": 250 * MIB}
    found = heavy.plan(EVENLY, **low)
    assert moves(found) == {"b": ("h1", "h3")}
    assert "it has 200 MiB of memory free, below 250" in found.moves[0].reason
    dense = Little(*many(5, 1))
    found = dense.plan(EVENLY, vcpu_to_physical_cpu_ratio=1.0)
    assert len(found.moves) == 1
    assert "have 5 virtual CPUs, above 1 for each of its 4" in found.moves[0].reason


def test_a_host_that_lacks_memory_is_relieved_to_hosts_with_memory_to_spare_alone() -> None:
    """oVirt's MinFreeMemoryForUnderUtilized; each host has 1,000 MiB for VMs"""
    heavy = Little(
        machine("a", 1, 1, 700), machine("b", 1, 1, 100), machine("c", 2), machine("d", 3, 4, 400)
    )
    limits: dict[str, Any] = {"max_free_memory_for_over_utilized_bytes": 250 * MIB}

    def spare(free_mib: int) -> dict[str, tuple[str, str]]:
        above: dict[str, Any] = {"min_free_memory_for_under_utilized_bytes": free_mib * MIB}
        return moves(heavy.plan(EVENLY, **limits, **above))

    assert spare(989) == {"b": ("h1", "h2")}  # h2 has 990 MiB free, h3 has 600
    assert spare(990) == {}
    assert moves(heavy.plan(EVENLY, **limits)) == {"b": ("h1", "h2")}
    # with h2 left out by it, h3 takes the VM where its memory is enough
    fuller = Little(*heavy.vms, machine("e", 2, 1, 600))
    above: dict[str, Any] = {"min_free_memory_for_under_utilized_bytes": 500 * MIB}
    assert moves(fuller.plan(EVENLY, **limits, **above)) == {"b": ("h1", "h3")}
    without = moves(fuller.plan(EVENLY, **limits))
    assert without == {"b": ("h1", "h2")}, "fewer virtual CPUs count for more than memory"


def test_a_host_that_lacks_cpus_is_relieved_to_any() -> None:
    crowded = Little(*many(36, 1))
    above: dict[str, Any] = {"min_free_memory_for_under_utilized_bytes": 2_000 * MIB}
    assert len(crowded.plan(EVENLY, **above).moves) == 4
    limits = {"max_free_memory_for_over_utilized_bytes": 900 * MIB, **above}
    assert len(crowded.plan(EVENLY, **limits).moves) == 4, "then its memory alone is too little"


def test_cores_alone_count_where_the_cluster_says_so() -> None:
    topology = Hardware(topology=CpuTopology(sockets=1, cores=2, threads=2))
    threaded = tuple(
        host(
            n, cpus=4, capabilities=msgspec.structs.replace(CAPABILITIES, cpus=4, hardware=topology)
        )
        for n in (1, 2)
    )
    little = Little(*many(20, 1), hosts=threaded)
    assert little.plan(EVENLY).moves == ()  # 50 % of 4 threads
    rules = msgspec.structs.replace(cluster(EVENLY), resources=Resources(threads_as_cores=False))
    found = plan(little.fleet, rules, little.vms, moves_max=9)
    assert len(found.moves) == 4  # 100 % of 2 cores
    assert "take 100 % of its CPUs" in found.moves[0].reason


def test_a_plan_has_so_many_moves_at_most() -> None:
    assert len(Little(*many(40, 1)).plan(EVENLY, moves_max=3).moves) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"status": VmStatus.PAUSED},
        {"migrates": VmMigrationSettings(mode=MigrationMode.MANUAL)},
        {"host_choice": HostChoice(hosts=(Member(id="h1", name="h1"),), pinned=True)},
        {"stale_copies": (("h2", 1),)},
    ],
)
def test_what_may_not_be_moved_stays(change: dict[str, Any]) -> None:
    vms = tuple(msgspec.structs.replace(vm, **change) for vm in many(36, 1))
    assert Little(*vms).plan(EVENLY).moves == ()


def test_hosts_with_migrations_under_way_are_left_out() -> None:
    little = Little(*many(36, 1))
    assert little.plan(EVENLY, busy=frozenset({"h1"})).moves == ()
    found = little.plan(EVENLY, busy=frozenset({"h2"}))
    assert {move.destination for move in found.moves} == {"h3"}


# ---------------------------------------------------------------------------------- power
def test_an_under_used_host_is_emptied_where_all_its_vms_fit_elsewhere() -> None:
    little = Little(*many(2, 1), *many(10, 2))
    found = little.plan(SAVING)
    assert moves(found) == {"1-00": ("h1", "h2"), "1-01": ("h1", "h2")}
    assert found.moves[0].reason == (
        "Host host-001 is under-used (5 % of its CPUs, below 20 %), and can be emptied."
    )


def test_a_host_that_cannot_be_emptied_is_left_as_it_is() -> None:
    pinned = HostChoice(hosts=(Member(id="h1", name="h1"),), pinned=True)
    little = Little(machine("a", 1), machine("b", 1, host_choice=pinned), *many(10, 2))
    assert little.plan(SAVING).moves == ()
    full = Little(*many(3, 1), *many(31, 2), machine("x", 3))
    assert len(full.plan(SAVING).moves) == 1  # x goes; the three fit nowhere together


def test_power_saving_relieves_over_used_hosts_first() -> None:
    found = Little(*many(36, 1), *many(2, 2)).plan(SAVING)
    assert {move.destination for move in found.moves[:4]} == {"h2"}
    assert all("over-used" in move.reason for move in found.moves)


# --------------------------------------------------------------------------------- counts
def test_numbers_of_vms_are_levelled() -> None:
    found = Little(*many(12, 1), *many(2, 2), *many(9, 3)).plan(LEVEL)
    assert moves(found) == {
        "1-00": ("h1", "h2"),
        "1-01": ("h1", "h2"),
        "1-02": ("h1", "h2"),
    }
    assert found.moves[0].reason == "Host host-001 runs 12 VMs, 10 more than host host-002."


def test_few_vms_and_small_differences_are_let_be() -> None:
    assert Little(*many(9, 1)).plan(LEVEL).moves == ()
    assert Little(*many(9, 1)).plan(LEVEL, high_vm_count=9).moves != ()
    level = Little(*many(12, 1), *many(8, 2), *many(8, 3))
    assert level.plan(LEVEL).moves == ()
    assert len(level.plan(LEVEL, migration_threshold=3).moves) == 2  # down to 10, 9, 9


# ------------------------------------------------------------------------------- affinity
def test_enforcing_groups_are_kept_first_and_under_every_policy() -> None:
    little = Little(machine("a", 1), machine("b", 1), machine("c", 2), *many(36, 3))
    found = little.plan(
        EVENLY,
        group("apart", "a b", vm_rule=MUST_NOT),
        group("here", "c", hosts="1", host_rule=MUST),
        group("never", "c", hosts="2", host_rule=MUST_NOT),
    )
    assert [move.vm for move in found.moves[:2]] == ["c", "a"]
    assert [move.affinity for move in found.moves[:3]] == [True, True, False]
    assert found.moves[0].reason == "Affinity group here keeps it on other hosts than host-002."
    assert found.moves[1].reason == "Affinity group apart keeps it and VM b apart."
    assert moves(found)["c"] == ("h2", "h1")


def test_vms_that_belong_together_come_to_where_most_of_them_are() -> None:
    little = Little(machine("a", 1), machine("b", 2), machine("c", 2), machine("d", 3))
    found = little.plan(
        SchedulingPolicy.NONE,
        group("one", "a b", vm_rule=MUST),
        group("two", "b c", vm_rule=MUST),
    )
    assert moves(found) == {"a": ("h1", "h2")}


def test_a_pinned_vm_goes_back_to_its_hosts() -> None:
    pinned = HostChoice(hosts=(Member(id="h3", name="h3"),), pinned=True)
    found = Little(machine("a", 1, host_choice=pinned)).plan()
    assert moves(found) == {"a": ("h1", "h3")}
    assert "pinned" in found.moves[0].reason


def test_soft_groups_move_a_vm_only_to_where_it_is_better_off() -> None:
    little = Little(machine("a", 1), machine("b", 1), machine("c", 2), machine("d", 3))
    parted = little.plan(SchedulingPolicy.NONE, group("soft", "a b", vm_rule=SHOULD_NOT))
    assert len(parted.moves) == 1
    everywhere = little.plan(SchedulingPolicy.NONE, group("soft", "a b c d", vm_rule=SHOULD_NOT))
    assert everywhere.moves == ()  # there is no fourth host
    torn = (
        group("low", "a", hosts="2", host_rule=SHOULD, priority=1),
        group("high", "a", hosts="1", host_rule=SHOULD, priority=2),
    )
    assert little.plan(SchedulingPolicy.NONE, *torn).moves == ()
    assert moves(little.plan(SchedulingPolicy.NONE, torn[0])) == {"a": ("h1", "h2")}


# ------------------------------------------------------------------------------- all plans
VMS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 120), st.booleans()),
    max_size=24,
)
GROUPS = st.lists(
    st.builds(
        group,
        st.sampled_from(["g1", "g2", "g3"]),
        st.lists(st.integers(0, 9).map(str), max_size=4, unique=True).map(" ".join),
        vm_rule=st.sampled_from([MUST, MUST_NOT, SHOULD, SHOULD_NOT, Rule()]),
        hosts=st.sampled_from(["", "1", "12", "34"]),
        host_rule=st.sampled_from([MUST, MUST_NOT, SHOULD, SHOULD_NOT, Rule()]),
    ),
    max_size=3,
    unique_by=lambda one: one.id,
)


@settings(max_examples=150)
@given(VMS, GROUPS, st.sampled_from(SchedulingPolicy), st.integers(0, 8))
def test_every_plan_can_be_made_move_by_move(
    vms: list[tuple[int, int, int, bool]],
    groups: list[ResolvedGroup],
    policy: SchedulingPolicy,
    moves_max: int,
) -> None:
    """Each move is one that the scheduler allows when its turn comes, and none is made twice."""
    hosts = (
        *(host(n, cpus=n + 1) for n in (1, 2, 3)),
        host(4, cpus=8, duty=Duty.MAINTENANCE),
    )
    states = {
        str(n): machine(str(n), where, cpus, memory)
        if up
        else machine(str(n), where, cpus, memory, status=VmStatus.PAUSED)
        for n, (where, cpus, memory, up) in enumerate(vms)
    }
    little = Little(*states.values(), hosts=hosts)
    found = little.plan(
        policy, *groups, moves_max=moves_max, high_vm_count=3, migration_threshold=2
    )
    assert len(found.moves) <= moves_max
    assert len({move.vm for move in found.moves}) == len(found.moves)
    rules = cluster(policy, high_vm_count=3, migration_threshold=2)
    for move in found.moves:
        vm = states[move.vm]
        assert vm.status is VmStatus.UP
        source = next(state for state in hosts if state.id == move.source)
        need = msgspec.structs.replace(
            need_to_move(vm, rules, source), only_host=move.destination, only_host_why="x"
        )
        assert little.fleet.choose(need).host is not None
        assert vm.run is not None
        moved = msgspec.structs.replace(
            vm,
            run=msgspec.structs.replace(vm.run, host=move.destination),
            may_run_on=(move.destination,),
        )
        little.fleet.account(vm, -1)
        little.fleet.account(moved, 1)
    for figures in found.hosts:
        after = little.fleet.candidate(figures.host)
        assert after is not None
        assert figures.after.cpu_percent == cpu_percent(after, rules)
        relieved = {move.destination for move in found.moves if not move.affinity}
        if figures.host in relieved and not any(move.affinity for move in found.moves):
            assert not over_used(after, rules, figures.after.vms)


def test_capacity_is_what_the_tests_reckon_with() -> None:
    assert CAPABILITIES.cpus == 8
    assert HOST_RESERVE_BYTES == 256 * MIB
