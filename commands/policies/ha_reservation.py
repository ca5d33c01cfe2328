"""A watch that looks whether clusters could restart their highly available VMs if a host failed.

Every so often each host of a cluster that wants it is taken to have failed, one at a time. What is
found is told once: an alert with the hosts, and another when all is well again. Nothing is moved.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.policies.facts import Facts
from commands.policies.saga import Timeouts
from commands.policies.watch import Beginning, Watch
from commands.scheduler.reservation import stranded
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import HostState, HostStatus
from commands.state.vm import VmState
from events.types.balancing import ClusterHaReservationKept, ClusterHaReservationLost

HOSTS_TOLD_MAX = 10
HOSTS_MIN = 2
"""With fewer hosts up, nothing could be restarted elsewhere."""


class _Round(msgspec.Struct, kw_only=True):
    """What one look at all hosts has found so far: the names of hosts, and the first reason."""

    left: deque[tuple[str, str]] = msgspec.field(default_factory=deque)
    lost: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}


class Reservation(Watch):
    """Looks at a few hosts at a time, so that nobody waits for it."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._rules = timeouts.balance
        self._clusters: dict[str, ClusterState] = {}
        self._round: _Round | None = None
        self._next: dt.datetime | None = None

    def cluster(self, before: ClusterState | None, after: ClusterState | None) -> None:
        """Note which clusters want it; one that wants it anew is looked at at once."""
        state = after or before
        if state is None:
            return
        if after is None or after.removed or not _wants(after):
            self._clusters.pop(state.id, None)
            return
        if state.id not in self._clusters:
            self._round = self._next = None
        self._clusters[after.id] = after

    def due(self, facts: Facts, now: dt.datetime) -> Sequence[Beginning]:
        """Look at some hosts; return what is to be told once all were looked at."""
        if not self._clusters or (self._next is not None and now < self._next):
            return ()
        if self._round is None:
            self._round = _begun(facts, self._clusters.values())
        if not self._look(facts, self._round):
            self._next = now + dt.timedelta(seconds=self._rules.turn_s)
            return ()
        found, self._round = self._round, None
        self._next = now + dt.timedelta(seconds=self._rules.reservation_s)
        told = (_told(cluster, found, now) for cluster in self._clusters.values())
        return [each for each in told if each is not None]

    def next_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return when the next hosts are to be looked at."""
        if not self._clusters:
            return None
        return self._next or now

    def _look(self, facts: Facts, found: _Round) -> bool:
        """Look at hosts until enough VMs were tried; True once none is left."""
        tried = 0
        while found.left and tried < self._rules.vms_at_once:
            cluster_id, host_id = found.left.popleft()
            cluster, host = self._clusters.get(cluster_id), facts.hosts.get(host_id)
            if cluster is None or host is None:
                continue
            vms = [vm for vm in facts.vms_on(host_id) if _counts(vm, host_id)]
            tried += len(vms)
            lonely = stranded(facts.fleet, cluster, vms)
            if lonely is not None:
                found.lost.setdefault(cluster_id, []).append(host.name)
                reason = f"If host {host.name} failed, no other could take VM {lonely.name}."
                found.reasons.setdefault(cluster_id, reason)
        return not found.left


def _wants(cluster: ClusterState) -> bool:
    return cluster.resources.ha_reservation or bool(cluster.balance.reservation_lost)


def _counts(vm: VmState, host: str) -> bool:
    return vm.availability.highly_available and vm.run is not None and vm.run.host == host


def _begun(facts: Facts, clusters: Iterable[ClusterState]) -> _Round:
    found = _Round()
    for cluster in clusters:
        if not cluster.resources.ha_reservation:
            continue
        up = [host for host in facts.hosts.values() if _is_up(host, cluster.id)]
        if len(up) < HOSTS_MIN:
            found.lost[cluster.id] = sorted(host.name for host in up)
            found.reasons[cluster.id] = "Fewer than two of its hosts are up."
        else:
            found.left.extend(sorted((cluster.id, host.id) for host in up))
    return found


def _is_up(host: HostState, cluster: str) -> bool:
    return host.cluster == cluster and host.status is HostStatus.UP


def _told(cluster: ClusterState, found: _Round, now: dt.datetime) -> Beginning | None:
    """Return what is to be told of a cluster; None where that is known."""
    reason = found.reasons.get(cluster.id, "")
    hosts = tuple(found.lost.get(cluster.id, ()))[:HOSTS_TOLD_MAX] or (("",) if reason else ())
    if bool(hosts) == bool(cluster.balance.reservation_lost):
        return None
    return Beginning(
        cause=f"ha reservation/{now.isoformat()}",
        target=f"cluster/{cluster.id}",
        decide=_telling(cluster.id, hosts, reason),
    )


def _telling(
    cluster_id: str, hosts: tuple[str, ...], reason: str
) -> Callable[[World, Context], Decision]:
    def decide(world: World, context: Context) -> Decision:
        del context
        cluster = lookup.cluster(world, cluster_id)
        told = (
            ClusterHaReservationLost(name=cluster.name, hosts=hosts, reason=reason)
            if hosts
            else ClusterHaReservationKept(name=cluster.name)
        )
        return Decision.of(cluster_id, *on(f"cluster/{cluster_id}", told))

    return decide
