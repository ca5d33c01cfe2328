"""The state of a cluster."""

from __future__ import annotations

import datetime as dt

import msgspec

from commands.kernel.fold import Fold
from commands.state import cluster_balance
from commands.state.cluster_balance import BalanceState
from events.envelope import Recorded
from events.types.balancing import ClusterResourcesSet, Resources
from events.types.cluster import (
    ClusterAffinityGroupsListed,
    ClusterCreated,
    ClusterRemoved,
    ClusterSchedulingSet,
    ClusterUpdated,
    Scheduling,
)
from events.types.cluster_requirements import FirewallType, Requirements
from events.types.host_power import (
    ClusterFencingHeld,
    ClusterFencingResumed,
    ClusterFencingSet,
    FencingPolicy,
)
from events.types.migration import ClusterMigrationSettings
from events.types.migration_settings import ClusterMigrationSet
from events.types.run_spec import SerialNumber


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster, as decisions see it.

    `affinity_groups` are the ids of its groups. Without a `mac_pool` it uses the default one.

    `fencing_held`: so many of its hosts are lost that none is fenced; `fencing_resumed_at` is when
    that was last over.
    """

    id: str
    name: str
    data_center: str
    architecture: str
    cpu_model: str
    machine_type: str
    description: str = ""
    compatibility_version: str = ""
    requirements: Requirements = Requirements()
    serial_number: SerialNumber = SerialNumber()
    mac_pool: str | None = None
    firewall_type: FirewallType = FirewallType.AUTO
    configuration_version: int = 1
    scheduling: Scheduling = Scheduling()
    affinity_groups: tuple[str, ...] = ()
    resources: Resources = Resources()
    balance: BalanceState = BalanceState()
    fencing: FencingPolicy = FencingPolicy()
    migration: ClusterMigrationSettings = ClusterMigrationSettings()
    fencing_held: bool = False
    fencing_resumed_at: dt.datetime | None = None
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
            description=event.description,
            compatibility_version=event.compatibility_version,
            requirements=event.requirements,
            serial_number=event.serial_number,
            mac_pool=event.mac_pool,
            firewall_type=event.firewall_type,
        )
    if state is not None and isinstance(event, ClusterUpdated):
        return msgspec.structs.replace(
            state,
            name=event.name,
            description=event.description,
            cpu_model=event.cpu_model,
            machine_type=event.machine_type,
            compatibility_version=event.compatibility_version,
            requirements=event.requirements,
            serial_number=event.serial_number,
            mac_pool=event.mac_pool,
            firewall_type=event.firewall_type,
            configuration_version=state.configuration_version + 1,
        )
    if state is not None and isinstance(event, ClusterSchedulingSet):
        return msgspec.structs.replace(state, scheduling=event.scheduling)
    if state is not None and isinstance(event, ClusterMigrationSet):
        return msgspec.structs.replace(state, migration=event.migration)
    if state is not None and isinstance(event, ClusterFencingSet):
        return msgspec.structs.replace(state, fencing=event.fencing)
    if state is not None and isinstance(event, ClusterFencingHeld | ClusterFencingResumed):
        held = isinstance(event, ClusterFencingHeld)
        resumed_at = None if held else recorded.time
        return msgspec.structs.replace(state, fencing_held=held, fencing_resumed_at=resumed_at)
    if state is not None and isinstance(event, ClusterAffinityGroupsListed):
        return msgspec.structs.replace(state, affinity_groups=event.groups)
    if state is not None and isinstance(event, ClusterResourcesSet):
        return msgspec.structs.replace(state, resources=event.resources)
    if state is not None and isinstance(event, ClusterRemoved):
        return msgspec.structs.replace(state, removed=True)
    if state is None:
        return None
    balance = cluster_balance.after(state.balance, event)
    same = balance is state.balance
    return state if same else msgspec.structs.replace(state, balance=balance)


CLUSTER = Fold("cluster", ClusterState, evolve)
