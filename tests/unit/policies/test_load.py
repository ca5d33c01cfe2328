"""CPU load: measured where hosts are, and what is done about VMs that no reading shows yet."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.scheduler.balance import under_used
from commands.scheduler.draft import Draft, cpu_percent
from commands.scheduler.fleet import Fleet
from commands.scheduler.load import FRESH_MINUTES, READINGS_KEPT, Readings
from commands.scheduler.need import Need
from commands.scheduler.plans import Plan
from commands.state.vm import VmState
from events.types.balancing import Figures, HostFigures
from events.types.cluster import Scheduling, SchedulingPolicy
from events.types.host_hardware import CpuTopology, Hardware
from tests.unit.policies.test_balance import EVENLY, SAVING, Little, cluster, machine, many, moves
from tests.unit.policies.test_fleet import able, chosen, fleet_of, host, share

NOW = 1_000


def measured(fleet: Fleet, at: int = NOW, /, **percent: float | list[float | None]) -> None:
    """Take in what hosts were busy to, at a minute: one reading, or those of minutes before too."""
    found = {}
    for name, given_ in percent.items():
        every = given_ if isinstance(given_, list) else [given_]
        permille = tuple(None if one is None else round(10 * one) for one in every)
        found[name] = Readings(minute=at, permille=permille)
    fleet.measure(found, at)


def percent_of(fleet: Fleet, name: str, **resources: Any) -> int:
    candidate = fleet.candidate(name)
    assert candidate is not None
    state = cluster(SchedulingPolicy.NONE)
    settled = msgspec.structs.replace(state.resources, **resources)
    return cpu_percent(candidate, msgspec.structs.replace(state, resources=settled))


# --------------------------------------------------------------------------------------- reckoning
def test_where_nothing_is_measured_virtual_cpus_are_reckoned() -> None:
    fleet = fleet_of(host(1, cpus=4))
    fleet.take("h1", share(0, 6))
    assert percent_of(fleet, "h1") == 15
    measured(fleet, h1=70)
    assert percent_of(fleet, "h1") == 70


def test_what_came_since_is_reckoned_and_what_left_takes_its_part() -> None:
    fleet = fleet_of(host(1, cpus=4))
    fleet.take("h1", share(0, 8))
    measured(fleet, h1=40)
    fleet.take("h1", share(0, 2))
    assert percent_of(fleet, "h1") == 45
    fleet.take("h1", share(0, 2), -1)
    assert percent_of(fleet, "h1") == 40
    fleet.take("h1", share(0, 6), -1)
    assert percent_of(fleet, "h1") == 10  # of 8 as busy as each other two are left
    fleet.take("h1", share(0, 2), -1)
    assert percent_of(fleet, "h1") == 0


def test_a_vm_counts_as_not_measured_until_a_reading_of_a_whole_minute_shows_it() -> None:
    fleet = fleet_of(host(1, cpus=4))
    measured(fleet, NOW, h1=10)
    fleet.take("h1", share(0, 4))
    assert percent_of(fleet, "h1") == 20
    measured(fleet, NOW + 1, h1=10)  # it started in the middle of this minute, if at all
    assert percent_of(fleet, "h1") == 20
    measured(fleet, NOW + 2, h1=10)
    assert percent_of(fleet, "h1") == 10


def test_the_same_reading_again_changes_nothing() -> None:
    fleet = fleet_of(host(1, cpus=4))
    measured(fleet, h1=10)
    fleet.take("h1", share(0, 4))
    for _ in range(3):
        measured(fleet, h1=10)
    assert percent_of(fleet, "h1") == 20


def test_old_readings_count_no_more_and_a_clock_may_differ_a_little() -> None:
    fleet = fleet_of(host(1, cpus=4))
    found = {"h1": Readings(minute=NOW, permille=(900,))}
    for minute, percent in (
        (NOW + FRESH_MINUTES, 90),
        (NOW + FRESH_MINUTES + 1, 0),
        (NOW - 1, 90),
        (NOW - 2, 0),
    ):
        fleet.measure(found, minute)
        assert percent_of(fleet, "h1") == percent
    fleet.measure(found, NOW)
    fleet.measure({}, NOW)  # the host is not in the table any more
    assert percent_of(fleet, "h1") == 0


def test_a_load_outlives_what_becomes_of_its_host_and_of_its_cluster() -> None:
    fleet = fleet_of(host(1, cpus=4))
    measured(fleet, h1=50)
    fleet.candidates("c")
    fleet.put(host(1, cpus=4, up=False))
    fleet.put(host(2))  # the columns are made anew
    fleet.put(host(1, cpus=4))
    fleet.take("h1", share(0, 4))
    assert percent_of(fleet, "h1") == 60
    assert fleet.draft("c").candidate("h1") == fleet.candidate("h1")
    weights = {a.host: a.weights["OptimalForCpuEvenDistribution"] for a in fleet.assess(NEED)}
    assert weights == {"h1": 600 + 25, "h2": 12}


def test_a_host_that_told_nothing_of_itself_has_no_load() -> None:
    fleet = fleet_of(host(1, capabilities=None))
    measured(fleet, h1=50)
    assert percent_of(fleet, "h1") == 0
    fleet.put(host(1))
    measured(fleet, h1=50)
    assert percent_of(fleet, "h1") == 50


def test_where_threads_do_not_count_only_what_is_reckoned_changes() -> None:
    hardware = Hardware(topology=CpuTopology(sockets=1, cores=4, threads=2))
    fleet = fleet_of(able(1, cpus=8, hardware=hardware))
    measured(fleet, h1=50)
    fleet.take("h1", share(0, 4))
    assert percent_of(fleet, "h1") == 55
    assert percent_of(fleet, "h1", threads_as_cores=False) == 60


# ------------------------------------------------------------------------------------------ weights
NEED = Need(cluster="c", processors=1)


def test_the_host_that_is_measured_idle_is_chosen_whatever_its_vms_are_reckoned_to_take() -> None:
    fleet = fleet_of(host(1, cpus=4), host(2, cpus=4))
    fleet.take("h1", share(0, 2))
    fleet.take("h2", share(0, 20))
    assert chosen(fleet, NEED) == "h1"
    measured(fleet, h1=75, h2=5)
    assert chosen(fleet, NEED) == "h2"
    saving = msgspec.structs.replace(NEED, scheduling=Scheduling(policy=SAVING))
    assert chosen(fleet, saving) == "h1"
    measured(fleet, NOW + 1, h1=79, h2=5)  # 79 % and the VM's 2.5 % are above the 80 %
    assert chosen(fleet, saving) == "h2"


def test_a_burst_of_starts_does_not_all_go_to_the_host_that_was_idle() -> None:
    fleet = fleet_of(*(host(n, cpus=4) for n in (1, 2, 3)))
    measured(fleet, h1=20, h2=10, h3=30)
    went = []
    for _ in range(24):
        found = chosen(fleet, NEED)
        assert found is not None
        went.append(found)
        fleet.take(found, share(0, 1))
    assert went[:4] == ["h2"] * 4
    assert {name: went.count(name) for name in ("h1", "h2", "h3")} == {"h1": 8, "h2": 12, "h3": 4}


def test_the_ratio_of_virtual_cpus_is_about_virtual_cpus() -> None:
    fleet = fleet_of(host(1, cpus=4), host(2, cpus=4))
    fleet.take("h1", share(0, 8))
    measured(fleet, h1=1, h2=70)
    ratio = Scheduling(policy=EVENLY, vcpu_to_physical_cpu_ratio=2.0)
    assert chosen(fleet, NEED) == "h1"
    assert chosen(fleet, msgspec.structs.replace(NEED, scheduling=ratio)) == "h2"


# ------------------------------------------------------------------------------------ CPUOverloaded
def over(minutes: int, percent: int = 80) -> Need:
    rules = Scheduling(high_utilization_percent=percent, cpu_over_commit_duration_minutes=minutes)
    return msgspec.structs.replace(NEED, scheduling=rules)


@pytest.mark.parametrize(
    ("readings", "minutes", "barred"),
    [
        ([91, 85], 2, True),
        ([81], 1, True),
        ([80], 1, False),
        ([80.1], 1, True),
        ([91, 79], 2, False),  # a short peak
        ([79, 91, 91], 2, False),  # it is over
        ([91], 2, False),  # nothing is known of the minute before
        ([91, None, 91], 2, False),
        ([91, 91, None, 91], 2, True),
        ([91] * READINGS_KEPT, 1_440, True),  # as far back as anything is known
        ([91] * (READINGS_KEPT - 1), 1_440, False),
    ],
)
def test_a_host_is_left_out_once_all_readings_of_some_minutes_are_too_high(
    readings: list[float | None], minutes: int, *, barred: bool
) -> None:
    fleet = fleet_of(host(1))
    measured(fleet, h1=readings)
    for _ in range(2):  # with the column of that duration made, and ready
        assert chosen(fleet, over(minutes)) == (None if barred else "h1")
    refused = fleet.assess(over(minutes))[0].reasons
    assert bool(refused) is barred


def test_it_says_for_how_long_and_how_busy_it_is() -> None:
    fleet = fleet_of(host(1))
    measured(fleet, h1=[91.9, 85])
    assert fleet.choose(over(2)).refusal == (
        "host-001: Its CPUs were busy to more than 80 % for 2 minutes (91 % in the last one);"
        " it gets no more VMs."
    )
    assert fleet.choose(over(1, 90)).refusal == (
        "host-001: Its CPUs were busy to more than 90 % for a minute (91 % in the last one);"
        " it gets no more VMs."
    )


def test_what_is_reckoned_bars_a_host_only_where_nothing_is_measured() -> None:
    fleet = fleet_of(host(1, cpus=1))
    fleet.take("h1", share(0, 9))
    assert "reckoned to take 90 %" in fleet.choose(over(2)).refusal
    measured(fleet, h1=[5, 5])
    assert chosen(fleet, over(2)) == "h1"
    fleet.measure({}, NOW + 10)
    assert "reckoned to take 90 %" in fleet.choose(over(2)).refusal
    measured(fleet, NOW + 20, h1=[95, 95])
    assert "busy to more than 80 % for 2 minutes" in fleet.choose(over(2)).refusal
    disks = msgspec.structs.replace(over(2), starts=False)
    assert chosen(fleet, disks) == "h1"


# ---------------------------------------------------------------------------------------- balancing
def test_a_host_that_is_measured_busy_is_relieved_to_one_that_is_not() -> None:
    little = Little(*many(8, 1), *many(8, 2), *many(8, 3))  # 20 % each, by reckoning
    assert little.plan(EVENLY) == Plan()
    measured(little.fleet, h1=100, h2=75, h3=20)
    found = little.plan(EVENLY)
    assert {(move.source, move.destination) for move in found.moves} == {("h1", "h3")}
    assert len(found.moves) == 2  # each takes an eighth of 100 % with it
    assert found.moves[0].reason == (
        "Host host-001 is over-used: its CPUs are busy to 100 %, above 80 %."
    )
    first, second = found.hosts
    assert (first.before.cpu_percent, first.after.cpu_percent) == (100, 75)
    assert (second.before.cpu_percent, second.after.cpu_percent) == (20, 45)
    assert first.before.measured
    assert little.fleet.candidate("h1") is not None
    assert percent_of(little.fleet, "h1") == 100  # nothing of it was done


def test_no_host_is_made_over_used_by_what_a_busy_vm_really_takes() -> None:
    little = Little(*many(4, 1), *many(4, 2), *many(4, 3))
    measured(little.fleet, h1=100, h2=60, h3=60)  # a VM of h1 brings 25 %
    assert little.plan(EVENLY) == Plan()
    measured(little.fleet, NOW + 1, h1=100, h2=60, h3=50)
    assert moves(little.plan(EVENLY)) == {"1-00": ("h1", "h3")}


def test_the_smallest_vm_that_is_enough_by_what_is_measured_goes() -> None:
    vms = (machine("one", 1), machine("two", 1, 2), machine("five", 1, 5))
    little = Little(*vms)
    measured(little.fleet, h1=96, h2=1, h3=1)  # 12 % for each virtual CPU
    assert moves(little.plan(EVENLY)) == {"two": ("h1", "h2")}
    assert moves(little.plan(EVENLY, high_utilization_percent=85)) == {"one": ("h1", "h2")}


def test_a_plan_that_was_carried_out_leaves_nothing_to_do_nor_to_undo() -> None:
    """given readings that follow what is done, then VMs do not go to and fro"""
    vms = {vm.id: vm for vm in (*many(8, 1), *many(8, 2), *many(8, 3))}
    little = Little(*vms.values())
    measured(little.fleet, h1=100, h2=10, h3=10)
    done = little.plan(EVENLY)
    assert done.moves
    for move in done.moves:
        before = vms[move.vm]
        after = _moved(before, move.destination)
        little.fleet.account(before, -1)
        little.fleet.account(after, 1)
        vms[move.vm] = after
    little.vms = tuple(vms.values())
    assert little.plan(EVENLY) == Plan()  # before anything is measured again
    percent: dict[str, list[float | None]] = {}
    for name, first in (("h1", 100.0), ("h2", 10.0), ("h3", 10.0)):
        came = sum(move.destination == name for move in done.moves)
        left = sum(move.source == name for move in done.moves)
        percent[name] = [first + 12.5 * (came - left)]
    for minute in range(1, 5):
        measured(little.fleet, NOW + minute, **percent)
        assert little.plan(EVENLY) == Plan()


def _moved(vm: VmState, destination: str) -> VmState:
    assert vm.run is not None
    run = msgspec.structs.replace(vm.run, host=destination)
    return msgspec.structs.replace(vm, run=run, may_run_on=(destination,))


def test_a_host_whose_vms_are_idle_is_emptied_to_save_power() -> None:
    little = Little(*many(12, 1), *many(12, 2), hosts=(host(1, cpus=4), host(2, cpus=4)))
    assert little.plan(SAVING) == Plan()  # 30 % each, by reckoning
    measured(little.fleet, h1=3, h2=40)
    found = little.plan(SAVING)
    assert len(found.moves) == 12
    assert {(move.source, move.destination) for move in found.moves} == {("h1", "h2")}
    busy = Little(machine("a", 1), machine("b", 2), hosts=(host(1, cpus=4), host(2, cpus=4)))
    assert busy.plan(SAVING).moves
    measured(busy.fleet, h1=60, h2=50)
    candidate = busy.fleet.candidate("h1")
    assert candidate is not None
    assert not under_used(candidate, cluster(SAVING), 1)
    assert busy.plan(SAVING) == Plan()


LOADS = st.one_of(st.none(), st.floats(0, 100))


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=12),
    st.tuples(LOADS, LOADS, LOADS),
    st.lists(st.tuples(st.integers(0, 11), st.integers(1, 3)), max_size=8),
)
def test_moves_that_are_taken_back_leave_nothing_behind(
    places: list[tuple[int, int]],
    loads: tuple[float | None, float | None, float | None],
    tried: list[tuple[int, int]],
) -> None:
    vms = [machine(str(n), where, count) for n, (where, count) in enumerate(places)]
    little = Little(*vms, hosts=tuple(host(n, cpus=n + 1) for n in (1, 2, 3)))
    percent = {f"h{n}": load for n, load in enumerate(loads, 1) if load is not None}
    measured(little.fleet, **percent)
    for vm in vms[::3]:  # some left since
        little.fleet.account(vm, -1)
    kept = [vm for vm in vms if vm not in vms[::3]]
    draft = Draft(little.fleet, cluster(EVENLY), kept, busy=frozenset(), moves_max=20)
    before = draft.fleet.candidates("c")
    for which, where in tried:
        for source in ("h1", "h2", "h3"):
            found = draft.movable[source].get(str(which))
            if found is not None and source != f"h{where}":
                draft.move(found, source, f"h{where}", "tried")
    after = draft.fleet.candidates("c")
    if percent.keys() == {"h1", "h2", "h3"}:  # what one loses, others get
        assert _busy(after) == _busy(before)
    draft.take_back(0)
    assert draft.fleet.candidates("c") == before


def _busy(candidates: list[Any]) -> int:
    total = 0
    for each in candidates:
        then, taken = each.load.processors_then, each.processors_taken
        total += each.load.busy * taken // then if taken < then else each.load.busy
        total += 100 * max(0, taken - then)
    return total


def test_figures_that_were_stored_before_loads_were_measured_are_read() -> None:
    old = b'{"host":"h","host_name":"h","before":{"vms":1,"cpu_percent":2,"memory_free_bytes":3},'
    old += b'"after":{"vms":1,"cpu_percent":2,"memory_free_bytes":3}}'
    found = msgspec.json.decode(old, type=HostFigures)
    assert found.after == Figures(vms=1, cpu_percent=2, memory_free_bytes=3, measured=False)
