"""Events of clusters: stream `cluster/<id>`."""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from events.claims import Claim, exclusive, release, shared, swapped
from events.types.base import Audit, Event, event
from events.types.cluster_requirements import FirewallType, Requirements
from events.types.run_spec import SerialNumber
from events.types.scheduling_units import FilterUnit, Selector, WeightFactor


def name_key(data_center: str, name: str) -> str:
    """Return the claim key of a cluster's name, unique within its data center."""
    return f"cluster.name/{data_center}/{name.casefold()}"


def _key(kind: str, object_id: str | None) -> str | None:
    return None if object_id is None else f"{kind}/{object_id}"


class SchedulingPolicy(enum.StrEnum):
    """How a cluster's VMs are spread over its hosts, in oVirt's words."""

    NONE = "none"
    EVENLY_DISTRIBUTED = "evenly_distributed"
    POWER_SAVING = "power_saving"
    VM_EVENLY_DISTRIBUTED = "vm_evenly_distributed"
    CLUSTER_MAINTENANCE = "cluster_maintenance"


class Scheduling(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduling policy and its parameters: oVirt's HighUtilization, VCpuToPhysicalCpuRatio,
    MaxFreeMemoryForOverUtilized, MinFreeMemoryForUnderUtilized, LowUtilization,
    CpuOverCommitDurationMinutes, HighVmCount, MigrationThreshold, ScaleDown,
    EnableAutomaticHostPowerManagement, HostsInReserve and MaximumAllowedSwapUsage.

    A host's CPU load is measured, or what its VMs are reckoned to take, in percent. A ratio of 0
    sets no limit.

    A cluster with a policy of somebody's own has its id as `custom`; of the parameters those count
    that it has itself (`own`), and else the policy's. `filters`, `weights` and `selector` are those
    of such a policy; without them, and without `custom`, the built-in `policy` has its usual ones.
    """

    policy: SchedulingPolicy = SchedulingPolicy.NONE
    high_utilization_percent: int = 80
    vcpu_to_physical_cpu_ratio: float = 0.0
    max_free_memory_for_over_utilized_bytes: int | None = None
    min_free_memory_for_under_utilized_bytes: int | None = None
    low_utilization_percent: int = 20
    cpu_over_commit_duration_minutes: int = 2
    high_vm_count: int = 10
    migration_threshold: int = 5
    scale_down: int = 1
    automatic_host_power_management: bool = False
    hosts_in_reserve: int = 0
    maximum_allowed_swap_usage_percent: int = 0
    custom: str | None = None
    own: tuple[str, ...] = ()
    filters: tuple[FilterUnit, ...] | None = None
    weights: tuple[WeightFactor, ...] | None = None
    selector: Selector = Selector.RANK


@event("cluster.created")
class ClusterCreated(Event, frozen=True, kw_only=True):
    """A cluster came to be; its VMs get this CPU model and exact machine type."""

    name: str
    data_center: str
    description: str = ""
    architecture: str
    cpu_model: str
    machine_type: str
    compatibility_version: str
    requirements: Requirements = Requirements()
    serial_number: SerialNumber = SerialNumber()
    mac_pool: str | None = None
    firewall_type: FirewallType = FirewallType.AUTO

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=809, name="USER_ADD_CLUSTER", message="Cluster {name} was created by {actor}."),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the name; keep the data center and the MAC pool from being removed."""
        pools = () if self.mac_pool is None else (f"mac_pool/{self.mac_pool}",)
        return (
            exclusive(name_key(self.data_center, self.name), stream),
            shared(f"data_center/{self.data_center}", stream),
            *(shared(pool, stream) for pool in pools),
        )


@event("cluster.updated")
class ClusterUpdated(Event, frozen=True, kw_only=True):
    """What the cluster asks of its hosts, and gives to VMs that start from now on, is this.

    Without a `mac_pool` its NICs get their addresses of the default pool. With a `previous_name` it
    was renamed, within its `data_center`.
    """

    name: str
    description: str
    cpu_model: str
    machine_type: str
    compatibility_version: str
    requirements: Requirements
    serial_number: SerialNumber = SerialNumber()
    mac_pool: str | None = None
    previous_mac_pool: str | None = None
    previous_name: str | None = None
    data_center: str = ""
    firewall_type: FirewallType = FirewallType.AUTO

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=811,
            name="USER_UPDATE_CLUSTER",
            message="Cluster {name} was updated by {actor}: CPU model {cpu_model}, machine type"
            " {machine_type}, compatibility version {compatibility_version}.",
        ),
        Audit(
            code=811,
            name="USER_UPDATE_CLUSTER",
            message="Cluster {previous_name} was updated by {actor}; its name is {name}: CPU model"
            " {cpu_model}, machine type {machine_type}, compatibility version"
            " {compatibility_version}.",
        ),
    )

    def audit(self) -> Audit:
        """Return the record that also tells the former name where there is one."""
        return self.audits[0 if self.previous_name is None else 1]

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Swap the old name and MAC pool for the new ones."""
        old, new = (_key("mac_pool", pool) for pool in (self.previous_mac_pool, self.mac_pool))
        pools = swapped(old, new, stream)
        if self.previous_name is None:
            return pools
        former = name_key(self.data_center, self.previous_name)
        name = name_key(self.data_center, self.name)
        return (*swapped(former, name, stream, exclusive), *pools)


@event("cluster.scheduling_set")
class ClusterSchedulingSet(Event, frozen=True, kw_only=True):
    """From now on the cluster's VMs are placed by this policy, with these parameters."""

    name: str
    scheduling: Scheduling
    previous_custom: str | None = None

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=9912,
            name="USER_UPDATE_CLUSTER_POLICY",
            message="The scheduling policy of cluster {name} was set to {scheduling.policy}"
            " by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Keep a policy of somebody's own from being removed; let go of the one before."""
        policies = (self.previous_custom, self.scheduling.custom)
        old, new = (_key("scheduling_policy", policy) for policy in policies)
        return swapped(old, new, stream)


@event("cluster.affinity_groups_listed")
class ClusterAffinityGroupsListed(Event, frozen=True, kw_only=True):
    """The cluster has these affinity groups now: a decision about one looks at all of them."""

    name: str
    groups: tuple[str, ...]


@event("cluster.removed")
class ClusterRemoved(Event, frozen=True, kw_only=True):
    """A cluster is gone; its name is free again."""

    name: str
    data_center: str
    scheduling_policy: str | None = None
    mac_pool: str | None = None

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=813, name="USER_REMOVE_CLUSTER", message="Cluster {name} was removed by {actor}."
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Free name, data center and MAC pool; nobody may refer to the cluster any more."""
        policy = self.scheduling_policy
        return (
            *((release(f"scheduling_policy/{policy}", stream),) if policy else ()),
            *((release(f"mac_pool/{self.mac_pool}", stream),) if self.mac_pool else ()),
            release(name_key(self.data_center, self.name), stream),
            release(f"data_center/{self.data_center}", stream),
            exclusive(stream, stream),
        )
