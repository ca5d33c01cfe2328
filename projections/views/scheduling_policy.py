"""The inventory's view of scheduling policies of one's own."""

from __future__ import annotations

import msgspec

from events.envelope import Recorded
from events.types import scheduling_policy as e
from events.types.cluster import Scheduling, SchedulingPolicy
from events.types.scheduling_units import FilterUnit, Selector, WeightFactor
from projections.views.parts import Changes, Time, View


class Parameters(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The parameters of a scheduling policy; see `POST /v1/scheduling_policies`."""

    high_utilization_percent: int
    vcpu_to_physical_cpu_ratio: float
    max_free_memory_for_over_utilized_bytes: int | None
    min_free_memory_for_under_utilized_bytes: int | None
    low_utilization_percent: int
    cpu_over_commit_duration_minutes: int
    high_vm_count: int
    migration_threshold: int
    scale_down: int
    automatic_host_power_management: bool
    hosts_in_reserve: int
    maximum_allowed_swap_usage_percent: int


class SchedulingPolicyDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A scheduling policy as the API shows it.

    `balancer` is the built-in policy whose balancer it has. `filters` are those that may be left
    out; the others count under each policy.
    """

    id: str
    name: str
    description: str
    balancer: SchedulingPolicy
    filters: tuple[FilterUnit, ...]
    weights: tuple[WeightFactor, ...]
    selector: Selector
    parameters: Parameters
    version: int
    created_at: Time
    created_by: str
    updated_at: Time
    updated_by: str


def _said(scheduling: Scheduling) -> Changes:
    names = Parameters.__struct_fields__
    return {
        "balancer": scheduling.policy,
        "filters": scheduling.filters or (),
        "weights": scheduling.weights or (),
        "selector": scheduling.selector,
        "parameters": Parameters(**{name: getattr(scheduling, name) for name in names}),
    }


def _create(event: e.SchedulingPolicyCreated, recorded: Recorded) -> SchedulingPolicyDocument:
    return SchedulingPolicyDocument(
        id=recorded.object_id,
        name=event.name,
        description=event.description,
        version=recorded.version,
        created_at=recorded.time,
        created_by=recorded.actor,
        updated_at=recorded.time,
        updated_by=recorded.actor,
        **_said(event.scheduling),
    )


def _updated(
    document: SchedulingPolicyDocument, event: e.SchedulingPolicyUpdated, recorded: Recorded
) -> Changes:
    return {
        "name": event.name,
        "description": event.description,
        **_said(event.scheduling),
    }


VIEW: View[SchedulingPolicyDocument] = View(
    "scheduling_policy",
    SchedulingPolicyDocument,
    created=e.SchedulingPolicyCreated,
    create=_create,
    changes={e.SchedulingPolicyUpdated: _updated},
    removed=e.SchedulingPolicyRemoved,
)
