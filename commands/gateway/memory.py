"""What each host does where its memory runs short: its cluster's settings, as the gateway has them.

It is a part of a host's intent: whole in the answer to hello, and told again where the settings
changed, or the host came into another cluster.
"""

from __future__ import annotations

from collections.abc import Mapping

from commands.state.host import HostState
from events.envelope import Recorded
from events.types.balancing import ClusterResourcesSet
from events.types.host_memory import MemoryPolicy

_DEFAULT = MemoryPolicy()


class MemoryPolicies:
    """A fold of clusters' resources; `told` is from which position on a host has another policy."""

    def __init__(self) -> None:
        self.policies: dict[str, MemoryPolicy] = {}
        self.told: dict[str, int] = {}

    def of(self, host: HostState | None) -> MemoryPolicy:
        """Return what a host is to do."""
        return _DEFAULT if host is None else self.policies.get(host.cluster, _DEFAULT)

    def take_cluster(self, recorded: Recorded, hosts: Mapping[str, HostState]) -> tuple[str, ...]:
        """Take in an event of a cluster; return the hosts for which it is news."""
        event = recorded.event
        if not isinstance(event, ClusterResourcesSet):
            return ()
        resources = event.resources
        policy = MemoryPolicy(
            ksm=resources.ksm,
            merge_across_nodes=resources.ksm_merge_across_nodes,
            ballooning=resources.ballooning,
        )
        cluster = recorded.object_id
        if policy == self.policies.get(cluster, _DEFAULT):
            return ()
        self.policies[cluster] = policy
        members = tuple(
            host.id for host in hosts.values() if host.cluster == cluster and not host.removed
        )
        self.told.update(dict.fromkeys(members, recorded.position))
        return members

    def take_host(self, before: HostState | None, after: HostState, position: int) -> bool:
        """Take in what became of a host; return whether it has another policy now."""
        if after.removed:
            self.told.pop(after.id, None)
            return False
        if before is None or before.cluster == after.cluster or self.of(before) == self.of(after):
            return False
        self.told[after.id] = position
        return True
