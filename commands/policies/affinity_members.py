"""A watch that takes VMs and hosts that were removed out of affinity groups and labels."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence

import msgspec

from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.policies.facts import Facts
from commands.policies.saga import Timeouts
from commands.policies.watch import Beginning, Watch
from commands.state.affinity import find_group, find_label
from commands.state.affinity_change import group_updated, label_updated
from commands.state.affinity_input import Names, kept, without_members
from commands.state.host import HostState
from commands.state.vm import VmState, VmStatus
from events.types.affinity import Member

Decide = Callable[[World, Context], Decision]


class Members(Watch):
    """Looks at all groups and labels whenever a VM or a host was removed."""

    def __init__(self, timeouts: Timeouts) -> None:
        del timeouts
        self._changed = True

    def vm(self, before: VmState | None, after: VmState | None) -> None:
        """Note that a VM was removed."""
        del before
        self._changed = self._changed or after is None or after.status is VmStatus.REMOVED

    def host(self, before: HostState | None, after: HostState | None) -> None:
        """Note that a host was removed."""
        del before
        self._changed = self._changed or after is None or after.removed

    def due(self, facts: Facts, now: dt.datetime) -> Sequence[Beginning]:
        """Return what is to be taken out."""
        del now
        if not self._changed:
            return ()
        wanted = list(_gone(facts))
        self._changed = bool(wanted)
        return wanted


def _gone(facts: Facts) -> Iterator[Beginning]:
    for group in facts.affinity.groups.values():
        members = _removed(facts, group.affinity.vms, group.affinity.hosts)
        for member in members[:1]:  # one change of a group at a time
            yield _out(f"affinity_group/{group.id}", member, _out_of_group(group.id, member))
    for label in facts.affinity.labels.values():
        for member in _removed(facts, label.vms, label.hosts)[:1]:
            yield _out(f"affinity_label/{label.id}", member, _out_of_label(label.id, member))


def _removed(facts: Facts, vms: Sequence[Member], hosts: Sequence[Member]) -> list[Member]:
    gone = []
    for member in vms:
        vm = facts.vms.get(member.id)
        if vm is None or vm.status is VmStatus.REMOVED:
            gone.append(member)
    for member in hosts:
        host = facts.hosts.get(member.id)
        if host is None or host.removed:
            gone.append(member)
    return gone


def _out(target: str, member: Member, decide: Decide) -> Beginning:
    return Beginning(cause=f"removed/{member.id}", target=target, decide=decide)


def _out_of_group(key: str, member: Member) -> Decide:
    def decide(world: World, context: Context) -> Decision:
        del context
        state = find_group(world, key)
        names = Names(vms=(member.id,), hosts=(member.id,))
        left = msgspec.structs.replace(state, affinity=without_members(state.affinity, names))
        updated = group_updated(state, left, member.name)
        return Decision.of(key, *on(f"affinity_group/{key}", updated))

    return decide


def _out_of_label(key: str, member: Member) -> Decide:
    def decide(world: World, context: Context) -> Decision:
        del context
        state = find_label(world, key)
        left = msgspec.structs.replace(
            state, vms=kept(state.vms, (member.id,)), hosts=kept(state.hosts, (member.id,))
        )
        return Decision.of(
            key, *on(f"affinity_label/{key}", label_updated(state, left, member.name))
        )

    return decide
