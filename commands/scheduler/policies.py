"""Which filters and weights count under a scheduling policy.

Units of oVirt's policies that are not here, since what they look at does not exist yet: HA and
HostedEngineSpares (the engine does not run in a VM of its own), HostDevice and MDevice (no host
devices in a VM's configuration), "VM leases ready" (no storage domains), Host-hooks,
Compatibility-Version (one version), nor the InClusterUpgrade pair (no cluster upgrades yet). The
balancers are in `balance.py`.
"""

from __future__ import annotations

import functools

import msgspec

from commands.scheduler.columns import Columns, Mask
from commands.scheduler.filters import FILTERS
from commands.scheduler.need import Candidate, Need
from commands.scheduler.tuning import HIGH_PERFORMANCE, ONE_NODE, PINNING
from commands.scheduler.units import Filter, Weight
from commands.scheduler.weights import (
    EVEN_CPU,
    EVEN_GUESTS,
    EVEN_MEMORY,
    HA_RESERVATION,
    HOST_AFFINITY,
    PREFERRED,
    SAVING_CPU,
    SAVING_MEMORY,
    VM_AFFINITY,
)
from commands.state.scheduling_policy import WEIGHTS
from events.types.cluster import Scheduling
from events.types.scheduling_units import FilterUnit, WeightFactor

_OPTIONAL = frozenset(unit.value for unit in FilterUnit)
_BY_NAME = {
    weight.name: weight
    for weight in (
        *(EVEN_CPU, EVEN_MEMORY, EVEN_GUESTS, SAVING_CPU, SAVING_MEMORY, PREFERRED),
        *(HA_RESERVATION, VM_AFFINITY, HOST_AFFINITY, HIGH_PERFORMANCE, PINNING, ONE_NODE),
    )
}
POLICIES_MAX = 256
"""So many different lists of units are kept ready."""


class Weighted(msgspec.Struct, frozen=True, kw_only=True):
    """A weight and its factor."""

    weight: Weight
    factor: int


def weights_of(scheduling: Scheduling) -> tuple[Weighted, ...]:
    """Return a policy's weights with their factors."""
    chosen = scheduling.weights
    return _weighted(WEIGHTS[scheduling.policy] if chosen is None else chosen)


def filters_of(scheduling: Scheduling) -> tuple[Filter, ...]:
    """Return the filters that count under a policy: those it names, and all that each one has."""
    return FILTERS if scheduling.filters is None else _filtering(scheduling.filters)


def objections(need: Need, candidate: Candidate) -> tuple[str, ...]:
    """Return every reason why a host cannot take it; none where it can."""
    filters = filters_of(need.scheduling)
    found = (each.objection(need, candidate) for each in filters)
    return tuple(reason for reason in found if reason is not None)


def passing(need: Need, columns: Columns) -> Mask:
    """Return which hosts every filter lets through."""
    mask = columns.up
    for each in filters_of(need.scheduling)[1:]:
        found = each.passing(need, columns)
        if found is not None:
            mask = mask & found
    return mask


@functools.lru_cache(POLICIES_MAX)
def _weighted(factors: tuple[WeightFactor, ...]) -> tuple[Weighted, ...]:
    return tuple(Weighted(weight=_BY_NAME[each.unit.value], factor=each.factor) for each in factors)


@functools.lru_cache(POLICIES_MAX)
def _filtering(units: tuple[FilterUnit, ...]) -> tuple[Filter, ...]:
    chosen = {unit.value for unit in units}
    return tuple(each for each in FILTERS if each.name not in _OPTIONAL or each.name in chosen)
