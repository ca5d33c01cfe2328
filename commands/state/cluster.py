"""The state of a cluster."""

from __future__ import annotations

import msgspec

from commands.kernel.fold import Fold
from events.envelope import Recorded
from events.types.cluster import ClusterCreated, ClusterRemoved, ClusterSchedulingSet, Scheduling
from events.types.host_power import (
    ClusterFencingHeld,
    ClusterFencingResumed,
    ClusterFencingSet,
    FencingPolicy,
)
from events.types.migration import ClusterMigrationSettings
from events.types.migration_settings import ClusterMigrationSet


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster, as decisions see it.

    `fencing_held`: so many of its hosts are lost that none is fenced.
    """

    id: str
    name: str
    data_center: str
    architecture: str
    cpu_model: str
    machine_type: str
    scheduling: Scheduling = Scheduling()
    fencing: FencingPolicy = FencingPolicy()
    fencing_held: bool = False
    migration: ClusterMigrationSettings = ClusterMigrationSettings()
    removed: bool = False


def evolve(state: ClusterState | None, recorded: Recorded) -> ClusterState | None:
    """Fold one event of a cluster's stream."""
    event = recorded.event
    if isinstance(event, ClusterCreated):
        return ClusterState(
            id=recorded.object_id,
            name=event.name,
            data_center=event.data_center,
            architecture=event.architecture,
            cpu_model=event.cpu_model,
            machine_type=event.machine_type,
        )
    if state is not None and isinstance(event, ClusterSchedulingSet):
        return msgspec.structs.replace(state, scheduling=event.scheduling)
    if state is not None and isinstance(event, ClusterMigrationSet):
        return msgspec.structs.replace(state, migration=event.migration)
    if state is not None and isinstance(event, ClusterFencingSet):
        return msgspec.structs.replace(state, fencing=event.fencing)
    if state is not None and isinstance(event, ClusterFencingHeld | ClusterFencingResumed):
        held = isinstance(event, ClusterFencingHeld)
        return msgspec.structs.replace(state, fencing_held=held)
    if state is not None and isinstance(event, ClusterRemoved):
        return msgspec.structs.replace(state, removed=True)
    return state


CLUSTER = Fold("cluster", ClusterState, evolve)
