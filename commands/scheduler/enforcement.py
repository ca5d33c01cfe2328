"""Moves that keep affinity groups: what must be so first, and VMs and hosts before VMs and VMs.

The order is oVirt's: enforcing rules about hosts, then about VMs, then soft rules about hosts, and
soft rules about VMs. Soft rules move a VM only to where fewer of them, or lesser ones, are broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from commands.scheduler.bounds import Bounds, Wish
from commands.scheduler.draft import Draft
from commands.state.vm import VmState


def enforce(draft: Draft) -> None:
    """Move VMs until all groups are kept, as far as that goes."""
    for look in (_bound, _together, _apart):
        look(draft)
    for hosts in (True, False):
        for vm, host in _grouped(draft):
            bounds = draft.affinities.bounds(vm.id, draft.fleet.places)
            if draft.left > 0 and bounds is not None:
                _grant(draft, vm, host, bounds, hosts=hosts)


def _grouped(draft: Draft) -> Iterator[tuple[VmState, str]]:
    """Yield the VMs of groups that may be moved, and those that are pinned, with their hosts."""
    in_groups = {vm for group in draft.affinities.groups for vm in group.vms}
    found = [
        (vm, host)
        for host, vms in draft.movable.items()
        if host not in draft.busy
        for vm in vms.values()
        if vm.id in in_groups or vm.host_choice.pinned
    ]
    yield from sorted(found, key=lambda pair: (pair[0].name, pair[0].id))


def _bound(draft: Draft) -> None:
    """Keep enforcing rules about hosts, and VMs on the hosts that they are pinned to."""
    for vm, host in _grouped(draft):
        reason = _strays(draft, vm, host)
        if reason and draft.left > 0:
            destination = draft.choose(draft.need(vm, host))
            if destination is not None:
                draft.move(vm, host, destination, reason, affinity=True)


def _strays(draft: Draft, vm: VmState, host: str) -> str:
    name = draft.candidate(host).host.name
    choice = vm.host_choice
    if choice.pinned and host not in {member.id for member in choice.hosts}:
        return f"It is pinned to other hosts than {name}."
    bounds = draft.affinities.bounds(vm.id, draft.fleet.places)
    if bounds is None:
        return ""
    for each in bounds.bound:
        if host not in each.hosts:
            return f"Affinity group {each.group} keeps it on other hosts than {name}."
    for each in bounds.barred:
        if host in each.hosts:
            return f"Affinity group {each.group} keeps it off host {name}."
    return ""


def _together(draft: Draft) -> None:
    """Bring VMs that must be together to the host that has most of them."""
    for vms, names in draft.affinities.sets():
        at: dict[str, list[str]] = {}
        for vm in sorted(vms):
            for host in filter(draft.knows, draft.fleet.places(vm)):
                at.setdefault(host, []).append(vm)
        if len(at) < 2:  # noqa: PLR2004 - they are on one host, or on none
            continue
        anchor = max(sorted(at), key=lambda host: len(at[host]))
        reason = (
            f"Affinity group {', '.join(names)} keeps it on one host with the VMs on"
            f" {draft.candidate(anchor).host.name}."
        )
        for host in sorted(set(at) - {anchor}):
            for key in at[host]:
                found = draft.movable[host].get(key)
                if found is None or draft.left <= 0 or host in draft.busy:
                    continue
                need = msgspec.structs.replace(draft.need(found, host), only_host=anchor)
                if draft.choose(need) is not None:
                    draft.move(found, host, anchor, reason, affinity=True)


def _apart(draft: Draft) -> None:
    """Part VMs that must not be on one host."""
    for vm, host in _grouped(draft):
        bounds = draft.affinities.bounds(vm.id, draft.fleet.places)
        if bounds is None or host not in bounds.apart or draft.left <= 0:
            continue
        other, group = bounds.apart[host]
        destination = draft.choose(draft.need(vm, host))
        if destination is not None:
            reason = f"Affinity group {group} keeps it and VM {other} apart."
            draft.move(vm, host, destination, reason, affinity=True)


def _grant(draft: Draft, vm: VmState, host: str, bounds: Bounds, *, hosts: bool) -> None:
    """Move a VM where its most important broken wish comes true, and no greater one is broken."""
    wishes = bounds.host_wishes if hosts else bounds.vm_wishes
    broken = [wish for wish in wishes if _breaks(wish, host)]
    if not broken:
        return
    wish = max(broken, key=lambda each: each.priority)
    need = draft.need(vm, host)
    if wish.wanted:
        allowed = wish.hosts if need.pinned is None else wish.hosts & need.pinned
        need = msgspec.structs.replace(need, pinned=allowed)
    else:
        need = msgspec.structs.replace(need, avoid=need.avoid | wish.hosts)
    destination = draft.choose(need)
    every = (*bounds.host_wishes, *bounds.vm_wishes)
    if destination is None or _score(every, destination) >= _score(every, host):
        return
    away = f"off host {draft.candidate(host).host.name}"
    where = f"on host {draft.candidate(destination).host.name}" if wish.wanted else away
    reason = f"Affinity group {wish.group} would have it {where}."
    draft.move(vm, host, destination, reason, affinity=True)


def _breaks(wish: Wish, host: str) -> bool:
    return (host in wish.hosts) is not wish.wanted


def _score(wishes: Sequence[Wish], host: str) -> tuple[int, ...]:
    """Return how many wishes a host breaks, for each priority, the highest first."""
    levels = sorted({wish.priority for wish in wishes}, reverse=True)
    return tuple(
        sum(_breaks(wish, host) for wish in wishes if wish.priority == level) for level in levels
    )
