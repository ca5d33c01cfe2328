"""Rename a cluster, or change what it asks of its hosts and gives to its VMs."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import (
    InvalidField,
    NameTaken,
    NotFound,
    PreconditionFailed,
    WrongState,
)
from commands.state import cluster_input, fitness, lookup
from commands.state.cluster import ClusterState
from commands.state.cluster_input import (
    Bridges,
    CpuModel,
    Emulation,
    Firewall,
    MachineType,
    MemoryMax,
    MemoryMin,
)
from commands.state.compatibility import CompatibilityVersion, require_not_lowered
from commands.state.cpu_types import CpuType
from commands.state.host import HOST, HostState, HostStatus
from commands.state.mac_pool import chosen
from commands.state.serial_input import SerialNumberInput
from events.envelope import NewEvent
from events.types.cluster import ClusterUpdated

HOSTS_TOLD_MAX = 10
_AWAY = frozenset(
    {
        HostStatus.REMOVED,
        HostStatus.MAINTENANCE,
        HostStatus.NON_OPERATIONAL,
        HostStatus.INSTALLING,
        HostStatus.INSTALL_FAILED,
        HostStatus.PENDING_APPROVAL,
    }
)
"""Hosts that no VM runs on; they need not fit."""


@command(
    "cluster.update",
    method="PATCH",
    path="/v1/clusters/{id}",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="cluster update",
    refusals=(NotFound, NameTaken, WrongState, InvalidField, PreconditionFailed),
)
class UpdateCluster(Command, frozen=True, kw_only=True):
    """Rename a cluster, or change what it asks of its hosts and gives to its VMs.

    Fields that are not given stay as they are. Each host that is in use must fit, or it is refused
    with the hosts and the reasons; those in maintenance, and those that are not fit already, need
    not. Running VMs keep the CPU model, machine type and serial number that they were started with,
    NICs the addresses that they got of another MAC pool, hosts the firewall that they were
    installed with.
    """

    id: Id
    name: Name | None = None
    description: Description | None = None
    cpu_type: CpuType | None = None
    cpu_model: CpuModel | None = None
    machine_type: MachineType | None = None
    compatibility_version: CompatibilityVersion | None = None
    emulation: Emulation | None = None
    memory_min_bytes: MemoryMin | None = None
    memory_max_bytes: MemoryMax | None = None
    bridges: Bridges | None = None
    serial_number: SerialNumberInput | None = None
    mac_pool: Id | None = None
    firewall_type: Firewall | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Change what differs, and say of each host whether it is fit from now on."""
        state = lookup.cluster(world, self.id)
        lookup.require_version(context.if_match, state.configuration_version)
        wanted = self._wanted(world, state)
        if wanted == state:
            return Decision.of(self.id)
        # So it is never below the data center's either, with which every cluster begins.
        require_not_lowered(state.compatibility_version, wanted.compatibility_version)
        members = [
            host
            for member in context.hosts_of(self.id)
            if (host := world.get(HOST, member)) is not None and host.cluster == self.id
        ]
        _require_fit(members, wanted)
        renamed = wanted.name != state.name
        changed = ClusterUpdated(
            name=wanted.name,
            description=wanted.description,
            cpu_model=wanted.cpu_model,
            machine_type=wanted.machine_type,
            compatibility_version=wanted.compatibility_version,
            requirements=wanted.requirements,
            serial_number=wanted.serial_number,
            mac_pool=wanted.mac_pool,
            previous_mac_pool=state.mac_pool,
            previous_name=state.name if renamed else None,
            data_center=state.data_center if renamed else "",
            firewall_type=wanted.firewall_type,
        )
        news = [
            NewEvent(HOST.stream(host.id), found)
            for host in members
            if not host.removed
            and (found := fitness.found(host, wanted, host.capabilities)) is not None
        ]
        return Decision.of(self.id, *on(f"cluster/{self.id}", changed), *news)

    def _wanted(self, world: World, state: ClusterState) -> ClusterState:
        model = cluster_input.model_of(self.cpu_model, self.cpu_type)
        given = {
            "name": self.name,
            "description": self.description,
            "cpu_model": model,
            "machine_type": self.machine_type,
            "compatibility_version": self.compatibility_version,
            "firewall_type": self.firewall_type,
            "serial_number": self.serial_number.settings() if self.serial_number else None,
        }
        return msgspec.structs.replace(
            state,
            **{name: value for name, value in given.items() if value is not None},
            mac_pool=chosen(world, self.mac_pool) if self.mac_pool else state.mac_pool,
            requirements=cluster_input.requirements(
                state.requirements,
                emulation=self.emulation,
                memory_min_bytes=self.memory_min_bytes,
                memory_max_bytes=self.memory_max_bytes,
                bridges=self.bridges,
            ),
        )


def _is_away(host: HostState) -> bool:
    return host.status in _AWAY or host.at_rest


def _require_fit(members: list[HostState], wanted: ClusterState) -> None:
    lacking = [
        (host.name, " ".join(each.reason for each in reasons))
        for host in members
        if not _is_away(host) and (reasons := fitness.unfit(host.capabilities, wanted))
    ]
    if not lacking:
        return
    told = " ".join(f"{name}: {why}" for name, why in lacking[:HOSTS_TOLD_MAX])
    more = len(lacking) - HOSTS_TOLD_MAX
    others = f" {more} more hosts do not fit either." if more > 0 else ""
    raise WrongState(
        f"{len(lacking)} hosts of cluster {wanted.name} would not be fit. {told}{others}",
        remedy="Put them into maintenance, or into another cluster, first.",
        hosts=dict(lacking[:HOSTS_TOLD_MAX]),
    )
