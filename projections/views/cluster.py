"""The inventory's view of clusters."""

from __future__ import annotations

import msgspec

from events.envelope import Recorded
from events.types import cluster as e
from events.types import host_power as p
from events.types.balancing import (
    Balancing,
    ClusterBalanceEnded,
    ClusterBalanceMoveSettled,
    Resources,
)
from events.types.cluster_requirements import FirewallType, Requirements
from events.types.mac_pool import DEFAULT_POOL
from events.types.migration import ClusterMigrationSettings
from events.types.run_spec import SerialNumber
from projections.views import migration
from projections.views.balancing import CHANGES as OF_BALANCING
from projections.views.balancing import Plan, RestingHost
from projections.views.data_center import HostCounts
from projections.views.parts import (
    Changes,
    Counts,
    Link,
    OperationInProgress,
    Reference,
    Time,
    View,
)


class ClusterDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A cluster as the API shows it. `scheduling` says how its VMs are placed on its hosts.

    `proposal` are moves of VMs that would make things better, and that nobody was asked to make.

    `fencing` says whether its hosts are fenced; `fencing_held`: so many are lost that none is.
    """

    id: str
    name: str
    description: str
    data_center: Reference
    architecture: str
    cpu_model: str
    machine_type: str
    compatibility_version: str
    requirements: Requirements = Requirements()
    serial_number: SerialNumber = SerialNumber()
    mac_pool: Link = Link(id=DEFAULT_POOL)
    firewall_type: FirewallType = FirewallType.AUTO
    scheduling: e.Scheduling = e.Scheduling()
    resources: Resources = Resources()
    balancing: Balancing = Balancing()
    proposal: Plan | None = None
    ha_reservation_lost: str = ""
    resting_hosts: tuple[RestingHost, ...] = ()
    fencing: p.FencingPolicy = p.FencingPolicy()
    fencing_held: bool = False
    migration: ClusterMigrationSettings = ClusterMigrationSettings()
    hosts: HostCounts | None = HostCounts()
    vms: Counts | None = Counts()
    operations: tuple[OperationInProgress, ...] = ()
    configuration_version: int = 1
    version: int
    created_at: Time
    created_by: str
    updated_at: Time
    updated_by: str


def _create(event: e.ClusterCreated, recorded: Recorded) -> ClusterDocument:
    return ClusterDocument(
        id=recorded.object_id,
        name=event.name,
        description=event.description,
        # The name lies in another stream; whoever folds both fills it in.
        data_center=Reference(id=event.data_center, name=""),
        architecture=event.architecture,
        cpu_model=event.cpu_model,
        machine_type=event.machine_type,
        compatibility_version=event.compatibility_version,
        requirements=event.requirements,
        serial_number=event.serial_number,
        mac_pool=Link(id=event.mac_pool or DEFAULT_POOL),
        firewall_type=event.firewall_type,
        version=recorded.version,
        created_at=recorded.time,
        created_by=recorded.actor,
        updated_at=recorded.time,
        updated_by=recorded.actor,
    )


def _updated(document: ClusterDocument, event: e.ClusterUpdated, recorded: Recorded) -> Changes:
    return {
        "name": event.name,
        "description": event.description,
        "cpu_model": event.cpu_model,
        "machine_type": event.machine_type,
        "compatibility_version": event.compatibility_version,
        "requirements": event.requirements,
        "serial_number": event.serial_number,
        "mac_pool": Link(id=event.mac_pool or DEFAULT_POOL),
        "firewall_type": event.firewall_type,
        "configuration_version": document.configuration_version + 1,
    }


def _scheduling_set(
    document: ClusterDocument, event: e.ClusterSchedulingSet, recorded: Recorded
) -> Changes:
    return {"scheduling": event.scheduling}


def _fencing_set(
    document: ClusterDocument, event: p.ClusterFencingSet, recorded: Recorded
) -> Changes:
    return {"fencing": event.fencing}


def _fencing_held(
    document: ClusterDocument, event: p.ClusterFencingHeld, recorded: Recorded
) -> Changes:
    return {"fencing_held": True}


def _fencing_resumed(
    document: ClusterDocument, event: p.ClusterFencingResumed, recorded: Recorded
) -> Changes:
    return {"fencing_held": False}


VIEW: View[ClusterDocument] = View(
    "cluster",
    ClusterDocument,
    created=e.ClusterCreated,
    create=_create,
    changes={
        e.ClusterUpdated: _updated,
        e.ClusterSchedulingSet: _scheduling_set,
        **OF_BALANCING,
        **migration.CLUSTER_CHANGES,
        p.ClusterFencingSet: _fencing_set,
        p.ClusterFencingHeld: _fencing_held,
        p.ClusterFencingResumed: _fencing_resumed,
    },
    removed=e.ClusterRemoved,
    ignores=frozenset(
        {
            e.ClusterAffinityGroupsListed,  # the groups themselves name the cluster
            ClusterBalanceEnded,  # its operation shows it, as it does each move
            ClusterBalanceMoveSettled,
        }
    ),
)
evolve = VIEW.evolve
