"""The states of affinity groups and labels, and what several groups say together.

`resolve` replaces labels by the VMs and hosts that they name; `conflict` says in a sentence why
enforcing rules cannot all be kept. Groups of one cluster are looked at together, always.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from commands.kernel.fold import Fold, World
from commands.kernel.refusal import Refusal
from commands.state import lookup
from commands.state.cluster import ClusterState
from events.envelope import Recorded
from events.types import affinity as e
from events.types.affinity import Affinity, Polarity, Rule


class AffinityConflict(Refusal):
    """The rules contradict those of other affinity groups"""  # noqa: D400 - a title


class AffinityGroupState(msgspec.Struct, frozen=True, kw_only=True):
    """An affinity group, as decisions see it."""

    id: str
    name: str
    cluster: str
    description: str
    affinity: Affinity
    removed: bool = False


class AffinityLabelState(msgspec.Struct, frozen=True, kw_only=True):
    """An affinity label, as decisions see it."""

    id: str
    name: str
    description: str
    vms: tuple[e.Member, ...] = ()
    hosts: tuple[e.Member, ...] = ()
    removed: bool = False


class ResolvedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group with its labels replaced by what they name; VMs and hosts by their ids, sorted.

    `names` has the VMs' names, by their ids.
    """

    id: str
    name: str
    vm_rule: Rule
    host_rule: Rule
    priority: float
    vms: tuple[str, ...]
    hosts: tuple[str, ...]
    names: dict[str, str] = {}

    @property
    def together(self) -> bool:
        """Whether its VMs must be on one host."""
        return self.vm_rule.enforcing and self.vm_rule.polarity is Polarity.POSITIVE

    @property
    def apart(self) -> bool:
        """Whether no two of its VMs may be on one host."""
        return self.vm_rule.enforcing and self.vm_rule.polarity is Polarity.NEGATIVE

    @property
    def bound(self) -> bool:
        """Whether its VMs must be on its hosts."""
        return bool(self.hosts) and self.host_rule == Rule(
            polarity=Polarity.POSITIVE, enforcing=True
        )

    @property
    def barred(self) -> bool:
        """Whether its VMs must not be on its hosts."""
        return bool(self.hosts) and self.host_rule == Rule(
            polarity=Polarity.NEGATIVE, enforcing=True
        )


def _evolve_group(
    state: AffinityGroupState | None, recorded: Recorded
) -> AffinityGroupState | None:
    match recorded.event:
        case e.AffinityGroupCreated() as event:
            return AffinityGroupState(
                id=recorded.object_id,
                name=event.name,
                cluster=event.cluster,
                description=event.description,
                affinity=event.affinity,
            )
        case e.AffinityGroupUpdated() as event if state is not None:
            return msgspec.structs.replace(
                state, name=event.name, description=event.description, affinity=event.affinity
            )
        case e.AffinityGroupRemoved() if state is not None:
            return msgspec.structs.replace(state, removed=True)
        case _:
            return state


def _evolve_label(
    state: AffinityLabelState | None, recorded: Recorded
) -> AffinityLabelState | None:
    match recorded.event:
        case e.AffinityLabelCreated() as event:
            return AffinityLabelState(
                id=recorded.object_id,
                name=event.name,
                description=event.description,
                vms=event.vms,
                hosts=event.hosts,
            )
        case e.AffinityLabelUpdated() as event if state is not None:
            return msgspec.structs.replace(
                state,
                name=event.name,
                description=event.description,
                vms=event.vms,
                hosts=event.hosts,
            )
        case e.AffinityLabelRemoved() if state is not None:
            return msgspec.structs.replace(state, removed=True)
        case _:
            return state


AFFINITY_GROUP = Fold("affinity_group", AffinityGroupState, _evolve_group)
AFFINITY_LABEL = Fold("affinity_label", AffinityLabelState, _evolve_label)


def find_group(world: World, object_id: str) -> AffinityGroupState:
    """Return the group; raises NotFound."""
    state = world.get(AFFINITY_GROUP, object_id)
    if state is None or state.removed:
        raise lookup.missing("affinity group", object_id)
    return state


def find_label(world: World, object_id: str) -> AffinityLabelState:
    """Return the label; raises NotFound."""
    state = world.get(AFFINITY_LABEL, object_id)
    if state is None or state.removed:
        raise lookup.missing("affinity label", object_id)
    return state


def resolve(group: AffinityGroupState, labels: Mapping[str, AffinityLabelState]) -> ResolvedGroup:
    """Return a group with its labels replaced; labels that are not there name nobody."""
    affinity = group.affinity
    vms = {member.id: member.name for member in affinity.vms}
    for label in affinity.vm_labels:
        found = labels.get(label.id)
        vms |= {member.id: member.name for member in found.vms} if found is not None else {}
    hosts = {member.id for member in affinity.hosts}
    for label in affinity.host_labels:
        found = labels.get(label.id)
        hosts |= {member.id for member in found.hosts} if found is not None else set()
    return ResolvedGroup(
        id=group.id,
        name=group.name,
        vm_rule=affinity.vm_rule,
        host_rule=affinity.host_rule,
        priority=affinity.priority,
        vms=tuple(sorted(vms)),
        hosts=tuple(sorted(hosts)),
        names=vms,
    )


def merged(groups: Iterable[ResolvedGroup]) -> list[tuple[frozenset[str], tuple[str, ...]]]:
    """Return the sets of VMs that must be on one host, each with the names of the groups that say.

    Groups that share a VM make one set.
    """
    sets: list[tuple[set[str], list[str]]] = []
    for group in groups:
        if not group.together or not group.vms:
            continue
        vms, names, apart = set(group.vms), [group.name], []
        for known in sets:
            if known[0] & vms:
                vms |= known[0]
                names = [*known[1], *names]
            else:
                apart.append(known)
        sets = [*apart, (vms, names)]
    return [(frozenset(vms), tuple(names)) for vms, names in sets]


def conflict(groups: Sequence[ResolvedGroup]) -> str | None:
    """Return why the enforcing rules cannot all be kept, in a sentence; None where they can."""
    together = merged(groups)
    for group in groups:
        for vms, names in together:
            both = vms & set(group.vms)
            if group.apart and len(both) > 1:
                return (
                    f"Group {group.name} keeps VMs apart that belong together by {_groups(names)}."
                )
    hosts = [group for group in groups if group.bound or group.barred]
    alone = {vm for group in hosts for vm in group.vms} - {vm for vms, _ in together for vm in vms}
    for vms in [*(vms for vms, _names in together), *(frozenset({vm}) for vm in sorted(alone))]:
        found = _nowhere([group for group in hosts if vms & set(group.vms)])
        if found is not None:
            return found
    return None


def _nowhere(groups: Sequence[ResolvedGroup]) -> str | None:
    """Return why no host is left to VMs that all these groups are about; None where one may be."""
    allowed: set[str] | None = None
    for group in groups:
        if group.bound:
            allowed = set(group.hosts) if allowed is None else allowed & set(group.hosts)
    if allowed is None:
        return None
    for group in groups:
        if group.barred:
            allowed -= set(group.hosts)
    if allowed:
        return None
    names = tuple(group.name for group in groups)
    return f"{_groups(names)} together leave no host to a VM."


def _groups(names: Sequence[str]) -> str:
    return f"group{'s' if len(names) > 1 else ''} {', '.join(names)}"


def groups_of(
    world: World, cluster: ClusterState, changed: AffinityGroupState | AffinityLabelState
) -> list[ResolvedGroup]:
    """Return all groups of a cluster as they will be after a change of one group or label."""
    states = {key: find_group(world, key) for key in cluster.affinity_groups}
    labels: dict[str, AffinityLabelState] = {}
    if isinstance(changed, AffinityGroupState):
        states[changed.id] = changed
    else:
        labels[changed.id] = changed
    for state in states.values():
        for key in state.affinity.labels:
            if key not in labels:
                labels[key] = find_label(world, key)
    return [resolve(state, labels) for state in states.values()]


def require_no_conflict(groups: Sequence[ResolvedGroup]) -> None:
    """Raise AffinityConflict where enforcing rules cannot all be kept."""
    found = conflict(groups)
    if found is not None:
        raise AffinityConflict(
            found[0].upper() + found[1:],
            remedy="Change one of the groups, or let a rule be soft (enforcing: false).",
        )
