"""The scheduling policies: which weights count under each, and how much (oVirt's RankSelector).

Units of oVirt's policies that are not here, since what they look at does not exist yet: HA and
HostedEngineSpares (the engine does not run in a VM of its own), Swap (swap is measured, and no
measurement is an event), CPUTopology (it is about dedicated CPUs), HostDevice and MDevice (no host
devices in a VM's configuration), "VM leases ready" (no storage domains), Host-hooks,
Compatibility-Version (one version), nor the InClusterUpgrade pair (no cluster upgrades yet). The
balancers are in `balance.py`.
"""

from __future__ import annotations

import msgspec

from commands.scheduler.tuning import HIGH_PERFORMANCE, PINNING
from commands.scheduler.units import Weight
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
from events.types.cluster import SchedulingPolicy


class Weighted(msgspec.Struct, frozen=True, kw_only=True):
    """A weight and its factor."""

    weight: Weight
    factor: int


_OF_ALL = (
    Weighted(weight=PREFERRED, factor=99),
    Weighted(weight=HA_RESERVATION, factor=1),
    Weighted(weight=VM_AFFINITY, factor=1),
    Weighted(weight=HOST_AFFINITY, factor=20),
    Weighted(weight=HIGH_PERFORMANCE, factor=4),
    Weighted(weight=PINNING, factor=5),
)
_EVEN = (Weighted(weight=EVEN_CPU, factor=2), Weighted(weight=EVEN_MEMORY, factor=1), *_OF_ALL)

POLICIES: dict[SchedulingPolicy, tuple[Weighted, ...]] = {
    SchedulingPolicy.NONE: _EVEN,
    SchedulingPolicy.CLUSTER_MAINTENANCE: _EVEN,
    SchedulingPolicy.EVENLY_DISTRIBUTED: _EVEN,
    SchedulingPolicy.POWER_SAVING: (
        Weighted(weight=SAVING_CPU, factor=2),
        Weighted(weight=SAVING_MEMORY, factor=1),
        *_OF_ALL,
    ),
    SchedulingPolicy.VM_EVENLY_DISTRIBUTED: (Weighted(weight=EVEN_GUESTS, factor=2), *_OF_ALL),
}
"""The weights of each policy, with oVirt's factors."""
