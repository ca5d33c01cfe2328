"""Create a cluster."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import END, Description, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import NameTaken, NotFound
from commands.state import lookup
from events.types.cluster import ClusterCreated


@command(
    "cluster.create",
    path="/v1/clusters",
    permission="CREATE_CLUSTER",
    verb="cluster create",
    creates=True,
    refusals=(NotFound, NameTaken),
)
class CreateCluster(Command, frozen=True, kw_only=True):
    """Create a cluster.

    Hosts of a cluster are alike enough to run each other's VMs: every VM of the cluster gets its
    CPU model and exact machine type.
    """

    name: Name
    data_center: Id
    description: Description = ""
    cpu_model: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.\-]{1,64}" + END)] = "qemu64"
    machine_type: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^pc-q35-[0-9]{1,3}\.[0-9]{1,3}" + END,
            description="An exact q35 machine type, such as pc-q35-7.2.",
        ),
    ] = "pc-q35-7.2"

    def decide(self, world: World, context: Context) -> Decision:
        """Create it in its data center; the name's claim refuses a second one."""
        parent = lookup.data_center(world, self.data_center)
        created = ClusterCreated(
            name=self.name,
            data_center=parent.id,
            description=self.description,
            architecture="x86_64",
            cpu_model=self.cpu_model,
            machine_type=self.machine_type,
            compatibility_version=parent.compatibility_version,
        )
        return Decision.of(context.ids[0], *on(f"cluster/{context.ids[0]}", created))
