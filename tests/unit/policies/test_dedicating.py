"""CPUs that are a VM's alone: which it gets, that nobody else does, and where it has others."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.host.maintenance import MaintainHost
from commands.kernel.refusal import InvalidField
from commands.scheduler.dedicating import dedicated, room, wanted_cores
from commands.scheduler.draft import Draft
from commands.scheduler.fleet import Fleet, Share, share_at, share_of
from commands.scheduler.layout import NOTHING_SPECIAL, UNKNOWN_CPU, Special
from commands.scheduler.need import Need
from commands.state.hardware import Processors
from commands.state.host import HOST, HostStatus
from commands.state.tuning_input import PinInput, TuningInput
from commands.state.vm import VM
from commands.vm.create import CreateVm
from commands.vm.migrate import MigrateVm
from commands.vm.resume import ResumeVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from commands.vm.suspend import SuspendVm
from commands.vm.tune import TuneVm
from events.types.host import Capabilities, HostCapabilitiesReported
from events.types.host_hardware import CpuTopology, Hardware, NumaNode
from events.types.job import JobKind
from events.types.operation import Outcome
from events.types.run_spec import Topology
from events.types.vm_tuning import CpuPin, CpuPolicy, Dedicated, Tuning, members
from tests.unit.commands.samples import VM_ID
from tests.unit.commands.samples import vm as vm_story
from tests.unit.policies.puppet import play_on
from tests.unit.policies.stage import CAPABILITIES, GIB, Stage
from tests.unit.policies.test_fleet import host as a_host

OWN = Tuning(cpu_policy=CpuPolicy.DEDICATED)
ALONE = Tuning(cpu_policy=CpuPolicy.ISOLATE_THREADS)
SERVER = Hardware(
    topology=CpuTopology(sockets=1, cores=4, threads=2),
    cores="0,4 1,5 2,6 3,7",
    numa_nodes=(NumaNode(node=0, cpus="0-7", memory_bytes=16 * GIB),),
)
"""Cores with the CPUs 0 and 4, 1 and 5, 2 and 6, 3 and 7."""
ABLE = msgspec.structs.replace(CAPABILITIES, hardware=SERVER)


def taken(*cpus: int) -> Special:
    return Special(dedicated=dict.fromkeys(cpus, 1))


def given_to(
    tuning: Tuning,
    topology: Topology,
    special: Special = NOTHING_SPECIAL,
    able: Capabilities = ABLE,
) -> str | None:
    found = dedicated(able, special, tuning, topology)
    if found is None:
        return None
    return " ".join(pin.cpus for pin in found.pins) + f" of {found.cpus}"


# ------------------------------------------------------------------------------ which CPUs they are
@pytest.mark.parametrize(
    ("tuning", "topology", "special", "expected"),
    [
        (OWN, Topology(cores=2), NOTHING_SPECIAL, "1 5 of 1,5"),
        (OWN, Topology(cores=2, threads=2), NOTHING_SPECIAL, "1 5 2 6 of 1-2,5-6"),
        # cores that are in use already come first, so that others stay whole
        (OWN, Topology(cores=1), taken(2), "6 of 6"),
        (OWN, Topology(cores=1, threads=2), taken(1), "2 6 of 2,6"),
        # whoever is pinned stays where it is
        (OWN, Topology(cores=1, threads=2), Special(pinned={5: 1, 2: 3}), "3 7 of 3,7"),
        (OWN, Topology(cores=6), NOTHING_SPECIAL, "1 5 2 6 3 7 of 1-3,5-7"),
        (OWN, Topology(cores=7), NOTHING_SPECIAL, None),
        (OWN, Topology(cores=1, threads=2), taken(1, 2, 3), None),
        (OWN, Topology(cores=3), taken(1, 2, 3), "5 6 7 of 5-7"),
        (ALONE, Topology(cores=2), NOTHING_SPECIAL, "1 2 of 1-2,5-6"),
        (ALONE, Topology(threads=2), taken(1), "2 3 of 2-3,6-7"),
        (ALONE, Topology(cores=4), NOTHING_SPECIAL, None),
        (OWN, Topology(), taken(UNKNOWN_CPU), None),
    ],
)
def test_a_vm_gets_cpus(
    tuning: Tuning, topology: Topology, special: Special, expected: str | None
) -> None:
    assert given_to(tuning, topology, special) == expected


def test_cpus_are_of_one_node_where_one_has_enough() -> None:
    nodes = tuple(NumaNode(node=n, cpus=c, memory_bytes=GIB) for n, c in enumerate(("0-3", "4-7")))
    hardware = Hardware(cores="0 1 2 3 4 5 6 7", numa_nodes=nodes)
    able = msgspec.structs.replace(CAPABILITIES, hardware=hardware)
    # of the one that has the least, but enough
    assert given_to(OWN, Topology(cores=3), able=able) == "1 2 3 of 1-3"
    assert given_to(OWN, Topology(cores=4), able=able) == "4 5 6 7 of 4-7"
    assert given_to(OWN, Topology(cores=2), taken(4, 5), able) == "6 7 of 6-7"
    # else of both, the one with more first
    assert given_to(OWN, Topology(cores=5), able=able) == "4 5 6 7 1 of 1,4-7"


def test_a_host_that_does_not_tell_of_its_cores_gives_none() -> None:
    for hardware in (None, Hardware(topology=CpuTopology(sockets=1, cores=8, threads=1))):
        able = msgspec.structs.replace(CAPABILITIES, hardware=hardware)
        assert given_to(OWN, Topology(), able=able) is None


LAYOUTS = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@given(
    LAYOUTS,
    st.frozensets(st.integers(0, 23)),
    st.frozensets(st.integers(0, 23), max_size=3),
    st.sampled_from([OWN, ALONE]),
    st.builds(
        Topology, sockets=st.integers(1, 2), cores=st.integers(1, 3), threads=st.integers(1, 3)
    ),
    st.integers(0, 6),
)
def test_whatever_is_given_was_free_and_lies_as_the_vm_wants_it(
    layout: list[int],
    used: frozenset[int],
    pinned: frozenset[int],
    tuning: Tuning,
    topology: Topology,
    split: int,
) -> None:
    numbers = iter(range(24))
    cores = [{next(numbers) for _ in range(size)} for size in layout]
    cpus = sorted(cpu for core in cores for cpu in core)
    halves = [{c for core in part for c in core} for part in (cores[:split], cores[split:])]
    hardware = Hardware(
        cores=" ".join(",".join(map(str, sorted(core))) for core in cores),
        numa_nodes=tuple(
            NumaNode(node=n, cpus=",".join(map(str, sorted(half))), memory_bytes=1)
            for n, half in enumerate(halves)
            if half
        ),
    )
    able = msgspec.structs.replace(CAPABILITIES, cpus=len(cpus), hardware=hardware)
    special = Special(dedicated=dict.fromkeys(used, 1), pinned=dict.fromkeys(pinned, 1))
    count, threads = wanted_cores(tuning, topology)
    found = dedicated(able, special, tuning, topology)
    assert (found is not None) is (room(able, special, threads) >= count)
    if found is None:
        return
    own = members(found.cpus)
    assert own <= set(cpus) - cores[0] - used - pinned
    chosen = [int(pin.cpus) for pin in found.pins]
    assert [pin.vcpu for pin in found.pins] == list(range(topology.count))
    assert len(set(chosen)) == topology.count
    assert set(chosen) <= own
    if tuning is ALONE:
        assert own == set().union(*(core for core in cores if core & set(chosen)))
        assert sum(bool(core & set(chosen)) for core in cores) == topology.count
        return
    assert own == set(chosen)
    for first in range(0, topology.count, threads):
        of_one = set(chosen[first : first + threads])
        assert any(of_one <= core for core in cores)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.integers(1, 2)), max_size=12))
def test_no_cpu_is_given_twice(wishes: list[tuple[bool, int, int]]) -> None:
    fleet, given_out = Fleet(), set[tuple[str, int]]()
    for number in range(2):
        fleet.put(a_host(number, capabilities=ABLE))
    for whole, cores, threads in wishes:
        need = Need(
            cluster="c",
            tuning=ALONE if whole else OWN,
            topology=Topology(cores=cores, threads=threads),
        )
        choice = fleet.choose(need)
        if choice.host is None:
            assert all(verdict.reasons for verdict in choice.verdicts)
            continue
        assert choice.dedicated is not None
        own = {(choice.host.id, cpu) for cpu in members(choice.dedicated.cpus)}
        assert not own & given_out
        given_out |= own
        special = Special(dedicated=dict.fromkeys(members(choice.dedicated.cpus), 1))
        fleet.take(choice.host.id, Share(special=special))


# ------------------------------------------------------------------------------- from the outside
@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    for host in await stage.open(hosts=2):
        await stage.append(HOST.stream(host), HostCapabilitiesReported(capabilities=ABLE))
    return stage


async def new_vm(
    stage: Stage,
    name: str,
    cores: int = 2,
    *,
    policy: CpuPolicy = CpuPolicy.NONE,
    pin: str | None = None,
) -> str:
    pins = () if pin is None else tuple(PinInput(vcpu=n, cpus=pin) for n in range(cores))
    return await stage.do(
        CreateVm(
            name=name,
            cluster=stage.cluster,
            memory_bytes=GIB,
            cpu=Processors(cores=cores),
            tuning=TuningInput(cpu_policy=policy, cpu_pins=pins),
        )
    )


async def started(stage: Stage, vm: str) -> tuple[str, str]:
    """Start a VM, and return its host and the CPUs that are its own; why not, where it failed."""
    await stage.do(StartVm(id=vm))
    await play_on(stage)
    operation = await stage.op()
    if operation.outcome is Outcome.FAILED:
        return "", operation.reason
    return await where(stage, vm)


async def where(stage: Stage, vm: str) -> tuple[str, str]:
    run = (await stage.vm(vm)).run
    assert run is not None
    return run.host, run.spec.dedicated.cpus if run.spec.dedicated is not None else ""


async def test_vms_that_start_at_the_same_moment_get_different_cpus(stage: Stage) -> None:
    vms = [await new_vm(stage, f"db{n}", policy=CpuPolicy.DEDICATED) for n in range(6)]
    for vm in vms:
        await stage.do(StartVm(id=vm))
    await play_on(stage)
    places = [await where(stage, vm) for vm in vms]
    assert len({host for host, _cpus in places}) == 2
    for home in {host for host, _cpus in places}:
        sets = [members(cpus) for host, cpus in places if host == home]
        assert [len(each) for each in sets] == [2, 2, 2]
        assert set().union(*sets) == {1, 2, 3, 5, 6, 7}

    one_more = await new_vm(stage, "one-more", policy=CpuPolicy.DEDICATED)
    _none, why = await started(stage, one_more)
    assert why.startswith("No host can run it. host1: 0 of the VM's 2 cores would have CPUs of")
    # what a run took is free once it is over
    await stage.do(StopVm(id=vms[0]))
    await play_on(stage)
    assert await started(stage, one_more) == places[0]


async def test_a_vm_that_moves_has_other_cpus_there_and_none_where_it_was(stage: Stage) -> None:
    vm = await new_vm(stage, "db01", policy=CpuPolicy.DEDICATED)
    home, first = await started(stage, vm)
    other = await new_vm(stage, "other", 1, policy=CpuPolicy.DEDICATED)
    away, others = await started(stage, other)
    assert (home != away, first, others) == (True, "1,5", "1")

    await stage.do(MigrateVm(id=vm))
    await stage.settle()
    # while it moves it has CPUs on both hosts
    migration = (await stage.vm(vm)).migration
    assert migration is not None
    assert migration.dedicated is not None
    assert migration.dedicated.cpus == "2,5"
    for host, expected in ((home, "1,5"), (away, "2,5")):
        (item,) = [item for item in (await stage.intent(host)).vms if item.vm == vm]
        assert item.spec is not None
        assert item.spec.dedicated is not None
        assert item.spec.dedicated.cpus == expected
    (job,) = (await stage.vm(vm)).jobs
    assert job.job.sending is not None
    assert job.job.sending.dedicated == migration.dedicated
    # what it has on either host, nobody else gets
    fleet = Fleet()
    for host in (home, away):
        fleet.put(await stage.host(host))
    for each in (vm, other):
        fleet.account(await stage.vm(each), 1)
    large = Need(cluster=stage.cluster, tuning=OWN, topology=Topology(cores=6))
    why = fleet.choose(large).refusal
    assert "host1: 4 of the VM's 6 cores would have CPUs of their own" in why
    assert "host2: 3 of the VM's 6 cores would have CPUs of their own" in why

    await play_on(stage)
    assert await where(stage, vm) == (away, "2,5")
    all_of_a_host = await new_vm(stage, "large", 6, policy=CpuPolicy.DEDICATED)
    assert await started(stage, all_of_a_host) == (home, "1-3,5-7")


async def test_a_move_that_fails_gives_back_what_was_to_be_the_vms(stage: Stage) -> None:
    vm = await new_vm(stage, "db01", policy=CpuPolicy.DEDICATED)
    home, first = await started(stage, vm)
    await stage.do(MigrateVm(id=vm))
    await play_on(stage, failing={JobKind.VM_MIGRATE})
    assert await where(stage, vm) == (home, first)
    all_of_a_host = await new_vm(stage, "large", 6, policy=CpuPolicy.DEDICATED)
    assert (await started(stage, all_of_a_host))[1] == "1-3,5-7"


async def test_whoever_is_pinned_and_whoever_has_cpus_of_its_own_keep_apart(stage: Stage) -> None:
    hosts = await stage.hosts()
    await stage.do(MaintainHost(id=hosts[1]))
    await play_on(stage)
    pinned = await new_vm(stage, "pinned", 1, pin="1+5")
    assert (await started(stage, pinned))[0] == hosts[0]
    own = await new_vm(stage, "own", 4, policy=CpuPolicy.DEDICATED)
    assert await started(stage, own) == (hosts[0], "2-3,6-7")
    late = await new_vm(stage, "late", 1, pin="3+5")
    why = (await started(stage, late))[1]
    assert "CPU 3, which the VM is pinned to, is another VM's own." in why
    # of 8 CPUs 4 are left for whoever shares them
    shares = await new_vm(stage, "shares", 5)
    why = (await started(stage, shares))[1]
    assert "It has 4 CPUs that are no other VM's own, the VM wants 5." in why
    assert (await started(stage, await new_vm(stage, "fits", 4)))[0] == hosts[0]


async def test_a_vm_whose_cores_no_host_has_says_so(stage: Stage) -> None:
    vm = await stage.do(
        CreateVm(
            name="wide",
            cluster=stage.cluster,
            cpu=Processors(cores=1, threads=4),
            tuning=TuningInput(cpu_policy=CpuPolicy.DEDICATED),
        )
    )
    why = (await started(stage, vm))[1]
    assert "Its cores have 2 threads, the VM's 4, which are to be on one core." in why
    silent = msgspec.structs.replace(CAPABILITIES, hardware=None)
    for host in await stage.hosts():
        await stage.append(HOST.stream(host), HostCapabilitiesReported(capabilities=silent))
    why = (await started(stage, vm))[1]
    assert "It does not tell which of its CPUs make up a core." in why


async def test_a_run_of_which_nobody_knows_the_cpus_keeps_others_off(stage: Stage) -> None:
    """given a run that a restored log does not know, then no CPU of its host is given away"""
    vm = await new_vm(stage, "db01", policy=CpuPolicy.DEDICATED)
    home, _cpus = await started(stage, vm)
    state = await stage.vm(vm)
    assert state.run is not None
    spec = msgspec.structs.replace(state.run.spec, dedicated=None)
    run = msgspec.structs.replace(state.run, spec=spec)
    share = share_of(msgspec.structs.replace(state, run=run), home)
    assert share.special.dedicated == {UNKNOWN_CPU: 1}
    fleet = Fleet()
    fleet.put(await stage.host(home))
    need = Need(cluster=stage.cluster, tuning=OWN)
    assert fleet.choose(need).host is not None
    fleet.take(home, share)
    assert fleet.choose(need).host is None
    fleet.take(home, share, -1)
    assert fleet.choose(need).host is not None


async def test_a_vm_that_is_resumed_has_other_cpus_of_its_own(stage: Stage) -> None:
    """whatever it was set to meanwhile: that waits for a start from nothing"""
    await stage.do(MaintainHost(id=(await stage.hosts())[1]))
    await play_on(stage)
    vm = await new_vm(stage, "db01", policy=CpuPolicy.DEDICATED)
    home, cpus = await started(stage, vm)
    assert cpus == "1,5"
    await stage.do(SuspendVm(id=vm))
    await play_on(stage)
    await stage.do(TuneVm(id=vm))
    assert share_at(await stage.vm(vm), None).special.dedicated == {UNKNOWN_CPU: 1}
    other = await new_vm(stage, "other", 2, policy=CpuPolicy.DEDICATED)
    assert await started(stage, other) == (home, "1,5")
    await stage.do(ResumeVm(id=vm))
    await play_on(stage)
    assert await where(stage, vm) == (home, "2,6")


async def test_balancing_leaves_it_where_it_is_and_maintenance_moves_it(stage: Stage) -> None:
    vm = await new_vm(stage, "db01", policy=CpuPolicy.ISOLATE_THREADS)
    home, cpus = await started(stage, vm)
    assert cpus == "1-2,5-6"
    state = await stage.vm(vm)
    cluster = stage.runner._facts.clusters[stage.cluster]
    draft = Draft(stage.runner._facts.fleet, cluster, [state], busy=frozenset(), moves_max=9)
    assert not draft.movable
    await stage.do(MaintainHost(id=home))
    await play_on(stage)
    away, cpus = await where(stage, vm)
    assert (away != home, cpus) == (True, "1-2,5-6")
    assert (await stage.host(home)).status is HostStatus.MAINTENANCE


def test_what_a_vm_takes_where_it_comes_to() -> None:
    own = Dedicated(pins=(CpuPin(vcpu=0, cpus="3"),), cpus="3,7")
    given_state = vm_story().when(TuneVm(id=VM_ID, cpu_policy=CpuPolicy.ISOLATE_THREADS))
    state = given_state.follows().state(VM, VM_ID)
    assert state is not None
    assert share_at(state, own).special == taken(3, 7)
    assert share_of(state).special == NOTHING_SPECIAL


def test_cpus_of_its_own_and_pins_exclude_each_other() -> None:
    both = TuneVm(id=VM_ID, cpu_policy=CpuPolicy.DEDICATED, cpu_pins=(PinInput(vcpu=0, cpus="1"),))
    vm_story().when(both).refused(InvalidField, "dedicated")
