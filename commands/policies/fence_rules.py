"""When a host may be fenced at all: times, limits, and what is never turned off."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import msgspec

from commands.state.cluster import ClusterState
from commands.state.host import Duty, HostState
from commands.state.host_power import HostPower

SETTLES_AFTER_STORM = 3
"""So many times of settling pass after a storm, and after each host that comes back then."""
STORM_LONGER_MAX = 10
"""So many times as long it takes at most: hosts that come and go must not keep all from fencing."""


class FenceRules(msgspec.Struct, frozen=True, kw_only=True):
    """How fencing waits, in seconds, the time scale being in them; the numbers are like oVirt's.

    A silence is looked after once it lasted `settle_s`: by then it shows how many others were lost
    with it. `soft_timeout_s` is what a restart of the agent gets, `kdump_wait_s` the first word of
    a dump, `kdump_timeout_s` its end. `status_timeout_s`, `off_timeout_s` and `on_timeout_s` are
    the proxy's, `margin_s` what its answer may take beyond. A confirmed silence counts for
    `confirm_fresh_s`. What failed is tried again after `retry_s`, later each time. A host that
    was turned off or on is not turned off again for `quiet_s`. A test of its power listens for a
    host that is said to be off for `listen_s`, and then gives it `boot_timeout_s` (oVirt's
    ServerRebootTimeout) to say hello again. At most `at_once_max` hosts are
    fenced at a time, and none while more than `lost_percent_max` of a cluster are lost. `protected`
    are the names, `protected_boots` the boot ids of hosts on which the engine or its database runs.
    """

    settle_s: float = 20.0
    soft_timeout_s: float = 60.0
    kdump_wait_s: float = 30.0
    kdump_timeout_s: float = 3_600.0
    status_timeout_s: float = 40.0
    off_timeout_s: float = 120.0
    on_timeout_s: float = 120.0
    margin_s: float = 20.0
    confirm_fresh_s: float = 15.0
    retry_s: float = 180.0
    quiet_s: float = 180.0
    listen_s: float = 30.0
    boot_timeout_s: float = 600.0
    at_once_max: int = 20
    lost_percent_max: int = 50
    protected: frozenset[str] = frozenset()
    protected_boots: frozenset[str] = frozenset()

    def protects(self, host: HostState) -> bool:
        """Tell whether the engine or its database runs on the host."""
        return host.name in self.protected or host.boot in self.protected_boots

    @property
    def storm_s(self) -> float:
        """How long after a storm hosts may take to come back before they are fenced."""
        return self.settle_s * SETTLES_AFTER_STORM

    def calm_at(self, resumed: dt.datetime, back: dt.datetime | None) -> dt.datetime:
        """Return when hosts may be fenced that a storm left lost. `resumed`: when it ended;
        `back`: when a host of the cluster last said hello.

        Machines boot one after the other, and one that boots is on and says nothing.
        """
        again = resumed if back is None else max(resumed, back)
        latest = resumed + dt.timedelta(seconds=self.storm_s * STORM_LONGER_MAX)
        return min(again + dt.timedelta(seconds=self.storm_s), latest)

    def quiet_until(self, power: HostPower) -> dt.datetime | None:
        """Return until when a host is not turned off again; None where it never was switched."""
        if power.switched_at is None:
            return None
        return power.switched_at + dt.timedelta(seconds=self.quiet_s)


def counts(host: HostState) -> bool:
    """Tell whether a host counts among those of its cluster: it is in service, or may be.

    One that is proved to be off tells nothing of the network. If it counted as one that is there,
    the second half of a cluster would be turned off where the first was lost a while before.
    """
    in_service = host.boot is not None and host.duty is not Duty.MAINTENANCE
    gone = host.removed or host.duplicate or bool(host.proved_off)
    return in_service and not (gone or host.unconfirmed)


def is_lost(host: HostState) -> bool:
    """Tell whether a host that counts is lost: silent, and not proved to be off."""
    return counts(host) and host.silent


def percent_max(rules: FenceRules, cluster: ClusterState) -> int:
    """Return how many percent of the cluster's hosts may be lost for one to be fenced."""
    fencing = cluster.fencing
    if fencing.skip_if_connectivity_broken:
        return min(rules.lost_percent_max, fencing.connectivity_broken_percent - 1)
    return rules.lost_percent_max


def too_many(lost: int, hosts: int, percent: int) -> bool:
    """Tell whether more than so many percent are lost."""
    return lost * 100 > percent * hosts


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the hosts that are judged together are lost.

    `alone`: the cluster has one host that counts. Its loss says nothing of the network, and its
    proxies are its data center's other hosts; so it is judged together with these.
    """

    lost: int
    hosts: int
    percent_max: int
    alone: bool = False

    @property
    def held(self) -> bool:
        """Whether too many are lost at once to fence any."""
        return too_many(self.lost, self.hosts, self.percent_max)


def loss(hosts: Iterable[HostState], rules: FenceRules, cluster: ClusterState) -> Loss:
    """Return how many of a cluster's hosts are lost at once."""
    around = [host for host in hosts if host.data_center == cluster.data_center and counts(host)]
    there = [host for host in around if host.cluster == cluster.id]
    alone = len(there) == 1
    judged = around if alone else there
    return Loss(
        lost=sum(is_lost(host) for host in judged),
        hosts=len(judged),
        percent_max=percent_max(rules, cluster),
        alone=alone,
    )
