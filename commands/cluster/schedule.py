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
_PARAMETERS_OF = {
    SchedulingPolicy.EVENLY_DISTRIBUTED: ("vcpu_to_physical_cpu_ratio",),
    SchedulingPolicy.POWER_SAVING: (
        "max_free_memory_for_over_utilized_bytes",
        "min_free_memory_for_under_utilized_bytes",
    ),
}
"""The parameters that not every policy has; `high_utilization_percent` is in all of them."""


@command(
    "cluster.schedule",
    path="/v1/clusters/{id}/scheduling",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="cluster schedule",
    refusals=(NotFound, InvalidField),
)
class ScheduleCluster(Command, frozen=True, kw_only=True):
    """Choose how a cluster's VMs are placed on its hosts.

    Parameters that are not given get the policy's defaults. It counts from the next start on: what
    runs stays where it is. vcpu_to_physical_cpu_ratio belongs to evenly_distributed, the two limits
    of free memory to power_saving. In cluster_maintenance no VM starts.
    """

    id: Id
    policy: SchedulingPolicy
    high_utilization_percent: Percent | None = None
    vcpu_to_physical_cpu_ratio: Ratio | None = None
    max_free_memory_for_over_utilized_bytes: LeastFree | None = None
    min_free_memory_for_under_utilized_bytes: MostFree | None = None

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
        for policy, names in _PARAMETERS_OF.items():
            for name in names:
                if self.policy is not policy and getattr(self, name) is not None:
                    raise InvalidField(
                        f"{name} is a parameter of policy {policy}, not of {self.policy}.",
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
