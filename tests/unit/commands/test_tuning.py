"""What is asked of a VM's processors and memory, and what the scheduler makes of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.kernel.refusal import InvalidField, PreconditionFailed, WrongState
from commands.scheduler.fleet import Fleet, share_of
from commands.scheduler.need import HOST_RESERVE_BYTES, Need, need_of, need_to_move
from commands.state.cluster import CLUSTER as CLUSTERS
from commands.state.hardware import Processors
from commands.state.host import HOST, HostState, HostStatus
from commands.state.tuning_input import NumaNodeInput, PinInput, TuningInput
from commands.state.vm import VM, VmStatus
from commands.vm.create import CreateVm
from commands.vm.tune import TuneVm
from commands.vm.update import UpdateVm
from events.types.host import HostCapabilitiesReported
from events.types.host_hardware import CpuTopology, Hardware, HugePages, NumaNode
from events.types.run_spec import Topology
from events.types.vm import VmCreated, VmUpdated
from events.types.vm_tuning import CpuPin, GuestNumaNode, NumaMode, Tuning, members, spelled
from tests.unit.commands.samples import CLUSTER, HOST_ID, MIB, VM_ID, host, place, vm
from tests.unit.policies.stage import CAPABILITIES

GIB = 1024 * MIB
HARDWARE = Hardware(
    cpu_flags=("fpu", "vmx"),
    tsc_hz=2_000_000_000,
    topology=CpuTopology(sockets=1, cores=4, threads=2),
    numa_nodes=(NumaNode(node=0, cpus="0-7", memory_bytes=4 * GIB),),
    huge_pages=(HugePages(size_bytes=2 * MIB, count=512),),
)


def tuned(command: TuneVm) -> Tuning:
    """What a command makes of a VM with 4 virtual CPUs and 1 GiB."""
    four = vm().when(UpdateVm(id=VM_ID, memory_bytes=GIB, cpu=Processors(sockets=2, cores=2)))
    return four.follows().when(command).event(VmUpdated).configuration.tuning


def test_everything_is_set_at_once_and_what_is_left_out_ends() -> None:
    command = TuneVm(
        id=VM_ID,
        cpu_pins=(PinInput(vcpu=3, cpus="8+0-2+1-3"), PinInput(vcpu=0, cpus="5")),
        numa_nodes=(
            NumaNodeInput(vcpus="0-1", memory_bytes=256 * MIB, host_nodes="0"),
            NumaNodeInput(
                vcpus="2,3", memory_bytes=768 * MIB, host_nodes="0-1", mode=NumaMode.INTERLEAVE
            ),
        ),
        huge_page_bytes=2 * MIB,
        high_performance=True,
    )
    assert tuned(command) == Tuning(
        pins=(CpuPin(vcpu=0, cpus="5"), CpuPin(vcpu=3, cpus="0-3,8")),
        numa_nodes=(
            GuestNumaNode(vcpus="0-1", memory_bytes=256 * MIB, host_nodes="0"),
            GuestNumaNode(
                vcpus="2-3", memory_bytes=768 * MIB, host_nodes="0-1", mode=NumaMode.INTERLEAVE
            ),
        ),
        huge_page_bytes=2 * MIB,
        high_performance=True,
    )
    once = vm().when(TuneVm(id=VM_ID, high_performance=True)).follows()
    once.when(TuneVm(id=VM_ID, high_performance=True)).then_nothing()
    ended = once.when(TuneVm(id=VM_ID)).event(VmUpdated)
    assert ended.configuration.tuning == Tuning()
    vm(VmStatus.REMOVING).when(TuneVm(id=VM_ID)).refused(WrongState, "web01")


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (TuneVm(id=VM_ID, cpu_pins=(PinInput(vcpu=4, cpus="0"),)), "cpu_pins"),
        (TuneVm(id=VM_ID, cpu_pins=(PinInput(vcpu=0, cpus="0"),) * 2), "cpu_pins"),
        (TuneVm(id=VM_ID, cpu_pins=(PinInput(vcpu=0, cpus="3-1"),)), "cpu_pins"),
        (TuneVm(id=VM_ID, cpu_pins=(PinInput(vcpu=0, cpus="9999"),)), "cpu_pins"),
        (
            TuneVm(id=VM_ID, numa_nodes=(NumaNodeInput(vcpus="0-2", memory_bytes=GIB),)),
            "numa_nodes",
        ),
        (
            TuneVm(id=VM_ID, numa_nodes=(NumaNodeInput(vcpus="0-3", memory_bytes=GIB // 2),)),
            "numa_nodes",
        ),
        (
            TuneVm(
                id=VM_ID,
                numa_nodes=(
                    NumaNodeInput(
                        vcpus="0-3", memory_bytes=GIB, host_nodes="0-1", mode=NumaMode.PREFERRED
                    ),
                ),
            ),
            "numa_nodes",
        ),
        (TuneVm(id=VM_ID, huge_page_bytes=4 * MIB), "huge_page_bytes"),
    ],
)
def test_what_does_not_suit_the_vm_is_refused(command: TuneVm, field: str) -> None:
    four = vm().when(UpdateVm(id=VM_ID, memory_bytes=GIB, cpu=Processors(sockets=2, cores=2)))
    assert four.follows().when(command).refused(InvalidField).extra["field"] == field


def test_a_new_vm_may_have_it_from_the_first() -> None:
    wanted = TuningInput(cpu_pins=(PinInput(vcpu=0, cpus="1+2"),))
    created = place().when(CreateVm(name="x", cluster=CLUSTER, tuning=wanted)).event(VmCreated)
    assert created.configuration.tuning == Tuning(pins=(CpuPin(vcpu=0, cpus="1-2"),))
    beyond = TuningInput(cpu_pins=(PinInput(vcpu=1, cpus="1"),))
    place().when(CreateVm(name="x", cluster=CLUSTER, tuning=beyond)).refused(InvalidField)


def test_memory_and_processors_change_only_as_the_tuning_allows() -> None:
    pinned = vm().when(TuneVm(id=VM_ID, cpu_pins=(PinInput(vcpu=0, cpus="1"),))).follows()
    pinned.when(UpdateVm(id=VM_ID, cpu=Processors(cores=8))).event(VmUpdated)
    huge = vm().when(TuneVm(id=VM_ID, huge_page_bytes=2 * MIB)).follows()
    huge.when(UpdateVm(id=VM_ID, memory_bytes=99 * MIB)).refused(InvalidField, "no multiple")
    vm().when(TuneVm(id=VM_ID), if_match=7).refused(PreconditionFailed, "")


@given(st.frozensets(st.integers(0, 70)))
def test_sets_are_read_as_they_are_written(numbers: frozenset[int]) -> None:
    assert members(spelled(numbers)) == numbers
    assert spelled([8, 0, 1, 2, 3, 10]) == "0-3,8,10"


# ------------------------------------------------------------------------------- the scheduler
def a_host(hardware: Hardware = HARDWARE) -> HostState:
    """A host as its own events leave it: decisions see what the fold keeps."""
    abilities = msgspec.structs.replace(
        CAPABILITIES, cpus=8, memory_bytes=4 * GIB, hardware=hardware
    )
    reported = HostCapabilitiesReported(capabilities=abilities)
    state = host(HostStatus.UP, reported).state(HOST, HOST_ID)
    assert state is not None
    return state


def objections(fleet: Fleet, command: TuneVm, **cluster: object) -> str:
    """Why a VM with 1 GiB and 4 virtual CPUs is not placed; "" where it is."""
    story = vm().when(UpdateVm(id=VM_ID, memory_bytes=GIB, cpu=Processors(cores=4))).follows()
    changed = story.when(command).follows()
    state, at = changed.state(VM, VM_ID), changed.state(CLUSTERS, CLUSTER)
    assert state is not None
    assert at is not None
    choice = fleet.choose(need_of(state, msgspec.structs.replace(at, **cluster)))
    return "" if choice.host is not None else choice.refusal


def fleet_of(state: HostState) -> Fleet:
    fleet = Fleet()
    fleet.put(state)
    return fleet


def test_huge_pages_are_counted_and_are_no_ordinary_memory() -> None:
    fleet = fleet_of(a_host())
    huge = TuneVm(id=VM_ID, huge_page_bytes=2 * MIB)
    assert objections(fleet, huge) == ""
    given = vm().when(UpdateVm(id=VM_ID, memory_bytes=512 * MIB)).follows()
    small = given.when(huge).follows().state(VM, VM_ID)
    assert small is not None
    fleet.take(HOST_ID, share_of(small))
    assert objections(fleet, huge) == (
        "kvm01: It has 256 huge pages of 2 MiB free, 512 are needed."
    )
    candidate = fleet.candidate(HOST_ID)
    assert candidate is not None
    assert candidate.memory_taken_bytes == 0
    fleet.take(HOST_ID, share_of(small), -1)
    assert objections(fleet, huge) == ""
    assert objections(fleet, TuneVm(id=VM_ID, huge_page_bytes=GIB)).endswith(
        "It has 0 huge pages of 1024 MiB free, 1 are needed."
    )
    # 1 GiB of the host's 4 is set aside, and 256 MiB are its own.
    left = Need(cluster=CLUSTER, memory_bytes=3 * GIB - HOST_RESERVE_BYTES)
    assert fleet.choose(left).host is not None
    more = msgspec.structs.replace(left, memory_bytes=left.memory_bytes + MIB)
    assert fleet.choose(more).host is None


def test_memory_that_is_bound_to_a_node_is_counted_there() -> None:
    nodes = tuple(NumaNode(node=n, cpus=f"{n}", memory_bytes=GIB) for n in range(2))
    fleet = fleet_of(a_host(msgspec.structs.replace(HARDWARE, numa_nodes=nodes)))

    def bound(host_nodes: str, mode: NumaMode = NumaMode.STRICT) -> TuneVm:
        node = NumaNodeInput(vcpus="0-3", memory_bytes=GIB, host_nodes=host_nodes, mode=mode)
        return TuneVm(id=VM_ID, numa_nodes=(node,))

    story = vm().when(UpdateVm(id=VM_ID, memory_bytes=GIB, cpu=Processors(cores=4))).follows()
    halves = story.when(bound("0-1")).follows().state(VM, VM_ID)
    assert halves is not None
    assert objections(fleet, bound("0")) == ""
    fleet.take(HOST_ID, share_of(halves))  # 512 MiB of each
    assert objections(fleet, bound("0")) == (
        "kvm01: Its NUMA node 0 has 512 MiB that are not bound to VMs, 1024 are needed."
    )
    assert objections(fleet, bound("0", NumaMode.PREFERRED)) == ""
    assert objections(fleet, bound("1+3")).endswith(
        "It has no NUMA node 3, which the VM's memory is taken of."
    )


def test_cores_count_where_threads_do_not_in_what_the_fold_keeps() -> None:
    fleet = fleet_of(a_host())
    story = vm().when(UpdateVm(id=VM_ID, cpu=Processors(cores=5))).follows()
    state, at = story.state(VM, VM_ID), story.state(CLUSTERS, CLUSTER)
    assert state is not None
    assert at is not None
    assert fleet.choose(need_of(state, at)).host is not None
    cores = msgspec.structs.replace(at.resources, threads_as_cores=False)
    need = need_of(state, msgspec.structs.replace(at, resources=cores))
    assert fleet.choose(need).refusal == "kvm01: It has 4 CPUs, the VM wants 5."


def test_only_a_high_performance_vm_that_moves_minds_the_counter() -> None:
    story = vm(VmStatus.UP)
    state, at = story.state(VM, VM_ID), story.state(CLUSTERS, CLUSTER)
    assert state is not None
    assert state.run is not None
    assert at is not None
    assert need_to_move(state, at, a_host()).tsc_hz == 0
    fast = msgspec.structs.replace(
        state.run.spec.configuration, tuning=Tuning(high_performance=True)
    )
    spec = msgspec.structs.replace(state.run.spec, configuration=fast)
    run = msgspec.structs.replace(state.run, spec=spec)
    moving = msgspec.structs.replace(state, run=run)
    assert need_to_move(moving, at, a_host()).tsc_hz == 2_000_000_000
    assert need_of(moving, at).tsc_hz == 0


def test_a_high_performance_vm_gets_a_host_with_as_many_sockets_cores_and_threads() -> None:
    fleet = Fleet()
    for key, sockets in (("a", 1), ("b", 2)):
        topology = CpuTopology(sockets=sockets, cores=4, threads=2)
        hardware = msgspec.structs.replace(HARDWARE, topology=topology)
        fleet.put(msgspec.structs.replace(a_host(hardware), id=key, name=key))
    need = Need(cluster=CLUSTER, processors=2, topology=Topology(sockets=2))
    assert fleet.choose(need).host == fleet.candidates(CLUSTER)[0].host
    fast = msgspec.structs.replace(need, tuning=Tuning(high_performance=True))
    assert fleet.choose(fast).host == fleet.candidates(CLUSTER)[1].host


def test_pinned_cpus_are_to_be_near_the_memory() -> None:
    fleet = Fleet()
    for key, cpus in (("a", ("0-3", "4-7")), ("b", ("4-7", "0-3"))):
        nodes = tuple(NumaNode(node=n, cpus=c, memory_bytes=2 * GIB) for n, c in enumerate(cpus))
        hardware = msgspec.structs.replace(HARDWARE, numa_nodes=nodes)
        fleet.put(msgspec.structs.replace(a_host(hardware), id=key, name=key))
    node = GuestNumaNode(vcpus="0", memory_bytes=GIB, host_nodes="0")
    for wanted, expected in (("0-1", "a"), ("5", "b")):
        pinned = Tuning(pins=(CpuPin(vcpu=0, cpus=wanted),), numa_nodes=(node,))
        found = fleet.choose(Need(cluster=CLUSTER, processors=1, tuning=pinned)).host
        assert found is not None
        assert found.id == expected
