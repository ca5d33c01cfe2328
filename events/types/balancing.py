"""Events of what a cluster gives out, and of moving its VMs: on its stream `cluster/<id>`."""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from events.types.base import Audit, Event, Severity, event


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster's hosts give out.

    VMs get up to `memory_percent` of a host's memory. With `threads_as_cores` each thread of a
    core counts as a CPU, otherwise each core does. With `ha_reservation`, the highly available
    VMs of any one host are to fit on the others, and an alert says when they do not. Hosts that run
    short of memory merge equal pages with `ksm`, across NUMA nodes with `ksm_merge_across_nodes`,
    and take back from guests what these are not guaranteed with `ballooning`.
    """

    memory_percent: int = 100
    threads_as_cores: bool = True
    ha_reservation: bool = False
    ksm: bool = False
    ksm_merge_across_nodes: bool = True
    ballooning: bool = False


class BalancingMode(enum.StrEnum):
    """What is done by itself where VMs would be better off elsewhere."""

    OFF = "off"
    PROPOSE = "propose"
    AUTOMATIC = "automatic"


class Balancing(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster's VMs are moved.

    It is looked at every `interval_s`, at most `moves_max` VMs are moved by one plan, and
    `moves_at_once` of them at a time.
    """

    mode: BalancingMode = BalancingMode.OFF
    interval_s: float = 60.0
    moves_max: int = 20
    moves_at_once: int = 2


class PlannedMove(msgspec.Struct, frozen=True, kw_only=True):
    """One VM that is to be moved, from where to where, and why, in a sentence.

    `affinity`: it keeps an affinity group.
    """

    vm: str
    vm_name: str
    source: str
    source_name: str
    destination: str
    destination_name: str
    reason: str
    affinity: bool = False


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A host's load: VMs, percent of its CPUs that are busy, free memory.

    The CPU load was measured, or (`measured` false) is what the VMs are reckoned to take.
    """

    vms: int
    cpu_percent: int
    memory_free_bytes: int
    measured: bool = False


class HostFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A host that VMs are to leave or to come to: its load before and after."""

    host: str
    host_name: str
    before: Figures
    after: Figures


@event("cluster.resources_set")
class ClusterResourcesSet(Event, frozen=True, kw_only=True):
    """From now on the cluster's hosts give out this much."""

    name: str
    resources: Resources

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_153,
            name="CLUSTER_RESOURCES_SET",
            message="The hosts of cluster {name} give out {resources.memory_percent} % of their"
            " memory from now on, by {actor}'s word.",
        ),
    )


@event("cluster.balancing_set")
class ClusterBalancingSet(Event, frozen=True, kw_only=True):
    """From now on the cluster is balanced like this."""

    name: str
    balancing: Balancing

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_154,
            name="CLUSTER_BALANCING_SET",
            message="Balancing of cluster {name} was set to {balancing.mode} by {actor}.",
        ),
    )


@event("cluster.balance_proposed")
class ClusterBalanceProposed(Event, frozen=True, kw_only=True):
    """These moves would make things better; nobody was asked to make them. None: all is well."""

    name: str
    moves: tuple[PlannedMove, ...] = ()
    hosts: tuple[HostFigures, ...] = ()

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_155,
            name="CLUSTER_BALANCE_PROPOSED",
            message="VMs of cluster {name} would be better off elsewhere; see the cluster's"
            " proposal.",
        ),
    )

    def audit(self) -> Audit | None:
        """Tell of proposals only."""
        return self.audits[0] if self.moves else None


@event("cluster.balance_begun")
class ClusterBalanceBegun(Event, frozen=True, kw_only=True):
    """VMs are being moved, by the operation `operation`."""

    name: str
    operation: str
    moves: tuple[PlannedMove, ...] = ()

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_156,
            name="CLUSTER_BALANCE_BEGUN",
            message="VMs of cluster {name} are being moved to where they are better off, by"
            " {actor}.",
        ),
    )


@event("cluster.balance_move_settled")
class ClusterBalanceMoveSettled(Event, frozen=True, kw_only=True):
    """A VM of the plan runs where it was to be moved (`moved`), or stays, for `reason`."""

    name: str
    operation: str
    vm: str
    vm_name: str
    moved: bool
    reason: str = ""

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_157,
            name="CLUSTER_BALANCE_MOVE_FAILED",
            severity=Severity.WARNING,
            message="VM {vm_name} was not moved to balance cluster {name}: {reason}",
        ),
    )

    def audit(self) -> Audit | None:
        """Tell of VMs that stay; migrations tell of themselves."""
        return None if self.moved else self.audits[0]


@event("cluster.balance_ended")
class ClusterBalanceEnded(Event, frozen=True, kw_only=True):
    """An operation that moved VMs has ended."""

    name: str
    operation: str


class Rest(enum.StrEnum):
    """What a cluster does with a host that it does not need."""

    RESTS = "rests"  # it is put into maintenance
    OFF = "off"  # it is turned off
    ROUSED = "roused"  # it is needed: it is turned on, and activated once it is back
    UP = "up"  # it takes VMs again; it is no more the cluster's affair


@event("cluster.host_rest")
class ClusterHostRest(Event, frozen=True, kw_only=True):
    """The cluster's policy begins this with a host, to save power."""

    name: str
    host: str
    host_name: str
    rest: Rest

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10250,
            name="PM_POLICY_UP_TO_MAINTENANCE",
            message="Host {host_name} is put into maintenance by the policy of cluster {name}, to"
            " save power.",
        ),
        Audit(
            code=10251,
            name="PM_POLICY_MAINTENANCE_TO_DOWN",
            message="Host {host_name} is turned off by the policy of cluster {name}, to save"
            " power.",
        ),
        Audit(
            code=10252,
            name="PM_POLICY_TO_UP",
            message="Host {host_name} is needed: the policy of cluster {name} brings it up again.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of the step; that it is up is told by the host itself."""
        return dict(zip(Rest, self.audits, strict=False)).get(self.rest)


@event("cluster.ha_reservation_lost")
class ClusterHaReservationLost(Event, frozen=True, kw_only=True):
    """If one of these hosts failed, not all its highly available VMs would fit elsewhere.

    `reason` says which, and why, for the first of them.
    """

    name: str
    hosts: tuple[str, ...]
    reason: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10300,
            name="CLUSTER_ALERT_HA_RESERVATION",
            severity=Severity.ALERT,
            message="Cluster {name} could not restart all highly available VMs if one host failed."
            " {reason}",
        ),
    )


@event("cluster.ha_reservation_kept")
class ClusterHaReservationKept(Event, frozen=True, kw_only=True):
    """All highly available VMs of any one host would fit on the others again."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10301,
            name="CLUSTER_ALERT_HA_RESERVATION_DOWN",
            severity=Severity.ALERT,
            message="Cluster {name} could restart all highly available VMs again if one host"
            " failed.",
        ),
    )
