"""Which silent hosts are looked after: each silence once, a few at a time, and none in a storm.

A silence settles first: then it shows how many hosts were lost with it. Where that are too many of
a cluster, the cluster says so, once, and none of its hosts is looked after until others answer.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import msgspec

from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.refusal import WrongState
from commands.policies.facts import Facts
from commands.policies.fence_rules import Loss, counts, is_lost, percent_max
from commands.policies.host_fence import KIND, STEPS
from commands.policies.saga import Timeouts
from commands.policies.watch import Beginning, Watch
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import HostState
from commands.state.operation import OperationState, StepState, begin
from events.types.base import Event
from events.types.host_power import ClusterFencingHeld, ClusterFencingResumed, HostFencingBegun


class _Members(msgspec.Struct):
    """A cluster's hosts that count, and those of them that are lost."""

    there: set[str] = msgspec.field(default_factory=set)
    lost: dict[str, HostState] = msgspec.field(default_factory=dict)


class Fencing(Watch):
    """Begins the fencing of hosts that are lost."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._rules = timeouts.fencing
        self._settle = dt.timedelta(seconds=timeouts.fencing.settle_s)
        self._members: dict[str, _Members] = defaultdict(_Members)
        self._around: dict[str, _Members] = defaultdict(_Members)
        self._open: set[str] = set()
        self._resumed: dict[str, dt.datetime] = {}
        self._back: dict[str, dt.datetime] = {}

    def host(self, before: HostState | None, after: HostState | None) -> None:
        """Note who is there, who is lost, and when somebody last said hello."""
        if before is not None:
            for members in (self._members[before.cluster], self._around[before.data_center]):
                members.there.discard(before.id)
                members.lost.pop(before.id, None)
        hello = after.session_at if after is not None else None
        if after is not None and hello is not None:
            self._back[after.cluster] = max(hello, self._back.get(after.cluster, hello))
        if after is None or not counts(after):
            return
        for members in (self._members[after.cluster], self._around[after.data_center]):
            members.there.add(after.id)
            if is_lost(after):
                members.lost[after.id] = after

    def cluster(self, before: ClusterState | None, after: ClusterState | None) -> None:
        """Note when storms ended."""
        del before
        if after is not None and after.fencing_resumed_at is not None:
            self._resumed[after.id] = after.fencing_resumed_at

    def operation(self, before: OperationState | None, after: OperationState | None) -> None:
        """Note which fencings are under way.

        Those that wait for a person take no place, nor do those whose host is off: others' VMs need
        not wait while a machine without power is told to go on.
        """
        del before
        if after is None or after.kind != KIND:
            return
        if after.open and after.attention is None and after.steps["off"] is not StepState.DONE:
            self._open.add(after.id)
        else:
            self._open.discard(after.id)

    def due(self, facts: Facts, now: dt.datetime) -> Sequence[Beginning]:
        """Return the fencings to begin, the longest silence first, and what clusters have to say.

        Hosts that were found silent within the time of settling count as lost at once.
        """
        wanted: list[Beginning] = []
        waiting: list[HostState] = []
        for cluster_id, members in self._members.items():
            cluster = facts.clusters.get(cluster_id)
            if cluster is None or cluster.removed:
                continue
            loss = self._loss(members, cluster)
            held = loss.held and not loss.alone
            if held != cluster.fencing_held and self._settled(members, now):
                wanted.append(self._say(cluster, loss, members, held=held))
            # One host alone raises no alert of a storm: its own operation says why it waits.
            if not held and self._may_begin(cluster, now):
                waiting += self._unattended(members, now)
        room = max(0, self._rules.at_once_max - len(self._open))
        waiting.sort(key=lambda host: (host.power.silent_at, host.id))
        return (*wanted, *(_begin(host) for host in waiting[:room]))

    def next_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return when the next silence, or the end of a storm, has settled."""
        silences = (
            host.power.silent_since + self._settle
            for members in self._members.values()
            for host in members.lost.values()
            if host.power.silent_since is not None and host.power.fencing is None
        )
        storms = (self._calm_at(cluster, since) for cluster, since in self._resumed.items())
        return min((end for end in (*silences, *storms) if end > now), default=None)

    def _may_begin(self, cluster: ClusterState, now: dt.datetime) -> bool:
        """Tell whether a storm is over, and those that come back had the time to do so."""
        since = cluster.fencing_resumed_at
        over = since is None or self._calm_at(cluster.id, since) <= now
        return over and not cluster.fencing_held

    def _calm_at(self, cluster: str, resumed: dt.datetime) -> dt.datetime:
        return self._rules.calm_at(resumed, self._back.get(cluster))

    def _loss(self, members: _Members, cluster: ClusterState) -> Loss:
        """See `fence_rules.loss`: the same, kept up to date with each event."""
        alone = len(members.there) == 1
        judged = self._around[cluster.data_center] if alone else members
        return Loss(
            lost=len(judged.lost),
            hosts=len(judged.there),
            percent_max=percent_max(self._rules, cluster),
            alone=alone,
        )

    def _settled(self, members: _Members, now: dt.datetime) -> bool:
        """Tell whether no host of the cluster was lost only a moment ago."""
        since = (host.power.silent_since for host in members.lost.values())
        return all(each is None or each + self._settle <= now for each in since)

    def _unattended(self, members: _Members, now: dt.datetime) -> Iterator[HostState]:
        for host in members.lost.values():
            since = host.power.silent_since
            if since is not None and host.power.fencing is None and since + self._settle <= now:
                yield host

    def _say(
        self, cluster: ClusterState, loss: Loss, members: _Members, *, held: bool
    ) -> Beginning:
        def decide(world: World, context: Context) -> Decision:
            del context
            state = lookup.cluster(world, cluster.id)
            if state.fencing_held == held:
                raise WrongState("It was said already.")
            said: Event = ClusterFencingResumed(name=state.name)
            if held:
                said = ClusterFencingHeld(
                    name=state.name,
                    lost=loss.lost,
                    hosts=loss.hosts,
                    percent_max=loss.percent_max,
                )
            return Decision.of(cluster.id, *on(f"cluster/{cluster.id}", said))

        latest = max((host.power.silent_at for host in members.lost.values()), default=0)
        cause = f"fencing/{'held' if held else 'resumed'}/{latest}"
        return Beginning(cause=cause, target=f"cluster/{cluster.id}", decide=decide)


def _begin(host: HostState) -> Beginning:
    cause = f"silence/{host.power.silent_at}"
    return Beginning(cause=cause, target=f"host/{host.id}", decide=fence(host))


def fence(host: HostState) -> Callable[[World, Context], Decision]:
    """Return the decision that begins the fencing of a host, for the silence it is in."""

    def decide(world: World, context: Context) -> Decision:
        state = lookup.host(world, host.id)
        if not is_lost(state) or state.power.silent_at != host.power.silent_at:
            raise WrongState(f"Host {state.name} is not lost any more.")
        if state.power.fencing is not None:
            raise WrongState(f"Host {state.name} is looked after already.")
        operation = begin(
            context,
            KIND,
            f"host/{state.id}",
            state.name,
            *(step.name for step in STEPS),
            cancellable=True,
        )
        begun = HostFencingBegun(name=state.name, operation=str(context.command))
        return Decision.of(
            state.id,
            *on(f"host/{state.id}", begun),
            operation,
            operation=str(context.command),
        )

    return decide
