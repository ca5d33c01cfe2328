"""The state of a data center."""

from __future__ import annotations

import msgspec

from commands.kernel.fold import Fold
from events.envelope import Recorded
from events.types.data_center import (
    DataCenterCreated,
    DataCenterRemoved,
    DataCenterRenamed,
    DataCenterVersionRaised,
    StorageType,
)


class DataCenterState(msgspec.Struct, frozen=True, kw_only=True):
    """A data center, as decisions see it."""

    id: str
    name: str
    description: str
    storage_type: StorageType
    compatibility_version: str
    configuration_version: int = 1
    removed: bool = False


def evolve(state: DataCenterState | None, recorded: Recorded) -> DataCenterState | None:
    """Fold one event of a data center's stream."""
    event = recorded.event
    if isinstance(event, DataCenterCreated):
        return DataCenterState(
            id=recorded.object_id,
            name=event.name,
            description=event.description,
            storage_type=event.storage_type,
            compatibility_version=event.compatibility_version,
        )
    if state is None:
        return None
    if isinstance(event, DataCenterRenamed):
        return msgspec.structs.replace(
            state,
            name=event.name,
            description=event.description,
            configuration_version=state.configuration_version + 1,
        )
    if isinstance(event, DataCenterVersionRaised):
        return msgspec.structs.replace(
            state,
            compatibility_version=event.compatibility_version,
            configuration_version=state.configuration_version + 1,
        )
    if isinstance(event, DataCenterRemoved):
        return msgspec.structs.replace(state, removed=True)
    return state


DATA_CENTER = Fold("data_center", DataCenterState, evolve)
