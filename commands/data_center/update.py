"""Rename a data center, describe it, or raise its compatibility version."""

from __future__ import annotations

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
from commands.state import lookup
from commands.state.cluster import CLUSTER
from commands.state.compatibility import CompatibilityVersion, is_below, require_not_lowered
from commands.state.data_center import DataCenterState
from events.types.base import Event
from events.types.data_center import DataCenterRenamed, DataCenterVersionRaised

CLUSTERS_TOLD_MAX = 10


@command(
    "data_center.update",
    method="PATCH",
    path="/v1/data_centers/{id}",
    permission="EDIT_STORAGE_POOL_CONFIGURATION",
    verb="data-center update",
    refusals=(NotFound, NameTaken, InvalidField, WrongState, PreconditionFailed),
)
class UpdateDataCenter(Command, frozen=True, kw_only=True):
    """Rename a data center, describe it, or raise its compatibility version.

    Fields that are not given stay as they are. Clusters begin with the data center's compatibility
    version, and none may be below it: those that are there are raised first. It is never lowered.
    """

    id: Id
    name: Name | None = None
    description: Description | None = None
    compatibility_version: CompatibilityVersion | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Change what differs; no event where nothing does."""
        state = lookup.data_center(world, self.id)
        lookup.require_version(context.if_match, state.configuration_version)
        events = (*self._named(state), *self._raised(world, context, state))
        return Decision.of(self.id, *on(f"data_center/{self.id}", *events))

    def _named(self, state: DataCenterState) -> tuple[Event, ...]:
        changed = DataCenterRenamed(
            name=state.name if self.name is None else self.name,
            previous_name=state.name,
            description=state.description if self.description is None else self.description,
        )
        if (changed.name, changed.description) == (state.name, state.description):
            return ()
        return (changed,)

    def _raised(self, world: World, context: Context, state: DataCenterState) -> tuple[Event, ...]:
        wanted = self.compatibility_version
        if wanted is None or wanted == state.compatibility_version:
            return ()
        require_not_lowered(state.compatibility_version, wanted)
        _require_no_cluster_below(world, context, state, wanted)
        raised = DataCenterVersionRaised(
            name=state.name if self.name is None else self.name,
            compatibility_version=wanted,
            previous_version=state.compatibility_version,
        )
        return (raised,)


def _require_no_cluster_below(
    world: World, context: Context, state: DataCenterState, wanted: str
) -> None:
    found = (world.get(CLUSTER, key) for key in context.clusters_of(state.id))
    below = sorted(
        cluster.name
        for cluster in found
        if cluster is not None
        and not cluster.removed
        and is_below(cluster.compatibility_version, wanted)
    )
    if not below:
        return
    more = len(below) - CLUSTERS_TOLD_MAX
    others = f" and {more} more" if more > 0 else ""
    raise WrongState(
        f"Clusters of data center {state.name} have a compatibility version below {wanted}:"
        f" {', '.join(below[:CLUSTERS_TOLD_MAX])}{others}.",
        remedy="Raise theirs first, with 'cluster update --compatibility-version'.",
    )
