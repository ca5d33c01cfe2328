"""Clusters, and the scheduling policies that they use, as the policies know them."""

from __future__ import annotations

from collections.abc import Iterable

from commands.kernel.shapes import Tables
from commands.state.cluster import CLUSTER, ClusterState
from commands.state.scheduling_policy import (
    SCHEDULING_POLICY,
    SchedulingPolicyState,
    resolved,
)
from events.envelope import Recorded


class ClusterFacts:
    """All clusters and scheduling policies.

    `clusters` has each with what its policy comes to now; a policy that changes changes them.
    """

    def __init__(self) -> None:
        self.clusters: dict[str, ClusterState] = {}
        self.policies: dict[str, SchedulingPolicyState] = {}
        self._folded: dict[str, ClusterState] = {}

    def take(self, recorded: Recorded) -> Iterable[tuple[ClusterState | None, ClusterState]]:
        """Fold an event of either; return each cluster that changed, as it was and as it is."""
        key = recorded.object_id
        if recorded.kind == CLUSTER.kind:
            after = CLUSTER.evolve(self._folded.get(key), recorded)
            return [] if after is None else [self.put(key, after)]
        policy = SCHEDULING_POLICY.evolve(self.policies.get(key), recorded)
        if policy is None:
            return []
        self.policies[key] = policy
        if policy.removed:
            del self.policies[key]
        users = [item for item in self._folded.items() if item[1].scheduling.custom == key]
        return [self.put(cluster, state) for cluster, state in users]

    def put(self, key: str, cluster: ClusterState) -> tuple[ClusterState | None, ClusterState]:
        """Take in a cluster; return it as it was and as it is."""
        before = self.clusters.get(key)
        self._folded[key] = cluster
        custom = cluster.scheduling.custom
        policy = self.policies.get(custom) if custom is not None else None
        self.clusters[key] = resolved(cluster, policy)
        return before, self.clusters[key]

    def tables(self) -> Tables:
        """Return what a snapshot holds."""
        return {CLUSTER.kind: dict(self._folded), SCHEDULING_POLICY.kind: dict(self.policies)}
