"""What admins say of how VMs are placed: the parameters of scheduling policies, and their units."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec

from commands.kernel.refusal import InvalidField
from events.types.cluster import Scheduling, SchedulingPolicy
from events.types.scheduling_units import FilterUnit, Selector, WeightFactor, WeightUnit

_MEMORY_BYTES_MAX = 2**50
Percent = Annotated[
    int,
    msgspec.Meta(
        ge=50,
        le=99,
        description="Hosts whose CPUs are busy to more than this percentage for"
        " cpu_over_commit_duration_minutes get no more VMs; 80 if not given. Where that is not"
        " measured, those whose VMs are reckoned to take more.",
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
        description="A host with less free memory is over-utilized: balancing relieves it, and"
        " power_saving chooses it last.",
    ),
]
MostFree = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=_MEMORY_BYTES_MAX,
        description="A host with more free memory is under-utilized: power_saving chooses it last,"
        " and may empty it; evenly_distributed relieves hosts that lack memory to such hosts"
        " alone.",
    ),
]
LowPercent = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=49,
        description="Hosts whose CPUs are busy to less than this percentage are under-used, and"
        " emptied where all their VMs fit elsewhere; 20 if not given. Where that is not measured,"
        " those whose VMs are reckoned to take less.",
    ),
]
Minutes = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=1_440,
        description="Hosts that were measured to be too busy in each of so many minutes (in 15 at"
        " most) get no more VMs, and balancing by itself waits until hosts have been over- or"
        " under-used for so long; 2 if not given.",
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
SwapUsage = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=199,
        description="A host gets no more VMs while what it has swapped out exceeds its free memory"
        " by more than this share of its memory; 0 if not given.",
    ),
]
_EVENLY, _SAVING = SchedulingPolicy.EVENLY_DISTRIBUTED, SchedulingPolicy.POWER_SAVING
_BY_COUNT = SchedulingPolicy.VM_EVENLY_DISTRIBUTED
POLICIES_OF = {
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


PARAMETERS = frozenset(
    {
        *POLICIES_OF,
        "high_utilization_percent",
        "cpu_over_commit_duration_minutes",
        "scale_down",
        "maximum_allowed_swap_usage_percent",
    }
)
"""All parameters, by the names of their fields."""
FACTOR_MAX = 1_000


class WeightInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A weight, by oVirt's name, and how much it counts."""

    unit: WeightUnit
    factor: Annotated[int, msgspec.Meta(ge=1, le=FACTOR_MAX)] = 1


Filters = Annotated[tuple[FilterUnit, ...], msgspec.Meta(max_length=len(FilterUnit))]
Weights = Annotated[tuple[WeightInput, ...], msgspec.Meta(max_length=len(WeightUnit))]


class Balancer(enum.StrEnum):
    """The balancers, by the built-in policies that have them."""

    NONE = "none"
    EVENLY_DISTRIBUTED = "evenly_distributed"
    POWER_SAVING = "power_saving"
    VM_EVENLY_DISTRIBUTED = "vm_evenly_distributed"


def given(command: msgspec.Struct) -> dict[str, Any]:
    """Return the parameters that a command gives, by their names."""
    return {
        name: value
        for name in command.__struct_fields__
        if name in PARAMETERS and (value := getattr(command, name)) is not None
    }


def require_parameters_of(policy: SchedulingPolicy, parameters: dict[str, Any]) -> None:
    """Refuse parameters that a policy, or its balancer, does not look at."""
    for name, policies in POLICIES_OF.items():
        if policy not in policies and name in parameters:
            owners = " and ".join(policies)
            raise InvalidField(
                f"{name} is a parameter of policy {owners}, not of {policy}.",
                remedy="Leave it out.",
                field=name,
            )


def require_limits(wanted: Scheduling) -> Scheduling:
    """Return it; refuse limits by which a host would be over-utilized and under-utilized."""
    low = wanted.max_free_memory_for_over_utilized_bytes
    high = wanted.min_free_memory_for_under_utilized_bytes
    if low is not None and high is not None and low >= high:
        raise InvalidField(
            "A host would be over-utilized and under-utilized at once.",
            remedy="Let max_free_memory_for_over_utilized_bytes be less than"
            " min_free_memory_for_under_utilized_bytes.",
            field="max_free_memory_for_over_utilized_bytes",
        )
    return wanted


def factors(weights: tuple[WeightInput, ...]) -> tuple[WeightFactor, ...]:
    """Return weights in the order of their names; raises InvalidField where one is there twice."""
    units = [each.unit for each in weights]
    if len(set(units)) < len(units):
        raise InvalidField(
            "A weight is there twice.", remedy="Give each its factor once.", field="weights"
        )
    return tuple(
        WeightFactor(unit=each.unit, factor=each.factor)
        for each in sorted(weights, key=lambda each: each.unit.value)
    )


def with_units(
    model: Scheduling,
    balancer: Balancer | None,
    filters: tuple[FilterUnit, ...] | None,
    weights: tuple[WeightInput, ...] | None,
    selector: Selector | None,
    parameters: dict[str, Any],
) -> Scheduling:
    """Return a policy with what is given in the place of what its model has.

    With another balancer than the model's, the parameters of that one get their defaults.
    """
    policy = model.policy if balancer is None else SchedulingPolicy(balancer)
    require_parameters_of(policy, parameters)
    kept = {
        name: getattr(model, name)
        for name in PARAMETERS
        if policy in POLICIES_OF.get(name, (policy,))
    }
    wanted = Scheduling(
        policy=policy,
        filters=model.filters if filters is None else _in_order(filters),
        weights=model.weights if weights is None else factors(weights),
        selector=model.selector if selector is None else selector,
    )
    return require_limits(msgspec.structs.replace(wanted, **{**kept, **parameters}))


def _in_order(filters: tuple[FilterUnit, ...]) -> tuple[FilterUnit, ...]:
    return tuple(sorted(set(filters), key=lambda unit: unit.value))
