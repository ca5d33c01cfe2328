"""A watch that turns off hosts which run nothing, and on again when they are needed.

For clusters with policy power_saving that balance themselves and ask for it. One host at a time is
put into maintenance, and turned off at the next look. When fewer hosts are idle than are to be in
reserve, one that rests is turned on, and activated once it is back. One host always stays up, for
somebody must turn the others on. What an admin does with such a host counts as ever.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

import msgspec

from commands.host.activate import ActivateHost
from commands.host.maintenance import MaintainHost
from commands.host.power_start import PowerStart
from commands.host.power_stop import PowerStop
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.policies.facts import Facts
from commands.policies.saga import Timeouts
from commands.policies.watch import Beginning, Watch
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import Duty, HostState, HostStatus
from events.types.balancing import BalancingMode, ClusterHostRest, Rest
from events.types.cluster import SchedulingPolicy
from events.types.host_power import FenceAction

REASON = "The cluster's policy saves power."
Decide = Callable[[World, Context], Decision]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with a host; `decide` is None where that is only noted."""

    host: str
    host_name: str
    rest: Rest
    decide: Decide | None = None


class PowerSaving(Watch):
    """Looks at each cluster as often as that is balanced, and takes one step."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._scale = timeouts.balance.scale
        self._clusters: dict[str, ClusterState] = {}
        self._looked: dict[str, dt.datetime] = {}
        self._idle_since: dict[str, dt.datetime] = {}

    def cluster(self, before: ClusterState | None, after: ClusterState | None) -> None:
        """Note which clusters save power, or still have hosts that rest."""
        state = after or before
        if state is None:
            return
        if after is not None and not after.removed and (wants(after) or after.balance.resting):
            self._clusters[after.id] = after
            return
        self._clusters.pop(state.id, None)
        self._looked.pop(state.id, None)

    def due(self, facts: Facts, now: dt.datetime) -> Sequence[Beginning]:
        """Return the next step of each cluster whose turn it is."""
        found = []
        for cluster in list(self._clusters.values()):
            if self._due_at(cluster, now) > now:
                continue
            self._looked[cluster.id] = now
            step = self._step(facts, cluster, now)
            if step is not None:
                found.append(_beginning(cluster, step, now))
        return found

    def next_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return when the next cluster is to be looked at."""
        return min((self._due_at(each, now) for each in self._clusters.values()), default=None)

    def _due_at(self, cluster: ClusterState, now: dt.datetime) -> dt.datetime:
        looked = self._looked.get(cluster.id)
        if looked is None:
            return now
        return looked + dt.timedelta(seconds=cluster.balance.settings.interval_s * self._scale)

    def _step(self, facts: Facts, cluster: ClusterState, now: dt.datetime) -> Step | None:
        hosts = sorted(
            (h for h in facts.hosts.values() if h.cluster == cluster.id and not h.removed),
            key=lambda h: h.name,
        )
        idle = [host for host in hosts if _is_idle(facts, host)]
        for host in hosts:
            if host not in idle:
                self._idle_since.pop(host.id, None)
        for host in idle:
            self._idle_since.setdefault(host.id, now)
        resting = cluster.balance.resting
        known = [host for host in hosts if host.id in resting]
        gone = next(
            (key for key in resting if key not in facts.hosts or facts.hosts[key].removed), None
        )
        if gone is not None:
            return Step(host=gone, host_name="", rest=Rest.UP)
        return (
            _returned(known, resting)
            or _still_off(facts, known, resting)
            or _needed(cluster, known, idle, hosts)
            or _turned_off(facts, known, resting)
            or self._spared(cluster, idle, hosts, now)
        )

    def _spared(
        self, cluster: ClusterState, idle: list[HostState], hosts: list[HostState], now: dt.datetime
    ) -> Step | None:
        """Put a host into maintenance that has been idle for long, where there are enough."""
        if not wants(cluster) or len(idle) <= cluster.scheduling.hosts_in_reserve:
            return None
        if sum(host.status is HostStatus.UP for host in hosts) < 2:  # noqa: PLR2004 - one stays
            return None
        if any(host.duty is Duty.PREPARING for host in hosts):
            return None
        minutes = cluster.scheduling.cpu_over_commit_duration_minutes * self._scale
        ripe = now - dt.timedelta(minutes=minutes)
        for host in reversed(idle):
            managed = host.power.enabled and host.power.agents
            if managed and self._idle_since[host.id] <= ripe:
                maintain = MaintainHost(id=host.id, reason=REASON)
                return _step(host, Rest.RESTS, maintain.decide)
        return None


def wants(cluster: ClusterState) -> bool:
    """Tell whether a cluster's hosts are to be turned off and on."""
    scheduling = cluster.scheduling
    saves = scheduling.policy is SchedulingPolicy.POWER_SAVING
    automatic = cluster.balance.settings.mode is BalancingMode.AUTOMATIC
    return saves and automatic and scheduling.automatic_host_power_management


def _step(host: HostState, rest: Rest, decide: Decide | None = None) -> Step:
    return Step(host=host.id, host_name=host.name, rest=rest, decide=decide)


def _is_idle(facts: Facts, host: HostState) -> bool:
    """Tell whether a host is up, runs nothing, and has no files that only it can see."""
    if host.status is not HostStatus.UP or facts.vms_on(host.id) or facts.starting.get(host.id):
        return False
    if facts.traffic.incoming.get(host.id) or facts.traffic.outgoing.get(host.id):
        return False
    candidate = facts.fleet.candidate(host.id)
    shared = host.capabilities is not None and bool(host.capabilities.storage_id)
    return shared or candidate is None or not candidate.vms_expected


def _returned(known: list[HostState], resting: dict[str, Rest]) -> Step | None:
    """Let a host take VMs again that is back, or note that somebody let it."""
    for host in known:
        if host.duty is Duty.ACTIVE and host.status is HostStatus.UP:
            return _step(host, Rest.UP)
        is_back = host.session is not None and not host.silent and not host.proved_off
        if resting[host.id] is Rest.ROUSED and host.duty is Duty.MAINTENANCE and is_back:
            return _step(host, Rest.UP, ActivateHost(id=host.id).decide)
    return None


def _needed(
    cluster: ClusterState, known: list[HostState], idle: list[HostState], hosts: list[HostState]
) -> Step | None:
    """Turn a host on where too few are idle, none is up, or hosts are not to rest any more."""
    resting = cluster.balance.resting
    coming = sum(resting[host.id] is Rest.ROUSED for host in known)
    none_up = not coming and not any(host.status is HostStatus.UP for host in hosts)
    enough = len(idle) + coming >= cluster.scheduling.hosts_in_reserve
    if wants(cluster) and enough and not none_up:
        return None
    asleep = [h for h in known if resting[h.id] is not Rest.ROUSED and h.duty is Duty.MAINTENANCE]
    if not asleep:
        return None
    host = min(asleep, key=lambda each: (bool(each.proved_off), each.name))
    # One that was to be turned off may be off although nobody saw it: no harm where it is on.
    was_told = host.proved_off or resting[host.id] is Rest.OFF
    return _step(host, Rest.ROUSED, PowerStart(id=host.id).decide if was_told else None)


def _still_off(facts: Facts, known: list[HostState], resting: dict[str, Rest]) -> Step | None:
    """Turn a host on again where that failed: others count on it."""
    for host in known:
        if resting[host.id] is not Rest.ROUSED or host.duty is not Duty.MAINTENANCE:
            continue
        last = host.power.tries[-1] if host.power.tries else None
        if last is None or last.open or last.reached or last.outdated:
            continue
        if last.order.action is FenceAction.ON and not _is_busy(facts, host):
            return _step(host, Rest.ROUSED, PowerStart(id=host.id).decide)
    return None


def _turned_off(facts: Facts, known: list[HostState], resting: dict[str, Rest]) -> Step | None:
    """Turn a host off that is in maintenance, once nothing goes on with it."""
    for host in known:
        rests = resting[host.id] is Rest.RESTS and host.status is HostStatus.MAINTENANCE
        if rests and not _is_busy(facts, host):
            return _step(host, Rest.OFF, PowerStop(id=host.id).decide)
    return None


def _is_busy(facts: Facts, host: HostState) -> bool:
    """Tell whether an operation on a host is under way; that takes a look at all of them."""
    return any(operation.target == f"host/{host.id}" for operation in facts.operations.values())


def _beginning(cluster: ClusterState, step: Step, now: dt.datetime) -> Beginning:
    return Beginning(
        cause=f"power saving/{now.isoformat()}",
        target=f"host/{step.host}",
        decide=_deciding(cluster.id, step),
    )


def _deciding(cluster_id: str, step: Step) -> Decide:
    """Return the decision to take a step, and to note it at the cluster."""

    def decide(world: World, context: Context) -> Decision:
        cluster = lookup.cluster(world, cluster_id)
        noted = ClusterHostRest(
            name=cluster.name, host=step.host, host_name=step.host_name, rest=step.rest
        )
        events = on(f"cluster/{cluster_id}", noted)
        if step.decide is None:
            return Decision.of(cluster_id, *events)
        decision = step.decide(world, context)
        return msgspec.structs.replace(decision, events=(*decision.events, *events))

    return decide
