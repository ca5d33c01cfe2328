"""Affinity groups and labels as the policies know them: a part of their facts."""

from __future__ import annotations

from commands.kernel.shapes import Tables
from commands.scheduler.fleet import Fleet
from commands.state.affinity import (
    AFFINITY_GROUP,
    AFFINITY_LABEL,
    AffinityGroupState,
    AffinityLabelState,
    ResolvedGroup,
    resolve,
)
from events.envelope import Recorded


class AffinityFacts:
    """All groups and labels; the fleet is told of a cluster's groups whenever they change."""

    def __init__(self, fleet: Fleet) -> None:
        self.groups: dict[str, AffinityGroupState] = {}
        self.labels: dict[str, AffinityLabelState] = {}
        self._fleet = fleet

    def take(self, recorded: Recorded) -> None:
        """Fold an event of a group or a label."""
        key = recorded.object_id
        if recorded.kind == AFFINITY_GROUP.kind:
            before = self.groups.get(key)
            group = AFFINITY_GROUP.evolve(before, recorded)
            if group is None:
                return
            self.groups[key] = group
            if group.removed:
                del self.groups[key]
            self._tell({group.cluster})
            return
        label = AFFINITY_LABEL.evolve(self.labels.get(key), recorded)
        if label is None:
            return
        self.labels[key] = label
        if label.removed:
            del self.labels[key]
        users = (group for group in self.groups.values() if key in group.affinity.labels)
        self._tell({group.cluster for group in users})

    def tables(self) -> Tables:
        """Return what a snapshot holds."""
        return {AFFINITY_GROUP.kind: dict(self.groups), AFFINITY_LABEL.kind: dict(self.labels)}

    def restore(self, tables: Tables) -> None:
        """Take up a snapshot."""
        self.groups.update(tables[AFFINITY_GROUP.kind])
        self.labels.update(tables[AFFINITY_LABEL.kind])
        self._tell({group.cluster for group in self.groups.values()})

    def of_cluster(self, cluster: str) -> list[ResolvedGroup]:
        """Return a cluster's groups, their labels replaced by what they name."""
        return [
            resolve(group, self.labels)
            for group in self.groups.values()
            if group.cluster == cluster
        ]

    def _tell(self, clusters: set[str]) -> None:
        for cluster in clusters:
            self._fleet.group(cluster, self.of_cluster(cluster))
