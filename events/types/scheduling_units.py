"""What a scheduling policy of one's own is made of, by oVirt's names."""

from __future__ import annotations

import enum

import msgspec


class FilterUnit(enum.StrEnum):
    """Filters that a policy may leave out; all others are in each policy."""

    CPU = "CPU"
    CPU_OVERLOADED = "CPUOverloaded"
    CLUSTER_IN_MAINTENANCE = "ClusterInMaintenance"
    EMULATED_MACHINE = "Emulated-Machine"
    HUGE_PAGES = "HugePages"
    MEMORY = "Memory"
    MIGRATION_TSC_FREQUENCY = "Migration-Tsc-Frequency"
    NETWORK = "Network"
    NUMA = "NUMA"
    SWAP = "Swap"
    VM_AFFINITY_GROUPS = "VmAffinityGroups"
    VM_TO_HOSTS_AFFINITY_GROUPS = "VmToHostsAffinityGroups"


class WeightUnit(enum.StrEnum):
    """Weights that a policy may have, each with a factor."""

    EVEN_CPU = "OptimalForCpuEvenDistribution"
    EVEN_MEMORY = "OptimalForMemoryEvenDistribution"
    EVEN_GUESTS = "OptimalForEvenGuestDistribution"
    SAVING_CPU = "OptimalForCpuPowerSaving"
    SAVING_MEMORY = "OptimalForMemoryPowerSaving"
    PREFERRED_HOSTS = "PreferredHosts"
    HA_RESERVATION = "OptimalForHaReservation"
    VM_AFFINITY_GROUPS = "VmAffinityGroups"
    VM_TO_HOSTS_AFFINITY_GROUPS = "VmToHostsAffinityGroups"
    HIGH_PERFORMANCE = "CPU for high performance VMs"
    PINNING = "CPU and NUMA pinning compatibility"
    ONE_NODE = "Fit VM to single host NUMA node"


class Selector(enum.StrEnum):
    """How a policy's weights come to a choice: by the hosts' ranks, or as they are."""

    RANK = "RankSelector"
    BASIC_WEIGHTING = "BasicWeighting"


class WeightFactor(msgspec.Struct, frozen=True, kw_only=True):
    """A weight of a policy, and how much it counts."""

    unit: WeightUnit
    factor: int = 1
