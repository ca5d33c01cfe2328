"""Scheduling policies of one's own: what their verbs decide, and what clusters make of them."""

from __future__ import annotations

import msgspec
import pytest

from commands.cluster.create import CreateCluster
from commands.cluster.remove import RemoveCluster
from commands.cluster.schedule import ScheduleCluster
from commands.data_center.create import CreateDataCenter
from commands.kernel.refusal import InUse, InvalidField, NameTaken, NotFound
from commands.kernel.testing import Given
from commands.policies.facts import Facts
from commands.scheduler.filters import FILTERS
from commands.scheduler.policies import filters_of, weights_of
from commands.scheduling_policy.create import CreateSchedulingPolicy
from commands.scheduling_policy.remove import RemoveSchedulingPolicy
from commands.scheduling_policy.update import UpdateSchedulingPolicy
from commands.state.cluster import CLUSTER as CLUSTERS
from commands.state.scheduling_input import Balancer, WeightInput
from commands.state.scheduling_policy import SCHEDULING_POLICY, built_in, effective
from commands.vm.create import CreateVm
from commands.vm.start import StartVm
from events.types.cluster import ClusterRemoved, ClusterSchedulingSet, Scheduling, SchedulingPolicy
from events.types.scheduling_policy import (
    SchedulingPolicyCreated,
    SchedulingPolicyRemoved,
    SchedulingPolicyUpdated,
)
from events.types.scheduling_units import FilterUnit, Selector, WeightFactor, WeightUnit
from tests.unit.commands.samples import CLUSTER, NOBODY, place
from tests.unit.commands.test_claims import Engine
from tests.unit.policies.stage import GIB, Stage

POLICY = "00000000-0000-0000-0000-0000000000d1"
EVEN = SchedulingPolicy.EVENLY_DISTRIBUTED
FEW = CreateSchedulingPolicy(
    name="mine",
    like=EVEN,
    filters=(FilterUnit.MEMORY, FilterUnit.CPU),
    weights=(WeightInput(unit=WeightUnit.PREFERRED_HOSTS, factor=7),),
    high_utilization_percent=60,
    vcpu_to_physical_cpu_ratio=1.5,
)
MINE = Scheduling(
    policy=EVEN,
    filters=(FilterUnit.CPU, FilterUnit.MEMORY),
    weights=(WeightFactor(unit=WeightUnit.PREFERRED_HOSTS, factor=7),),
    high_utilization_percent=60,
    vcpu_to_physical_cpu_ratio=1.5,
)


def there() -> Given:
    created = SchedulingPolicyCreated(name="mine", scheduling=MINE)
    return place().and_then((f"scheduling_policy/{POLICY}", created))


def test_it_begins_as_a_copy_and_what_is_given_takes_the_place_of_the_rest() -> None:
    place().when(FEW).then(SchedulingPolicyCreated(name="mine", scheduling=MINE))
    plain = place().when(CreateSchedulingPolicy(name="x")).event(SchedulingPolicyCreated)
    assert plain.scheduling == built_in(SchedulingPolicy.NONE)
    assert len(plain.scheduling.filters or ()) == len(FilterUnit) - 1
    maintained = CreateSchedulingPolicy(name="x", like=SchedulingPolicy.CLUSTER_MAINTENANCE)
    still = place().when(maintained).event(SchedulingPolicyCreated).scheduling
    assert FilterUnit.CLUSTER_IN_MAINTENANCE in (still.filters or ())
    copied = there().when(CreateSchedulingPolicy(name="x", copy_of=POLICY, scale_down=3))
    assert copied.event(SchedulingPolicyCreated).scheduling == msgspec.structs.replace(
        MINE, scale_down=3
    )


@pytest.mark.parametrize(
    "command",
    [
        CreateSchedulingPolicy(name="x", high_vm_count=3),
        CreateSchedulingPolicy(name="x", like=EVEN, hosts_in_reserve=3),
        CreateSchedulingPolicy(name="x", like=EVEN, copy_of=POLICY),
        CreateSchedulingPolicy(
            name="x", weights=(WeightInput(unit=WeightUnit.EVEN_CPU, factor=1),) * 2
        ),
        CreateSchedulingPolicy(
            name="x",
            like=EVEN,
            max_free_memory_for_over_utilized_bytes=2,
            min_free_memory_for_under_utilized_bytes=1,
        ),
    ],
)
def test_what_makes_no_sense_is_refused(command: CreateSchedulingPolicy) -> None:
    there().when(command).refused(InvalidField)


def test_it_is_changed_and_removed() -> None:
    there().when(UpdateSchedulingPolicy(id=POLICY, name="mine")).then_nothing()
    there().when(UpdateSchedulingPolicy(id=POLICY, balancer=Balancer.NONE)).then(
        SchedulingPolicyUpdated(
            name="mine",
            former_name="mine",
            # the ratio was a parameter of the balancer that it had
            scheduling=msgspec.structs.replace(
                MINE, policy=SchedulingPolicy.NONE, vcpu_to_physical_cpu_ratio=0.0
            ),
        )
    )
    there().when(UpdateSchedulingPolicy(id=NOBODY)).refused(NotFound, NOBODY)
    there().when(RemoveSchedulingPolicy(id=POLICY)).then(SchedulingPolicyRemoved(name="mine"))


def test_a_policy_has_a_selector() -> None:
    basic = CreateSchedulingPolicy(name="x", selector=Selector.BASIC_WEIGHTING)
    made = place().when(basic).event(SchedulingPolicyCreated).scheduling
    assert made.selector is Selector.BASIC_WEIGHTING
    assert built_in(SchedulingPolicy.NONE).selector is Selector.RANK
    there().when(UpdateSchedulingPolicy(id=POLICY, selector=Selector.RANK)).then_nothing()
    changed = there().when(UpdateSchedulingPolicy(id=POLICY, selector=Selector.BASIC_WEIGHTING))
    assert changed.event(SchedulingPolicyUpdated).scheduling == msgspec.structs.replace(
        MINE, selector=Selector.BASIC_WEIGHTING
    )
    # what is not given stays, and a cluster that uses it has it
    kept = changed.follows().when(UpdateSchedulingPolicy(id=POLICY, scale_down=9))
    policy = kept.follows().state(SCHEDULING_POLICY, POLICY)
    assert policy is not None
    assert policy.scheduling.selector is Selector.BASIC_WEIGHTING
    in_cluster = effective(Scheduling(custom=POLICY), policy)
    assert in_cluster.selector is Selector.BASIC_WEIGHTING


def test_how_much_swap_a_host_may_use_is_a_parameter_of_every_policy() -> None:
    made = CreateSchedulingPolicy(name="x", maximum_allowed_swap_usage_percent=20)
    plain = place().when(made).event(SchedulingPolicyCreated).scheduling
    assert plain.maximum_allowed_swap_usage_percent == 20
    assert FilterUnit.SWAP in (plain.filters or ())
    for policy in SchedulingPolicy:
        own = ScheduleCluster(id=CLUSTER, policy=policy, maximum_allowed_swap_usage_percent=7)
        found = place().when(own).event(ClusterSchedulingSet).scheduling
        assert found.maximum_allowed_swap_usage_percent == 7


def test_a_cluster_uses_it_with_parameters_of_its_own() -> None:
    use = ScheduleCluster(id=CLUSTER, scheduling_policy=POLICY, high_utilization_percent=90)
    wanted = Scheduling(
        custom=POLICY, own=("high_utilization_percent",), high_utilization_percent=90
    )
    using = there().when(use)
    using.then(ClusterSchedulingSet(name="Default", scheduling=wanted))
    again = using.follows()
    again.when(use).then_nothing()
    back = again.when(ScheduleCluster(id=CLUSTER, policy=SchedulingPolicy.NONE))
    assert back.event(ClusterSchedulingSet).previous_custom == POLICY
    gone = again.when(RemoveCluster(id=CLUSTER)).event(ClusterRemoved)
    assert gone.scheduling_policy == POLICY
    both = ScheduleCluster(id=CLUSTER, policy=EVEN, scheduling_policy=POLICY)
    there().when(both).refused(InvalidField)
    there().when(ScheduleCluster(id=CLUSTER)).refused(InvalidField)
    there().when(ScheduleCluster(id=CLUSTER, scheduling_policy=NOBODY)).refused(NotFound, NOBODY)
    foreign = ScheduleCluster(id=CLUSTER, scheduling_policy=POLICY, hosts_in_reserve=1)
    there().when(foreign).refused(InvalidField, "power_saving")


async def test_one_that_is_used_stays_and_names_are_unique() -> None:
    engine = Engine()
    center = await engine.do(CreateDataCenter(name="d"))
    cluster = await engine.do(CreateCluster(name="c", data_center=center))
    policy = await engine.do(CreateSchedulingPolicy(name="mine"))
    with pytest.raises(NameTaken):
        await engine.do(CreateSchedulingPolicy(name="MINE"))
    other = await engine.do(CreateSchedulingPolicy(name="other"))
    await engine.do(ScheduleCluster(id=cluster, scheduling_policy=policy))
    with pytest.raises(InUse):
        await engine.do(RemoveSchedulingPolicy(id=policy))
    await engine.do(ScheduleCluster(id=cluster, scheduling_policy=other))
    await engine.do(RemoveSchedulingPolicy(id=policy))
    await engine.do(UpdateSchedulingPolicy(id=other, name="mine"))
    with pytest.raises(InUse):
        await engine.do(RemoveSchedulingPolicy(id=other))
    await engine.do(RemoveCluster(id=cluster))
    await engine.do(RemoveSchedulingPolicy(id=other))


# ------------------------------------------------------------------------------- the scheduler
def test_every_unit_is_one_of_the_schedulers() -> None:
    names = {each.name for each in FILTERS}
    assert names >= {unit.value for unit in FilterUnit}
    every = tuple(WeightFactor(unit=unit) for unit in WeightUnit)
    weights = weights_of(Scheduling(weights=every))
    assert [each.weight.name for each in weights] == [unit.value for unit in WeightUnit]
    left = {each.name for each in filters_of(Scheduling(filters=()))}
    assert left == names - {unit.value for unit in FilterUnit}
    assert "Status" in left


async def test_clusters_follow_a_policy_that_changes() -> None:
    stage = Stage()
    await stage.open()
    policy = await stage.do(CreateSchedulingPolicy(name="mine", like=EVEN, scale_down=2))
    await stage.do(
        ScheduleCluster(id=stage.cluster, scheduling_policy=policy, high_utilization_percent=70)
    )
    facts = Facts()

    async def scheduling() -> Scheduling:
        for recorded in (await stage.history())[facts.position :]:
            facts.take(recorded)
        return facts.clusters[stage.cluster].scheduling

    before = await scheduling()
    assert (before.policy, before.scale_down) == (EVEN, 2)
    assert before.high_utilization_percent == 70
    await stage.do(
        UpdateSchedulingPolicy(
            id=policy,
            balancer=Balancer.POWER_SAVING,
            high_utilization_percent=55,
            scale_down=4,
            filters=(),
        )
    )
    after = await scheduling()
    assert (after.policy, after.scale_down) == (SchedulingPolicy.POWER_SAVING, 4)
    assert after.high_utilization_percent == 70
    assert after.filters == ()
    # what is kept for the next process is the cluster as its own events have it
    kept = facts.tables()[CLUSTERS.kind][stage.cluster]
    assert kept.scheduling.policy is SchedulingPolicy.NONE
    assert kept.scheduling.own == ("high_utilization_percent",)
    restored = Facts()
    restored.restore(facts.position, facts.tables())
    assert restored.clusters == facts.clusters


async def test_a_start_goes_by_the_policy() -> None:
    """given a policy without the filter Memory, a VM that is too large is placed all the same"""
    stage = Stage()
    await stage.open()
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster, memory_bytes=64 * GIB))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    assert "MiB of memory free" in (await stage.op()).reason
    policy = await stage.do(CreateSchedulingPolicy(name="mine", filters=()))
    await stage.do(ScheduleCluster(id=stage.cluster, scheduling_policy=policy))
    await stage.do(StartVm(id=vm))
    await stage.settle()
    assert (await stage.vm(vm)).run is not None
    # and one whose cluster is in maintenance is not
    other = await stage.do(CreateVm(name="web02", cluster=stage.cluster))
    kept = (FilterUnit.CLUSTER_IN_MAINTENANCE,)
    await stage.do(UpdateSchedulingPolicy(id=policy, filters=kept))
    await stage.do(StartVm(id=other))
    await stage.settle()
    assert "in maintenance" in (await stage.op()).reason
