"""What admins say of affinity groups and labels, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec

from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField
from commands.state import lookup
from commands.state.affinity import find_label
from events.types.affinity import Affinity, Member, Polarity, Rule

MEMBERS_MAX = 500
"""So many VMs, hosts or labels of a group or label are named one by one."""

Ids = Annotated[tuple[Id, ...], msgspec.Meta(max_length=MEMBERS_MAX)]
VmPolarity = Annotated[
    Polarity,
    msgspec.Meta(description="Keep the VMs on one host (positive), or on different ones."),
]
VmEnforcing = Annotated[
    bool,
    msgspec.Meta(description="Whether the VMs must be kept so, or only should be."),
]
HostPolarity = Annotated[
    Polarity,
    msgspec.Meta(description="Keep the VMs on the hosts (positive), or off them (negative)."),
]
HostEnforcing = Annotated[
    bool,
    msgspec.Meta(description="Whether the VMs must be kept on or off the hosts, or only should."),
]
GroupPriority = Annotated[
    float,
    msgspec.Meta(ge=0, le=1_000_000, description="Of soft rules, the highest priority wins."),
]


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of members that a command names."""

    vms: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    vm_labels: tuple[str, ...] = ()
    host_labels: tuple[str, ...] = ()


def rule(now: Rule, polarity: Polarity | None, *, enforcing: bool | None) -> Rule:
    """Return a rule with what was said of it; an enforcing rule that is disabled is soft."""
    polarity = now.polarity if polarity is None else polarity
    enforcing = now.enforcing if enforcing is None else enforcing
    return Rule(polarity=polarity, enforcing=enforcing and polarity is not Polarity.DISABLED)


def with_members(world: World, now: Affinity, names: Names, cluster: str) -> Affinity:
    """Return a group with more members, each looked up; raises NotFound and InvalidField."""

    def vm(key: str) -> Member:
        return vm_member(world, key, cluster)

    def host(key: str) -> Member:
        return host_member(world, key, cluster)

    def label(key: str) -> Member:
        return Member(id=key, name=find_label(world, key).name)

    return msgspec.structs.replace(
        now,
        vms=_added("vms", now.vms, names.vms, vm),
        hosts=_added("hosts", now.hosts, names.hosts, host),
        vm_labels=_added("vm_labels", now.vm_labels, names.vm_labels, label),
        host_labels=_added("host_labels", now.host_labels, names.host_labels, label),
    )


def without_members(now: Affinity, names: Names) -> Affinity:
    """Return a group without these members; those that are none are not missed."""
    return msgspec.structs.replace(
        now,
        vms=kept(now.vms, names.vms),
        hosts=kept(now.hosts, names.hosts),
        vm_labels=kept(now.vm_labels, names.vm_labels),
        host_labels=kept(now.host_labels, names.host_labels),
    )


def added_vms(world: World, now: tuple[Member, ...], names: tuple[str, ...]) -> tuple[Member, ...]:
    """Return a label's VMs with more of them."""
    return _added("vms", now, names, lambda key: vm_member(world, key))


def added_hosts(
    world: World, now: tuple[Member, ...], names: tuple[str, ...]
) -> tuple[Member, ...]:
    """Return a label's hosts with more of them."""
    return _added("hosts", now, names, lambda key: host_member(world, key))


def kept(members: Iterable[Member], gone: Iterable[str]) -> tuple[Member, ...]:
    """Return the members but for some."""
    left = frozenset(gone)
    return tuple(member for member in members if member.id not in left)


def vm_member(world: World, key: str, cluster: str | None = None) -> Member:
    """Return a VM as a member; raises NotFound, and InvalidField where its cluster is another."""
    state = lookup.vm(world, key)
    if cluster is not None and state.cluster != cluster:
        raise _elsewhere("VM", state.name, "vms")
    return Member(id=key, name=state.name)


def host_member(
    world: World, key: str, cluster: str | None = None, *, field: str = "hosts"
) -> Member:
    """Return a host as a member; raises NotFound, and InvalidField where its cluster is another."""
    state = lookup.host(world, key)
    if cluster is not None and state.cluster != cluster:
        raise _elsewhere("Host", state.name, field)
    return Member(id=key, name=state.name)


def _elsewhere(kind: str, name: str, field: str) -> InvalidField:
    return InvalidField(
        f"{kind} {name} belongs to another cluster.",
        remedy="Name those of the same cluster.",
        field=field,
    )


def _added(
    field: str, now: tuple[Member, ...], names: Iterable[str], find: Callable[[str], Member]
) -> tuple[Member, ...]:
    known = {member.id for member in now}
    more = tuple(find(key) for key in dict.fromkeys(names) if key not in known)
    both = (*now, *more)
    if len(both) > MEMBERS_MAX:
        raise InvalidField(
            f"There would be {len(both)} {field}; {MEMBERS_MAX} are allowed.",
            remedy="Use labels, or several groups.",
            field=field,
        )
    return tuple(sorted(both, key=lambda member: (member.name, member.id)))
