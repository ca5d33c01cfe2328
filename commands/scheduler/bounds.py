"""What affinity groups say of one VM at one moment: hosts it must, must not, or should have.

Worked out for each choice from the cluster's groups and from where their VMs are, those included
that were placed a moment ago. Groups that keep VMs together and share one of them count as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from commands.state.affinity import ResolvedGroup, merged
from events.types.affinity import Polarity

Where = Callable[[str], Sequence[str]]
"""The hosts where a VM may run, or will in a moment, by the VM's id."""


class HostBound(msgspec.Struct, frozen=True, kw_only=True):
    """Hosts that an enforcing group binds the VM to, or bars it from."""

    group: str
    hosts: frozenset[str]


class Tie(msgspec.Struct, frozen=True, kw_only=True):
    """Where VMs are that the VM must be with (any of the hosts will do): host to such a VM."""

    groups: tuple[str, ...]
    hosts: dict[str, str]


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a soft rule would have: the VM on one of the hosts (`wanted`), or on none of them."""

    group: str
    priority: float
    hosts: frozenset[str]
    wanted: bool


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """All that groups say of one VM. `apart` maps a host to the VM and the group that object."""

    bound: tuple[HostBound, ...] = ()
    barred: tuple[HostBound, ...] = ()
    tie: Tie | None = None
    apart: dict[str, tuple[str, str]] = {}
    vm_wishes: tuple[Wish, ...] = ()
    host_wishes: tuple[Wish, ...] = ()


class Affinities:
    """The groups of one cluster, indexed by their VMs."""

    def __init__(self, groups: Iterable[ResolvedGroup]) -> None:
        self.groups = tuple(groups)
        self._of: dict[str, list[ResolvedGroup]] = {}
        for group in self.groups:
            for vm in group.vms:
                self._of.setdefault(vm, []).append(group)
        self._sets = {vm: (vms, names) for vms, names in self.sets() for vm in vms}
        self._hosts = {group.id: frozenset(group.hosts) for group in self.groups}
        self._names = {vm: name for group in self.groups for vm, name in group.names.items()}

    def bounds(
        self,
        vm: str,
        where: Where,
        ignored: str | None = None,
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> Bounds | None:
        """Return what the groups say of a VM; None where none speaks of it.

        VMs on the host `ignored` tie nobody to it: they have to leave it as well. `names` are those
        that VMs have now; groups know what they were called when they were added.
        """
        groups = self._of.get(vm)
        if groups is None:
            return None
        wishes = [w for w in (self._wish(g, vm, where) for g in groups) if w is not None]
        soft = [group for group in groups if group.hosts and not group.host_rule.enforcing]
        return Bounds(
            bound=tuple(
                HostBound(group=g.name, hosts=self._hosts[g.id]) for g in groups if g.bound
            ),
            barred=tuple(
                HostBound(group=g.name, hosts=self._hosts[g.id]) for g in groups if g.barred
            ),
            tie=self._tie(vm, where, ignored, names),
            apart=self._apart(vm, groups, where, names),
            vm_wishes=tuple(wishes),
            host_wishes=tuple(
                Wish(
                    group=g.name,
                    priority=g.priority,
                    hosts=self._hosts[g.id],
                    wanted=g.host_rule.polarity is Polarity.POSITIVE,
                )
                for g in soft
                if g.host_rule.polarity is not Polarity.DISABLED
            ),
        )

    def sets(self) -> list[tuple[frozenset[str], tuple[str, ...]]]:
        """Return the sets of VMs that must be on one host, with the names of their groups."""
        return [(vms, names) for vms, names in merged(self.groups) if len(vms) > 1]

    def _tie(
        self, vm: str, where: Where, ignored: str | None, names: Mapping[str, str]
    ) -> Tie | None:
        found = self._sets.get(vm)
        if found is None:
            return None
        vms, groups = found
        hosts = {
            host: names.get(other) or self._names.get(other, other)
            for other in sorted(vms - {vm})
            for host in where(other)
            if host != ignored
        }
        return Tie(groups=groups, hosts=hosts) if hosts else None

    def _apart(
        self, vm: str, groups: Sequence[ResolvedGroup], where: Where, names: Mapping[str, str]
    ) -> dict[str, tuple[str, str]]:
        return {
            host: (names.get(other) or self._names.get(other, other), group.name)
            for group in groups
            if group.apart
            for other in group.vms
            if other != vm
            for host in where(other)
        }

    def _wish(self, group: ResolvedGroup, vm: str, where: Where) -> Wish | None:
        """Return what a soft rule about VMs would have; None where it has nothing to go by."""
        if group.vm_rule.enforcing or group.vm_rule.polarity is Polarity.DISABLED:
            return None
        hosts = {host for other in group.vms if other != vm for host in where(other)}
        wanted = group.vm_rule.polarity is Polarity.POSITIVE
        if not hosts:
            return None
        return Wish(
            group=group.name, priority=group.priority, hosts=frozenset(hosts), wanted=wanted
        )
