"""Dry runs of the scheduler: where a VM would be placed now, and what speaks against each host.

The engine answers from its own view, with a fleet of its own that is brought up to date when it is
asked: states never change in place, so whatever is another object than last time has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from commands.gateway.loads import LoadKeeper
from commands.gateway.view import GatewayView, ViewWorld
from commands.scheduler.need import Assessment, need_of, need_to_move
from commands.state import lookup
from commands.state.affinity import ResolvedGroup
from commands.state.cluster import ClusterState
from commands.state.host import HostState
from commands.state.vm import VmState
from events.types.cluster import Scheduling

if TYPE_CHECKING:
    from commands.scheduler.fleet import Fleet

HOSTS_SHOWN_MAX = 10_000
"""The most hosts of one answer: the best ones; some 4 MB."""


class PlacementAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler would do with a VM as of `position`; nothing is reserved.

    `host` is where it would be started or, while it runs, moved to. `hosts` says of each host how
    it ranks, or every reason why not: the best first, then those that cannot take it, at most
    10,000. `hosts_total` counts all.
    """

    vm: str
    position: int
    scheduling: Scheduling
    host: str | None
    host_name: str
    hosts: tuple[Assessment, ...]
    hosts_total: int


class Placement:
    """Answers dry runs. The scheduler is imported by the first one: it takes 16 MiB."""

    def __init__(self, view: GatewayView, loads: LoadKeeper | None = None) -> None:
        self._view = view
        self._loads = loads
        self._hosts: dict[str, HostState] = {}
        self._vms: dict[str, VmState] = {}
        self._fleet: Fleet | None = None
        self._groups: dict[str, list[ResolvedGroup]] = {}

    @property
    def view(self) -> GatewayView:
        """The view that dry runs are answered from."""
        return self._view

    @property
    def position(self) -> int:
        """The position up to which the view has the log."""
        return self._view.position

    def cluster_of(self, vm: str) -> str:
        """Return the id of a VM's cluster; raises NotFound."""
        return lookup.vm(ViewWorld(self._view), vm).cluster

    def dry_run(self, vm_id: str, cluster: ClusterState) -> PlacementAnswer:
        """Return where a VM would be started now, or moved to while it runs; raises NotFound."""
        vm = lookup.vm(ViewWorld(self._view), vm_id)
        if vm.run is None:
            need = need_of(vm, cluster)
        else:
            need = need_to_move(vm, cluster, self._view.hosts.get(vm.run.host))
        found = self.current_fleet().assess(need)
        best = found[0] if found and found[0].rank is not None else None
        return PlacementAnswer(
            vm=vm_id,
            position=self._view.position,
            scheduling=cluster.scheduling,
            host=best.host if best is not None else None,
            host_name=best.host_name if best is not None else "",
            hosts=tuple(found[:HOSTS_SHOWN_MAX]),
            hosts_total=len(found),
        )

    def group(self, cluster: str, groups: list[ResolvedGroup]) -> None:
        """Learn a cluster's affinity groups, in place of those that were known."""
        self._groups[cluster] = groups

    def current_fleet(self) -> Fleet:
        """Return all hosts with what is taken of them, as of the view's position."""
        made = self._fleet is None
        if self._fleet is None:
            from commands.scheduler.fleet import Fleet  # noqa: PLC0415 - it takes 16 MiB

            self._fleet = Fleet()
        fleet, view = self._fleet, self._view
        for key, host in view.hosts.items():
            if self._hosts.get(key) is not host:
                self._hosts[key] = host
                fleet.put(host)
        for key, vm in view.vms.items():
            before = self._vms.get(key)
            if before is not vm:
                self._vms[key] = vm
                if before is not None:
                    fleet.account(before, -1)
                fleet.account(vm, 1)
        if len(self._vms) > len(view.vms):
            for key in self._vms.keys() - view.vms.keys():
                fleet.account(self._vms.pop(key), -1)
        for key, groups in self._groups.items():
            fleet.group(key, groups)
        self._groups.clear()
        if made and self._loads is not None:
            self._loads.show(fleet)
        return fleet

    def fleet_in_use(self) -> Fleet | None:
        """Return the same, None while nobody has asked for it yet."""
        return self.current_fleet() if self._fleet is not None else None
