"""Affinity, pinning and balancing as the policies carry them out, over a log in memory."""

from __future__ import annotations

import pytest

from commands.affinity.add_to_group import AddToAffinityGroup
from commands.affinity.add_to_label import AddToAffinityLabel
from commands.affinity.create_group import CreateAffinityGroup
from commands.affinity.create_label import CreateAffinityLabel
from commands.cluster.balance import BalanceCluster, MoveInput
from commands.cluster.balancing import SetClusterBalancing
from commands.cluster.resources import SetClusterResources
from commands.cluster.schedule import ScheduleCluster
from commands.host.maintenance import MaintainHost
from commands.kernel.refusal import InvalidField, WrongState
from commands.operation.cancel import CancelOperation
from commands.policies.balance_moves import migration_of
from commands.state.affinity import AFFINITY_GROUP, AFFINITY_LABEL
from commands.state.availability_input import HighAvailabilityInput
from commands.state.cluster import CLUSTER, ClusterState
from commands.state.hardware import Processors
from commands.state.vm import VmStatus
from commands.vm.choose_hosts import ChooseHosts
from commands.vm.create import CreateVm, DiskInput
from commands.vm.high_availability import SetHighAvailability
from commands.vm.migrate import MigrateVm
from commands.vm.remove import RemoveVm
from commands.vm.start import StartVm
from events.types.affinity import Polarity
from events.types.balancing import BalancingMode
from events.types.cluster import SchedulingPolicy
from events.types.operation import Outcome
from tests.unit.policies.puppet import check, play_on
from tests.unit.policies.stage import GIB, Stage

MIB = 1024**2


async def opened(hosts: int = 3) -> tuple[Stage, list[str]]:
    stage = Stage()
    return stage, await stage.open(hosts)


async def down(stage: Stage, name: str, memory_bytes: int = GIB, sockets: int = 1) -> str:
    return await stage.do(
        CreateVm(
            name=name,
            cluster=stage.cluster,
            memory_bytes=memory_bytes,
            cpu=Processors(sockets=sockets),
        )
    )


async def up(stage: Stage, name: str, host: str | None = None, **more: int) -> str:
    vm = await down(stage, name, **more)
    if host is not None:
        await stage.do(ChooseHosts(id=vm, hosts=(host,)))
    await stage.do(StartVm(id=vm))
    await play_on(stage)
    assert (await stage.vm(vm)).status is VmStatus.UP
    return vm


async def where(stage: Stage, *vms: str) -> list[str]:
    runs = [(await stage.vm(vm)).run for vm in vms]
    return [run.host if run is not None else "" for run in runs]


async def cluster(stage: Stage) -> ClusterState:
    state = await stage._state(CLUSTER.stream(stage.cluster), CLUSTER.evolve)
    assert state is not None
    return state


async def group(stage: Stage, **said: object) -> str:
    return await stage.do(
        CreateAffinityGroup(name="group", cluster=stage.cluster, **said)  # type: ignore[arg-type]
    )


# ------------------------------------------------------------------------------- placement
async def test_vms_that_start_at_the_same_moment_are_kept_apart() -> None:
    stage, _hosts = await opened(2)
    vms = [await down(stage, f"vm{n}") for n in range(3)]
    key = await group(stage, vm_rule=Polarity.NEGATIVE, vm_enforcing=True, vms=tuple(vms))
    for vm in vms:
        await stage.do(StartVm(id=vm))
    await play_on(stage)
    placed = [host for host in await where(stage, *vms) if host]
    assert len(placed) == len(set(placed)) == 2
    operation = await stage.op()
    assert operation.outcome is Outcome.FAILED
    assert operation.reason.count("affinity group group keeps the two apart") == 2
    assert key


async def test_vms_that_start_at_the_same_moment_are_kept_together() -> None:
    stage, _hosts = await opened(3)
    vms = [await down(stage, f"vm{n}") for n in range(3)]
    await group(stage, vm_rule=Polarity.POSITIVE, vm_enforcing=True, vms=tuple(vms))
    for vm in vms:
        await stage.do(StartVm(id=vm))
    await play_on(stage)
    assert len(set(await where(stage, *vms))) == 1


async def test_a_vm_runs_on_the_hosts_that_a_group_says_through_labels() -> None:
    stage, hosts = await opened(3)
    vm = await down(stage, "vm")
    label = await stage.do(CreateAffinityLabel(name="licensed", hosts=(hosts[2],)))
    key = await group(
        stage, host_rule=Polarity.POSITIVE, host_enforcing=True, vms=(vm,), host_labels=(label,)
    )
    await stage.do(StartVm(id=vm))
    await play_on(stage)
    assert await where(stage, vm) == [hosts[2]]
    await stage.do(MigrateVm(id=vm, host=hosts[0]))
    await play_on(stage)
    operation = await stage.op()
    assert operation.outcome is Outcome.FAILED
    assert "Affinity group group keeps the VM on other hosts." in operation.reason
    await stage.do(AddToAffinityLabel(id=label, hosts=(hosts[0],)))
    await stage.do(MigrateVm(id=vm, host=hosts[0]))
    await play_on(stage)
    assert await where(stage, vm) == [hosts[0]]
    assert key


async def test_migration_that_would_part_vms_is_refused() -> None:
    stage, hosts = await opened(2)
    vms = [await up(stage, f"vm{n}", hosts[0]) for n in range(2)]
    await group(stage, vm_rule=Polarity.POSITIVE, vm_enforcing=True, vms=tuple(vms))
    await stage.do(MigrateVm(id=vms[0]))
    await play_on(stage)
    assert (await stage.op()).outcome is Outcome.FAILED
    assert "keeps on one host with it, is elsewhere" in (await stage.op()).reason
    assert await where(stage, *vms) == [hosts[0], hosts[0]]


async def test_vms_that_belong_together_leave_a_host_for_maintenance_together() -> None:
    stage, hosts = await opened(3)
    vms = [await up(stage, f"vm{n}", hosts[0]) for n in range(3)]
    await group(stage, vm_rule=Polarity.POSITIVE, vm_enforcing=True, vms=tuple(vms))
    await stage.do(MaintainHost(id=hosts[0]))
    await play_on(stage)
    assert (await stage.op()).outcome is Outcome.SUCCEEDED
    (destination,) = set(await where(stage, *vms))
    assert destination in hosts[1:]


async def test_a_pinned_vm_runs_on_its_hosts_only() -> None:
    stage, hosts = await opened(3)
    vm = await down(stage, "vm")
    await stage.do(ChooseHosts(id=vm, hosts=(hosts[1],), pinned=True))
    await stage.do(StartVm(id=vm))
    await play_on(stage)
    assert await where(stage, vm) == [hosts[1]]
    await stage.do(MigrateVm(id=vm))
    await play_on(stage)
    assert "The VM is pinned to other hosts." in (await stage.op()).reason
    await stage.do(ChooseHosts(id=vm, hosts=(hosts[2],)))
    await stage.do(MigrateVm(id=vm))
    await play_on(stage)
    assert await where(stage, vm) == [hosts[2]]
    with pytest.raises(InvalidField):
        await stage.do(ChooseHosts(id=vm, pinned=True))


async def test_a_vm_may_be_pinned_from_the_start_and_its_disks_lie_on_its_hosts() -> None:
    stage, hosts = await opened(3)
    vm = await stage.do(
        CreateVm(
            name="vm",
            cluster=stage.cluster,
            disks=(DiskInput(size_bytes=MIB),),
            chosen_hosts=(hosts[2], hosts[1]),
            pinned=True,
        )
    )
    await play_on(stage)
    state = await stage.vm(vm)
    assert [member.name for member in state.host_choice.hosts] == ["host2", "host3"]
    assert state.disks_host in hosts[1:]
    for refused in (
        CreateVm(name="a", cluster=stage.cluster, pinned=True),
        CreateVm(
            name="b",
            cluster=stage.cluster,
            chosen_hosts=(hosts[0],),
            pinned=True,
            high_availability=HighAvailabilityInput(),
        ),
    ):
        with pytest.raises((InvalidField, WrongState)):
            await stage.do(refused)


async def test_memory_is_given_out_beyond_what_a_host_has_where_the_cluster_says_so() -> None:
    stage, _hosts = await opened(1)
    vms = [await down(stage, f"vm{n}", memory_bytes=10 * GIB) for n in range(2)]
    for vm in vms:
        await stage.do(StartVm(id=vm))
        await play_on(stage)
    assert "of memory free" in (await stage.op()).reason
    await stage.do(SetClusterResources(id=stage.cluster, memory_percent=150))
    await stage.do(StartVm(id=vms[1]))
    await play_on(stage)
    assert (await stage.op()).outcome is Outcome.SUCCEEDED


async def test_disks_that_are_placed_at_the_same_moment_are_spread() -> None:
    stage, _hosts = await opened(3)
    disks = (DiskInput(size_bytes=MIB),)
    for number in range(3):
        await stage.do(CreateVm(name=f"vm{number}", cluster=stage.cluster, disks=disks))
    await stage.settle()
    assigned = [r.event for r in await stage.history() if r.name == "vm.disks_assigned"]
    assert len({event.host for event in assigned}) == 3  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------- members
async def test_what_is_removed_is_taken_out_of_groups_and_labels() -> None:
    stage, hosts = await opened(1)
    vm = await down(stage, "vm")
    key = await group(stage, vms=(vm,), hosts=(hosts[0],))
    label = await stage.do(CreateAffinityLabel(name="label", vms=(vm,)))
    await stage.do(RemoveVm(id=vm))
    await play_on(stage)
    state = await stage._state(AFFINITY_GROUP.stream(key), AFFINITY_GROUP.evolve)
    assert state is not None
    assert (state.affinity.vms, len(state.affinity.hosts)) == ((), 1)
    labelled = await stage._state(AFFINITY_LABEL.stream(label), AFFINITY_LABEL.evolve)
    assert labelled is not None
    assert labelled.vms == ()
    named = [r.event for r in await stage.history() if r.name == "affinity_group.updated"]
    assert [event.removed_member for event in named] == ["vm"]  # type: ignore[attr-defined]
    more = await down(stage, "more")
    await stage.do(AddToAffinityGroup(id=key, vms=(more,)))


async def test_another_process_knows_the_groups_from_the_log() -> None:
    stage, _hosts = await opened(2)
    vms = [await down(stage, f"vm{n}") for n in range(2)]
    await group(stage, vm_rule=Polarity.POSITIVE, vm_enforcing=True, vms=tuple(vms))
    stage.runner = stage.new_runner("second")
    await stage.runner.begin()
    for vm in vms:
        await stage.do(StartVm(id=vm))
        await play_on(stage)
    assert len(set(await where(stage, *vms))) == 1


# ----------------------------------------------------------------------------------- plans
async def crowded(stage: Stage, hosts: list[str], vms: int = 4) -> list[str]:
    """Have VMs run on the first host that are too many by the cluster's policy."""
    found = [await up(stage, f"vm{n}", hosts[0]) for n in range(vms)]
    await stage.do(
        ScheduleCluster(
            id=stage.cluster,
            policy=SchedulingPolicy.VM_EVENLY_DISTRIBUTED,
            high_vm_count=2,
            migration_threshold=2,
        )
    )
    for vm in found:
        await stage.do(ChooseHosts(id=vm))
    return found


async def test_a_plan_is_made_and_carried_out_a_few_moves_at_a_time() -> None:
    stage, hosts = await opened(2)
    vms = await crowded(stage, hosts, 6)
    await stage.do(BalanceCluster(id=stage.cluster))
    balance = str(stage.operation)
    await stage.settle()
    moving = [vm for vm in vms if (await stage.vm(vm)).status is VmStatus.MIGRATING]
    assert moving == vms[:2]
    with pytest.raises(WrongState):
        await stage.do(BalanceCluster(id=stage.cluster))
    await play_on(stage)
    operation = await stage.op(balance)
    assert operation.outcome is Outcome.SUCCEEDED
    assert sorted(await where(stage, *vms)) == sorted([*hosts] * 3)
    state = await cluster(stage)
    assert state.balance.operation is None
    await check(stage)


async def test_moves_that_were_previewed_are_made_and_one_that_fails_leaves_the_others() -> None:
    stage, hosts = await opened(2)
    vms = [await up(stage, f"vm{n}", hosts[0]) for n in range(2)]
    asleep = await down(stage, "asleep")
    moves = tuple(MoveInput(vm=vm, host=hosts[1]) for vm in (*vms, asleep))
    with pytest.raises(InvalidField):
        await stage.do(BalanceCluster(id=stage.cluster, moves=(*moves, moves[0])))
    await stage.do(BalanceCluster(id=stage.cluster, moves=moves))
    await play_on(stage)
    operation = await stage.op(str(stage.operation))
    assert operation.outcome is Outcome.FAILED
    assert operation.reason == ("1 of 3 VMs stay where they are. asleep: It does not run any more.")
    assert await where(stage, *vms) == [hosts[1], hosts[1]]


async def test_a_cancelled_plan_begins_no_more_moves() -> None:
    stage, hosts = await opened(2)
    vms = [await up(stage, f"vm{n}", hosts[0]) for n in range(4)]
    moves = tuple(MoveInput(vm=vm, host=hosts[1]) for vm in vms)
    await stage.do(SetClusterBalancing(id=stage.cluster, moves_at_once=1))
    await stage.do(BalanceCluster(id=stage.cluster, moves=moves))
    balance = str(stage.operation)
    await stage.settle()
    await stage.do(CancelOperation(id=balance))
    await stage.settle()
    assert (await stage.op(balance)).open  # what is under way ends first
    await play_on(stage)
    assert (await stage.op(balance)).outcome is Outcome.CANCELLED
    assert await where(stage, *vms) == [hosts[1], *[hosts[0]] * 3]
    assert (await stage.op(migration_of(balance, vms[0]))).outcome is Outcome.SUCCEEDED


# --------------------------------------------------------------------------------- by itself
async def test_plans_are_proposed_once_they_have_lasted_and_only_when_they_change() -> None:
    stage, hosts = await opened(2)
    await crowded(stage, hosts)
    await stage.do(SetClusterBalancing(id=stage.cluster, mode=BalancingMode.PROPOSE))
    await stage.pass_time(0)
    for _minute in range(2):
        await stage.pass_time(59)
    assert "cluster.balance_proposed" not in await stage.names()
    await stage.pass_time(61)
    proposal = (await cluster(stage)).balance.proposal
    assert {move.destination for move in proposal} == {hosts[1]}
    for _minute in range(5):
        await stage.pass_time(61)
    assert (await stage.names()).count("cluster.balance_proposed") == 1
    await stage.do(ScheduleCluster(id=stage.cluster, policy=SchedulingPolicy.NONE))
    await stage.pass_time(61)
    assert (await cluster(stage)).balance.proposal == ()


async def test_clusters_balance_themselves_where_that_is_wanted() -> None:
    stage, hosts = await opened(2)
    vms = await crowded(stage, hosts)
    await stage.pass_time(600)
    assert "cluster.balance_begun" not in await stage.names()  # it is off at first
    await stage.do(SetClusterBalancing(id=stage.cluster, mode=BalancingMode.AUTOMATIC))
    for _minute in range(4):
        await stage.pass_time(61)
        await play_on(stage)
    assert sorted(await where(stage, *vms)) == sorted([*hosts] * 2)
    begun = (await stage.names()).count("cluster.balance_begun")
    for _minute in range(4):
        await stage.pass_time(61)
    assert (await stage.names()).count("cluster.balance_begun") == begun == 1


async def test_affinity_is_enforced_at_the_next_look() -> None:
    stage, hosts = await opened(2)
    vms = [await up(stage, f"vm{n}", hosts[0]) for n in range(2)]
    await stage.do(SetClusterBalancing(id=stage.cluster, mode=BalancingMode.AUTOMATIC))
    await stage.settle()
    await group(stage, vm_rule=Polarity.NEGATIVE, vm_enforcing=True, vms=tuple(vms))
    await stage.pass_time(61)
    await play_on(stage)
    assert sorted(await where(stage, *vms)) == sorted(hosts)
    causes = [r.event for r in await stage.history() if r.name == "vm.migration_requested"]
    assert [event.cause.value for event in causes] == ["affinity"]  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------- reservation
async def test_an_alert_says_that_highly_available_vms_would_not_fit_elsewhere() -> None:
    stage, hosts = await opened(2)
    vms = [await up(stage, f"vm{n}", hosts[n], memory_bytes=10 * GIB) for n in range(2)]
    await stage.do(SetHighAvailability(id=vms[0]))
    await stage.do(SetClusterResources(id=stage.cluster, ha_reservation=True))
    await stage.settle()
    lost = (await cluster(stage)).balance.reservation_lost
    assert lost == ("host1",)
    (told,) = [r.event for r in await stage.history() if r.name == "cluster.ha_reservation_lost"]
    assert told.reason == (  # type: ignore[attr-defined]
        "If host host1 failed, no other could take VM vm0."
    )
    await stage.pass_time(301)
    assert (await stage.names()).count("cluster.ha_reservation_lost") == 1
    await stage.add_host("host3")
    await stage.pass_time(301)
    assert (await cluster(stage)).balance.reservation_lost == ()
    assert (await stage.names()).count("cluster.ha_reservation_kept") == 1


async def test_one_host_alone_reserves_nothing() -> None:
    stage, _hosts = await opened(1)
    await stage.do(SetClusterResources(id=stage.cluster, ha_reservation=True))
    await stage.settle()
    assert (await cluster(stage)).balance.reservation_lost == ("host1",)
    await stage.do(SetClusterResources(id=stage.cluster, ha_reservation=False))
    await stage.pass_time(301)
    assert (await cluster(stage)).balance.reservation_lost == ()
