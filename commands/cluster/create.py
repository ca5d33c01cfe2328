"""Create a cluster."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NameTaken, NotFound
from commands.state import lookup
from commands.state.cluster_input import (
    Bridges,
    CpuModel,
    Emulation,
    Firewall,
    MachineType,
    MemoryMax,
    MemoryMin,
    model_of,
    requirements,
)
from commands.state.cpu_types import CpuType
from commands.state.mac_pool import chosen
from commands.state.serial_input import SerialNumberInput
from events.types.cluster import ClusterCreated
from events.types.cluster_requirements import (
    MEMORY_MAX_BYTES,
    MEMORY_MIN_BYTES,
    FirewallType,
    Requirements,
)

ARCHITECTURE = "x86_64"
CPU_MODEL = "qemu64"
"""What every host can give, emulated or not."""


@command(
    "cluster.create",
    path="/v1/clusters",
    permission="CREATE_CLUSTER",
    verb="cluster create",
    creates=True,
    refusals=(NotFound, NameTaken, InvalidField),
)
class CreateCluster(Command, frozen=True, kw_only=True):
    """Create a cluster.

    Hosts of a cluster are alike enough to run each other's VMs: every VM of the cluster gets its
    CPU model (of oVirt's CPU types, or any by libvirt's name; qemu64 if none is given) and exact
    machine type. Hosts that lack either, or what else is required, are non-operational.
    """

    name: Name
    data_center: Id
    description: Description = ""
    cpu_type: CpuType | None = None
    cpu_model: CpuModel | None = None
    machine_type: MachineType = "pc-q35-7.2"
    emulation: Emulation = True
    memory_min_bytes: MemoryMin = MEMORY_MIN_BYTES
    memory_max_bytes: MemoryMax = MEMORY_MAX_BYTES
    bridges: Bridges = ()
    serial_number: SerialNumberInput = SerialNumberInput()
    mac_pool: Id | None = None
    firewall_type: Firewall = FirewallType.AUTO

    def decide(self, world: World, context: Context) -> Decision:
        """Create it in its data center; the name's claim refuses a second one."""
        parent = lookup.data_center(world, self.data_center)
        created = ClusterCreated(
            name=self.name,
            data_center=parent.id,
            description=self.description,
            architecture=ARCHITECTURE,
            cpu_model=model_of(self.cpu_model, self.cpu_type) or CPU_MODEL,
            machine_type=self.machine_type,
            compatibility_version=parent.compatibility_version,
            requirements=requirements(
                Requirements(),
                emulation=self.emulation,
                memory_min_bytes=self.memory_min_bytes,
                memory_max_bytes=self.memory_max_bytes,
                bridges=self.bridges,
            ),
            serial_number=self.serial_number.settings(),
            mac_pool=chosen(world, self.mac_pool),
            firewall_type=self.firewall_type,
        )
        return Decision.of(context.ids[0], *on(f"cluster/{context.ids[0]}", created))
