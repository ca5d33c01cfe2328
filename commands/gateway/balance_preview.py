"""Which VMs of a cluster would be moved if it were balanced now; nothing is reserved or begun."""

from __future__ import annotations

import msgspec

from commands.gateway.placement import Placement
from commands.state.cluster import ClusterState
from events.types.balancing import HostFigures, PlannedMove
from events.types.cluster import Scheduling


class BalancePreview(msgspec.Struct, frozen=True, kw_only=True):
    """The moves that would make a cluster better as of `position`, the most urgent first.

    `hosts` has the load of those that are touched, before and after. No moves: all is well, or
    what is not cannot be helped.
    """

    cluster: str
    cluster_name: str
    position: int
    scheduling: Scheduling
    moves: tuple[PlannedMove, ...]
    hosts: tuple[HostFigures, ...]


def preview(placement: Placement, cluster: ClusterState) -> BalancePreview:
    """Return what balancing would do now."""
    # They take 16 MiB, and few engines are ever asked.
    from commands.scheduler.balance import plan  # noqa: PLC0415
    from commands.scheduler.draft import busy_hosts  # noqa: PLC0415

    view = placement.view
    vms = {key: vm for key, vm in view.vms.items() if vm.cluster == cluster.id}
    found = plan(
        placement.current_fleet(),
        cluster,
        vms.values(),
        busy=busy_hosts(vms),
        moves_max=cluster.balance.settings.moves_max,
    )
    return BalancePreview(
        cluster=cluster.id,
        cluster_name=cluster.name,
        position=view.position,
        scheduling=cluster.scheduling,
        moves=found.moves,
        hosts=found.hosts,
    )
