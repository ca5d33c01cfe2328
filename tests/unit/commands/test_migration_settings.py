"""Who may have a VM moved, and what is set of how that is done."""

from __future__ import annotations

import pytest

from commands.cluster.migration import SetClusterMigration
from commands.kernel.command import Context, Decision
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state.cluster import CLUSTER as CLUSTER_FOLD
from commands.state.migration_input import MigrationInput
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm
from commands.vm.migrate import MigrateVm, request
from commands.vm.migration import SetVmMigration
from events.types.migration import (
    ClusterMigrationSettings,
    MigrationMode,
    MigrationPolicy,
    Tuning,
    VmMigrationSettings,
    tuning_of,
)
from events.types.migration_settings import ClusterMigrationSet, VmMigrationSet
from events.types.vm_migration import MigrationCause, VmMigrationRequested
from tests.unit.commands.samples import CLUSTER, NOBODY, VM_ID, place, vm

MIB = 1024 * 1024


def set_to(**settings: object) -> VmMigrationSet:
    migration = VmMigrationSettings(**settings)  # type: ignore[arg-type]
    return VmMigrationSet(name="web01", migration=migration)


def test_what_is_not_given_is_as_by_default_again() -> None:
    slow = vm(VmStatus.UP).when(SetVmMigration(id=VM_ID, bandwidth_bytes_per_s=8 * MIB))
    slow.then(set_to(bandwidth_bytes_per_s=8 * MIB))
    before = vm(VmStatus.UP, set_to(bandwidth_bytes_per_s=8 * MIB))
    before.when(SetVmMigration(id=VM_ID, mode=MigrationMode.MANUAL, priority=7)).then(
        set_to(mode=MigrationMode.MANUAL, priority=7)
    )


def test_what_is_set_already_is_no_event() -> None:
    vm(VmStatus.UP).when(SetVmMigration(id=VM_ID)).then_nothing()
    place().when(SetClusterMigration(id=CLUSTER)).then_nothing()


def test_what_is_being_removed_is_not_set() -> None:
    vm(VmStatus.REMOVING).when(SetVmMigration(id=VM_ID)).refused(WrongState, "web01")
    place().when(SetClusterMigration(id=NOBODY)).refused(NotFound)


def test_a_cluster_keeps_what_was_set() -> None:
    wanted = ClusterMigrationSettings(policy=MigrationPolicy.POST_COPY, outgoing_max=5)
    command = SetClusterMigration(id=CLUSTER, policy=MigrationPolicy.POST_COPY, outgoing_max=5)
    changed = ClusterMigrationSet(name="Default", migration=wanted)
    place().when(command).then(changed)
    state = place().and_then((f"cluster/{CLUSTER}", changed)).state(CLUSTER_FOLD, CLUSTER)
    assert state is not None
    assert state.migration == wanted


def test_a_vm_is_created_with_its_mode() -> None:
    made = place().when(
        CreateVm(name="web02", cluster=CLUSTER, migration=MigrationInput(mode=MigrationMode.NONE))
    )
    assert made.event(VmMigrationSet).migration.mode is MigrationMode.NONE


def test_what_may_not_be_migrated_is_refused_with_the_reason() -> None:
    pinned = vm(VmStatus.UP, set_to(mode=MigrationMode.NONE))
    pinned.when(MigrateVm(id=VM_ID)).refused(WrongState, "may not be migrated")


class Moved(MigrateVm, frozen=True, kw_only=True):
    """A policy's request."""

    def decide(self, world: World, context: Context) -> Decision:
        return request(world, context, self.id, cause=MigrationCause.BALANCING)


@pytest.mark.parametrize("mode", list(MigrationMode))
def test_policies_move_only_what_may_be_moved_by_itself(mode: MigrationMode) -> None:
    asked = vm(VmStatus.UP, set_to(mode=mode)).when(Moved(id=VM_ID))
    if mode is MigrationMode.AUTOMATIC:
        assert asked.event(VmMigrationRequested).cause is MigrationCause.BALANCING
    else:
        asked.refused(WrongState, "migrated")


def test_people_move_what_is_for_people_only() -> None:
    manual = vm(VmStatus.UP, set_to(mode=MigrationMode.MANUAL))
    asked = manual.when(MigrateVm(id=VM_ID)).event(VmMigrationRequested)
    assert asked.cause is MigrationCause.REQUESTED


def test_a_vm_goes_by_its_cluster_where_it_has_nothing_of_its_own() -> None:
    cluster = ClusterMigrationSettings(
        policy=MigrationPolicy.SUSPEND_WORKLOAD, bandwidth_bytes_per_s=50 * MIB
    )
    assert tuning_of(VmMigrationSettings(), cluster) == Tuning(
        policy=MigrationPolicy.SUSPEND_WORKLOAD, bandwidth_bytes_per_s=50 * MIB
    )
    own = VmMigrationSettings(
        policy=MigrationPolicy.POST_COPY, down_time_ms=40, bandwidth_bytes_per_s=90 * MIB
    )
    assert tuning_of(own, cluster) == Tuning(
        policy=MigrationPolicy.POST_COPY, down_time_ms=40, bandwidth_bytes_per_s=50 * MIB
    )
