"""All hosts by cluster, kept so that the first fitting one is found without looking at each.

For each cluster a tournament tree over its hosts, in the order of their names, holds the most
memory that is free below each node: the first host with enough is found in O(log n) steps (the
classic structure for first-fit bin packing). Only hosts found so go through all filters; the
reasons why not are worked out for all hosts only when none fits.
"""

from __future__ import annotations

from collections.abc import Sequence

from commands.scheduler.first_fit import (
    HOST_RESERVE_BYTES,
    Candidate,
    Choice,
    Need,
    choose,
    fits,
)
from commands.state.host import HostState, HostStatus

_CLOSED = -1
"""The free memory of a host that takes no VMs, whatever they need."""


class FirstFitTree:
    """A complete binary tree of maxima over `values`."""

    def __init__(self, values: Sequence[int]) -> None:
        self._leaves = 1
        while self._leaves < len(values):
            self._leaves *= 2
        self._maxima = [_CLOSED] * (2 * self._leaves)
        self._maxima[self._leaves : self._leaves + len(values)] = values
        for node in range(self._leaves - 1, 0, -1):
            self._maxima[node] = max(self._maxima[2 * node], self._maxima[2 * node + 1])

    def set(self, index: int, value: int) -> None:
        """Change one value, in O(log n)."""
        node = self._leaves + index
        self._maxima[node] = value
        while node > 1:
            node //= 2
            most = max(self._maxima[2 * node], self._maxima[2 * node + 1])
            if self._maxima[node] == most:
                return
            self._maxima[node] = most

    def first(self, least: int, start: int = 0) -> int | None:
        """Return the first index from `start` on whose value is `least` or more, in O(log n)."""
        if start >= self._leaves:
            return None
        node = self._leaves + start
        while self._maxima[node] < least:
            while node % 2:  # a right child: go on with what lies right of its parent
                node //= 2
                if node <= 1:
                    return None
            node += 1
        while node < self._leaves:
            node *= 2
            if self._maxima[node] < least:
                node += 1
        return node - self._leaves


class _Cluster:
    """The hosts of a cluster in the order of their names."""

    def __init__(self, hosts: Sequence[Candidate]) -> None:
        self.hosts = sorted(hosts, key=lambda candidate: candidate.host.name)
        self.index = {candidate.host.id: n for n, candidate in enumerate(self.hosts)}
        self.tree = FirstFitTree([_free(candidate) for candidate in self.hosts])


class Fleet:
    """Every host with the memory that is taken of it: the placement's view."""

    def __init__(self) -> None:
        self._candidates: dict[str, Candidate] = {}
        self._clusters: dict[str, _Cluster] = {}

    def put(self, host: HostState) -> None:
        """Take in a host, new or changed; one that was removed is forgotten."""
        before = self._candidates.get(host.id)
        if host.removed:
            self._candidates.pop(host.id, None)
            self._clusters.pop(host.cluster, None)
            return
        taken = before.memory_taken_bytes if before is not None else 0
        candidate = Candidate(host=host, memory_taken_bytes=taken)
        self._candidates[host.id] = candidate
        if before is None or (before.host.name, before.host.cluster) != (host.name, host.cluster):
            self._clusters.pop(host.cluster, None)
            return
        self._show(candidate)

    def take(self, host_id: str, memory_bytes: int) -> None:
        """Count memory as taken of a host (less than 0: as given back)."""
        before = self._candidates.get(host_id)
        if before is None:
            return
        candidate = Candidate(
            host=before.host, memory_taken_bytes=before.memory_taken_bytes + memory_bytes
        )
        self._candidates[host_id] = candidate
        self._show(candidate)

    def choose(self, need: Need) -> Choice:
        """Return the first fitting host of the cluster, by name; else every host's reasons."""
        cluster = self._cluster(need.cluster)
        if need.only_host is not None:
            only = cluster.index.get(need.only_host)
            if only is not None and fits(need, cluster.hosts[only]):
                return Choice(host=cluster.hosts[only].host)
            return choose(need, cluster.hosts)
        index = cluster.tree.first(need.memory_bytes)
        while index is not None:
            if fits(need, cluster.hosts[index]):
                return Choice(host=cluster.hosts[index].host)
            index = cluster.tree.first(need.memory_bytes, index + 1)
        return choose(need, cluster.hosts)

    def _show(self, candidate: Candidate) -> None:
        cluster = self._clusters.get(candidate.host.cluster)
        if cluster is not None:
            index = cluster.index[candidate.host.id]
            cluster.hosts[index] = candidate
            cluster.tree.set(index, _free(candidate))

    def _cluster(self, cluster_id: str) -> _Cluster:
        """Return a cluster's hosts in order; put in order anew after one came, went or moved."""
        found = self._clusters.get(cluster_id)
        if found is None:
            hosts = [c for c in self._candidates.values() if c.host.cluster == cluster_id]
            found = self._clusters[cluster_id] = _Cluster(hosts)
        return found


def _free(candidate: Candidate) -> int:
    """Return how much memory a VM may take of the host, `_CLOSED` where none may come."""
    abilities = candidate.host.capabilities
    if abilities is None or candidate.host.status is not HostStatus.UP:
        return _CLOSED
    return max(_CLOSED, abilities.memory_bytes - HOST_RESERVE_BYTES - candidate.memory_taken_bytes)
