"""Create a data center."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Name
from commands.kernel.fold import World
from commands.kernel.refusal import NameTaken
from commands.state.compatibility import CompatibilityVersion
from events.types.data_center import DataCenterCreated, StorageType

COMPATIBILITY_VERSION = "1.0"


@command(
    "data_center.create",
    path="/v1/data_centers",
    permission="CREATE_STORAGE_POOL",
    verb="data-center create",
    creates=True,
    refusals=(NameTaken,),
)
class CreateDataCenter(Command, frozen=True, kw_only=True):
    """Create a data center.

    A data center holds clusters. It is of use once it has a cluster with a host that is up.
    """

    name: Name
    description: Description = ""
    storage_type: StorageType = StorageType.SHARED
    compatibility_version: CompatibilityVersion = COMPATIBILITY_VERSION

    def decide(self, world: World, context: Context) -> Decision:
        """Create it under a new id; the name's claim refuses a second one."""
        del world
        created = DataCenterCreated(
            name=self.name,
            description=self.description,
            storage_type=self.storage_type,
            compatibility_version=self.compatibility_version,
        )
        return Decision.of(context.ids[0], *on(f"data_center/{context.ids[0]}", created))
