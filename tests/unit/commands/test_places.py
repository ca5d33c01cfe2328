"""What the verbs of data centers, clusters and operations decide."""

from __future__ import annotations

import pytest

from commands.cluster.create import CreateCluster
from commands.cluster.remove import RemoveCluster
from commands.cluster.schedule import ScheduleCluster
from commands.cluster.update import UpdateCluster
from commands.data_center.create import CreateDataCenter
from commands.data_center.remove import RemoveDataCenter
from commands.data_center.update import UpdateDataCenter
from commands.kernel.command import Command
from commands.kernel.refusal import InvalidField, NotFound, PreconditionFailed, WrongState
from commands.kernel.testing import fresh, given
from commands.operation.cancel import CancelOperation
from events.types.cluster import (
    ClusterCreated,
    ClusterRemoved,
    ClusterSchedulingSet,
    Scheduling,
    SchedulingPolicy,
)
from events.types.cluster_requirements import Requirements
from events.types.data_center import (
    DataCenterCreated,
    DataCenterRemoved,
    DataCenterRenamed,
    DataCenterVersionRaised,
    StorageType,
)
from events.types.operation import (
    OperationCancelRequested,
    OperationEnded,
    OperationStarted,
    Outcome,
)
from tests.unit.commands.samples import CLUSTER, DATA_CENTER, NOBODY, STARTING, place


def test_a_data_center_comes_to_be() -> None:
    when = given().when(CreateDataCenter(name="Prague", storage_type=StorageType.LOCAL))
    decision = when.then(
        DataCenterCreated(
            name="Prague", storage_type=StorageType.LOCAL, compatibility_version="1.0"
        )
    )
    assert decision.id == fresh()
    assert decision.events[0].stream == f"data_center/{fresh()}"


def test_a_data_center_is_renamed_and_keeps_what_is_not_given() -> None:
    described = place().when(UpdateDataCenter(id=DATA_CENTER, description="first")).follows()
    described.when(UpdateDataCenter(id=DATA_CENTER, name="Brno")).then(
        DataCenterRenamed(name="Brno", previous_name="Default", description="first")
    )


def test_renaming_to_the_same_says_nothing() -> None:
    place().when(UpdateDataCenter(id=DATA_CENTER, name="Default")).then_nothing()


def test_a_data_center_that_others_changed_is_not_renamed() -> None:
    changed = place().when(UpdateDataCenter(id=DATA_CENTER, name="Brno")).follows()
    changed.when(UpdateDataCenter(id=DATA_CENTER, name="Wien"), if_match=1).refused(
        PreconditionFailed, "version 2"
    )
    assert changed.when(UpdateDataCenter(id=DATA_CENTER, name="Wien"), if_match=2).events


def test_a_data_center_is_raised_once_its_clusters_are() -> None:
    raising = UpdateDataCenter(id=DATA_CENTER, name="Brno", compatibility_version="1.10")
    below = place().when(raising, clusters_of=lambda _center: (CLUSTER,))
    refusal = below.refused(WrongState, "version below 1.10: Default.")
    assert "cluster update" in refusal.remedy
    above = place().when(
        UpdateCluster(id=CLUSTER, compatibility_version="1.10"), hosts_of=lambda _cluster: ()
    )
    when = above.follows().when(raising, clusters_of=lambda _center: (CLUSTER,))
    when.then(
        DataCenterRenamed(name="Brno", previous_name="Default"),
        DataCenterVersionRaised(name="Brno", compatibility_version="1.10", previous_version="1.0"),
    )
    raised = when.follows()
    made = raised.when(CreateCluster(name="West", data_center=DATA_CENTER))
    assert made.event(ClusterCreated).compatibility_version == "1.10"
    again = UpdateDataCenter(id=DATA_CENTER, compatibility_version="1.10")
    raised.when(again, if_match=3).then_nothing()
    raised.when(UpdateDataCenter(id=DATA_CENTER, compatibility_version="1.9")).refused(
        InvalidField, "is never lowered"
    )


def test_a_cluster_that_is_gone_does_not_keep_its_data_center_from_being_raised() -> None:
    gone = place().when(RemoveCluster(id=CLUSTER)).follows()
    raising = UpdateDataCenter(id=DATA_CENTER, compatibility_version="2.0")
    when = gone.when(raising, clusters_of=lambda _center: (CLUSTER,))
    assert when.event(DataCenterVersionRaised).compatibility_version == "2.0"


def test_a_cluster_comes_to_be_in_its_data_center() -> None:
    place().when(CreateCluster(name="West", data_center=DATA_CENTER, cpu_model="EPYC")).then(
        ClusterCreated(
            name="West",
            data_center=DATA_CENTER,
            architecture="x86_64",
            cpu_model="EPYC",
            machine_type="pc-q35-7.2",
            compatibility_version="1.0",
            requirements=Requirements(memory_max_bytes=2**42),
        )
    )


def test_a_cluster_is_scheduled_by_a_policy_with_its_defaults() -> None:
    saving = ScheduleCluster(id=CLUSTER, policy=SchedulingPolicy.POWER_SAVING)
    when = place().when(saving)
    when.then(
        ClusterSchedulingSet(
            name="Default", scheduling=Scheduling(policy=SchedulingPolicy.POWER_SAVING)
        )
    )
    when.follows().when(saving).then_nothing()
    place().when(ScheduleCluster(id=CLUSTER, policy=SchedulingPolicy.NONE)).then_nothing()


def test_what_is_not_given_gets_the_default_again() -> None:
    even = SchedulingPolicy.EVENLY_DISTRIBUTED
    set_ = place().when(ScheduleCluster(id=CLUSTER, policy=even, vcpu_to_physical_cpu_ratio=1.5))
    set_.then(
        ClusterSchedulingSet(
            name="Default", scheduling=Scheduling(policy=even, vcpu_to_physical_cpu_ratio=1.5)
        )
    )
    again = ScheduleCluster(id=CLUSTER, policy=even, high_utilization_percent=90)
    set_.follows().when(again).then(
        ClusterSchedulingSet(
            name="Default", scheduling=Scheduling(policy=even, high_utilization_percent=90)
        )
    )


def test_a_parameter_of_another_policy_is_refused() -> None:
    ratio = ScheduleCluster(
        id=CLUSTER, policy=SchedulingPolicy.POWER_SAVING, vcpu_to_physical_cpu_ratio=1.5
    )
    place().when(ratio).refused(InvalidField, "a parameter of policy evenly_distributed")
    limits = ScheduleCluster(
        id=CLUSTER,
        policy=SchedulingPolicy.POWER_SAVING,
        max_free_memory_for_over_utilized_bytes=2,
        min_free_memory_for_under_utilized_bytes=2,
    )
    place().when(limits).refused(InvalidField, "at once")


def test_what_is_removed_is_not_found_any_more() -> None:
    gone = place().when(RemoveCluster(id=CLUSTER)).follows()
    gone.when(RemoveCluster(id=CLUSTER)).refused(NotFound, CLUSTER)
    gone = gone.when(RemoveDataCenter(id=DATA_CENTER)).follows()
    for command in (
        RemoveDataCenter(id=DATA_CENTER),
        UpdateDataCenter(id=DATA_CENTER, name="Brno"),
        CreateCluster(name="West", data_center=DATA_CENTER),
    ):
        gone.when(command).refused(NotFound, DATA_CENTER)


def test_removal_says_what_is_removed() -> None:
    place().when(RemoveCluster(id=CLUSTER)).then(
        ClusterRemoved(name="Default", data_center=DATA_CENTER)
    )
    place().when(RemoveDataCenter(id=DATA_CENTER)).then(DataCenterRemoved(name="Default"))


@pytest.mark.parametrize(
    "command",
    [
        RemoveCluster(id=NOBODY),
        ScheduleCluster(id=NOBODY, policy=SchedulingPolicy.NONE),
        RemoveDataCenter(id=NOBODY),
        UpdateDataCenter(id=NOBODY, name="x"),
        CreateCluster(name="x", data_center=NOBODY),
        CancelOperation(id=NOBODY),
    ],
)
def test_what_never_was_is_not_found(command: Command) -> None:
    place().when(command).refused(NotFound, NOBODY)


def _operation(*, cancellable: bool = True) -> tuple[str, OperationStarted]:
    started = OperationStarted(
        kind="vm.start", target="vm/1", name="web01", steps=("place",), cancellable=cancellable
    )
    return f"operation/{STARTING}", started


def test_an_operation_is_cancelled_once() -> None:
    when = given(_operation()).when(CancelOperation(id=STARTING))
    when.then(OperationCancelRequested())
    when.follows().when(CancelOperation(id=STARTING)).then_nothing()


def test_an_operation_that_cannot_be_cancelled_says_so() -> None:
    given(_operation(cancellable=False)).when(CancelOperation(id=STARTING)).refused(
        WrongState, "vm.start of web01 cannot be cancelled"
    )


def test_an_operation_that_has_ended_is_not_cancelled() -> None:
    ended = OperationEnded(kind="vm.start", target="vm/1", name="web01", outcome=Outcome.FAILED)
    given(_operation(), (f"operation/{STARTING}", ended)).when(
        CancelOperation(id=STARTING)
    ).refused(WrongState, "has failed")
