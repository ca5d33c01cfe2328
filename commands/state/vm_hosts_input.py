"""What admins say of the hosts that a VM may run on, and what it comes to."""

from __future__ import annotations

from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField
from commands.state.affinity_input import host_member
from commands.state.vm_hosts import HostChoice


def host_choice(
    world: World, cluster: str, hosts: tuple[str, ...], *, pinned: bool, field: str = "hosts"
) -> HostChoice:
    """Return the choice of hosts, by name; raises NotFound, and InvalidField in `field`."""
    if pinned and not hosts:
        raise InvalidField(
            "A VM cannot be pinned to no host.",
            remedy="Name hosts, or leave 'pinned' out to let it run on any.",
            field=field,
        )
    members = {key: host_member(world, key, cluster, field=field) for key in hosts}
    return HostChoice(
        hosts=tuple(sorted(members.values(), key=lambda member: (member.name, member.id))),
        pinned=pinned,
    )
