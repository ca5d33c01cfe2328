"""Changing an affinity group or label: the event of the change, where no group contradicts it."""

from __future__ import annotations

from commands.kernel.command import Decision, on
from commands.kernel.fold import World
from commands.state import lookup
from commands.state.affinity import (
    AffinityGroupState,
    AffinityLabelState,
    groups_of,
    require_no_conflict,
)
from commands.state.host import HOST
from commands.state.vm import VM, VmStatus
from events.types.affinity import AffinityGroupUpdated, AffinityLabelUpdated, Member


def change_group(world: World, before: AffinityGroupState, after: AffinityGroupState) -> Decision:
    """Return the change of a group; no event where nothing differs. Raises AffinityConflict."""
    if before == after:
        return Decision.of(before.id)
    cluster = lookup.cluster(world, before.cluster)
    require_no_conflict(groups_of(world, cluster, after))
    return Decision.of(before.id, *on(f"affinity_group/{before.id}", group_updated(before, after)))


def group_updated(
    before: AffinityGroupState, after: AffinityGroupState, removed_member: str = ""
) -> AffinityGroupUpdated:
    """Return the event of a group's change."""
    left = set(before.affinity.labels) - set(after.affinity.labels)
    return AffinityGroupUpdated(
        name=after.name,
        former_name=before.name,
        cluster=before.cluster,
        description=after.description,
        affinity=after.affinity,
        labels_left=tuple(sorted(left)),
        removed_member=removed_member,
    )


def change_label(world: World, before: AffinityLabelState, after: AffinityLabelState) -> Decision:
    """Return the change of a label; no event where nothing differs. Raises AffinityConflict.

    The groups of every cluster that its members belong to, before or after, are looked at.
    """
    if before == after:
        return Decision.of(before.id)
    for key in sorted(_clusters(world, (*before.vms, *after.vms), (*before.hosts, *after.hosts))):
        require_no_conflict(groups_of(world, lookup.cluster(world, key), after))
    return Decision.of(before.id, *on(f"affinity_label/{before.id}", label_updated(before, after)))


def label_updated(
    before: AffinityLabelState, after: AffinityLabelState, removed_member: str = ""
) -> AffinityLabelUpdated:
    """Return the event of a label's change."""
    return AffinityLabelUpdated(
        name=after.name,
        former_name=before.name,
        description=after.description,
        vms=after.vms,
        hosts=after.hosts,
        removed_member=removed_member,
    )


def _clusters(world: World, vms: tuple[Member, ...], hosts: tuple[Member, ...]) -> set[str]:
    found: set[str] = set()
    for member in vms:
        vm = world.get(VM, member.id)
        if vm is not None and vm.status is not VmStatus.REMOVED:
            found.add(vm.cluster)
    for member in hosts:
        host = world.get(HOST, member.id)
        if host is not None and not host.removed:
            found.add(host.cluster)
    return found
