"""Choose how a cluster's VMs are placed on its hosts."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound
from commands.state import lookup
from events.types.cluster import ClusterSchedulingSet, Scheduling, SchedulingPolicy

_MEMORY_BYTES_MAX = 2**50
Percent = Annotated[
    int,
    msgspec.Meta(
        ge=50,
        le=99,
        description="Hosts whose VMs are reckoned to take more than this share of their CPUs get"
        " no more; 80 if not given.",
    ),
]
Ratio = Annotated[
    float,
    msgspec.Meta(
        ge=0,
        lt=3,
        description="Hosts with more virtual CPUs for each CPU are chosen last; 0 sets no limit.",
    ),
]
LeastFree = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=_MEMORY_BYTES_MAX,
        description="A host with less free memory is over-utilized: it is chosen last.",
    ),
]
MostFree = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=_MEMORY_BYTES_MAX,
        description="A host with more free memory is under-utilized: it is chosen last.",
    ),
]
LowPercent = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=49,
        description="Hosts whose VMs are reckoned to take less than this share of their CPUs are"
        " under-used, and emptied where all their VMs fit elsewhere; 20 if not given.",
    ),
]
Minutes = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=1_440,
        description="Balancing by itself waits until hosts have been over- or under-used for so"
        " long; 2 if not given.",
    ),
]
VmCount = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=10_000,
        description="Only a host with at least so many VMs is relieved of some; 10 if not given.",
    ),
]
Threshold = Annotated[
    int,
    msgspec.Meta(
        ge=2,
        le=10_000,
        description="VMs are moved while the counts of two hosts differ by at least so many; 5 if"
        " not given.",
    ),
]
ScaleDown = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=100,
        description="How much less than other weights the spreading of highly available VMs"
        " counts; 1 if not given.",
    ),
]
PowerManagement = Annotated[
    bool,
    msgspec.Meta(
        description="With automatic balancing, hosts that run nothing are turned off, and turned on"
        " again when more than those in reserve are needed.",
    ),
]
Reserve = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=1_000,
        description="So many hosts that run nothing are kept up; 0 if not given.",
    ),
]
_EVENLY, _SAVING = SchedulingPolicy.EVENLY_DISTRIBUTED, SchedulingPolicy.POWER_SAVING
_BY_COUNT = SchedulingPolicy.VM_EVENLY_DISTRIBUTED
_POLICIES_OF = {
    "vcpu_to_physical_cpu_ratio": (_EVENLY,),
    "max_free_memory_for_over_utilized_bytes": (_EVENLY, _SAVING),
    "min_free_memory_for_under_utilized_bytes": (_EVENLY, _SAVING),
    "low_utilization_percent": (_SAVING,),
    "automatic_host_power_management": (_SAVING,),
    "hosts_in_reserve": (_SAVING,),
    "high_vm_count": (_BY_COUNT,),
    "migration_threshold": (_BY_COUNT,),
}
"""The parameters that not every policy has, with the policies that have them."""


@command(
    "cluster.schedule",
    path="/v1/clusters/{id}/scheduling",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="cluster schedule",
    refusals=(NotFound, InvalidField),
)
class ScheduleCluster(Command, frozen=True, kw_only=True):
    """Choose how a cluster's VMs are placed on its hosts.

    Parameters that are not given get the policy's defaults. It counts from the next start on; what
    runs is moved by balancing alone. vcpu_to_physical_cpu_ratio belongs to evenly_distributed, the
    two limits of free memory to it and power_saving; low_utilization_percent,
    automatic_host_power_management and hosts_in_reserve to power_saving; high_vm_count and
    migration_threshold to vm_evenly_distributed. In cluster_maintenance no VM starts.
    """

    id: Id
    policy: SchedulingPolicy
    high_utilization_percent: Percent | None = None
    vcpu_to_physical_cpu_ratio: Ratio | None = None
    max_free_memory_for_over_utilized_bytes: LeastFree | None = None
    min_free_memory_for_under_utilized_bytes: MostFree | None = None
    low_utilization_percent: LowPercent | None = None
    cpu_over_commit_duration_minutes: Minutes | None = None
    high_vm_count: VmCount | None = None
    migration_threshold: Threshold | None = None
    scale_down: ScaleDown | None = None
    automatic_host_power_management: PowerManagement | None = None
    hosts_in_reserve: Reserve | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Set it; no event where it is so already."""
        del context
        state = lookup.cluster(world, self.id)
        self._refuse_parameters_of_others()
        wanted = Scheduling(policy=self.policy)
        given = {
            name: value
            for name in self.__struct_fields__
            if name not in {"id", "policy"} and (value := getattr(self, name)) is not None
        }
        wanted = msgspec.structs.replace(wanted, **given)
        if wanted == state.scheduling:
            return Decision.of(self.id)
        changed = ClusterSchedulingSet(name=state.name, scheduling=wanted)
        return Decision.of(self.id, *on(f"cluster/{self.id}", changed))

    def _refuse_parameters_of_others(self) -> None:
        for name, policies in _POLICIES_OF.items():
            if self.policy not in policies and getattr(self, name) is not None:
                owners = " and ".join(policies)
                raise InvalidField(
                    f"{name} is a parameter of policy {owners}, not of {self.policy}.",
                    remedy="Leave it out.",
                    field=name,
                )
        low = self.max_free_memory_for_over_utilized_bytes
        high = self.min_free_memory_for_under_utilized_bytes
        if low is not None and high is not None and low >= high:
            raise InvalidField(
                "A host would be over-utilized and under-utilized at once.",
                remedy="Let max_free_memory_for_over_utilized_bytes be less than"
                " min_free_memory_for_under_utilized_bytes.",
                field="max_free_memory_for_over_utilized_bytes",
            )
