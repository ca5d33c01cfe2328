"""Each event type is folded by the view of its stream, or left out on purpose."""

import pytest

from events.types.base import Event
from events.types.catalogue import TYPES
from projections.views import (
    affinity,
    cluster,
    data_center,
    host,
    mac_pool,
    operation,
    scheduling_policy,
    vm,
)
from projections.views.inventory import IGNORED_KINDS
from projections.views.parts import View

VIEWS: dict[str, View] = {  # type: ignore[type-arg]
    view.kind: view
    for view in (
        *(data_center.VIEW, cluster.VIEW, host.VIEW, vm.VIEW, operation.VIEW),
        *(affinity.GROUP_VIEW, affinity.LABEL_VIEW, mac_pool.VIEW, scheduling_policy.VIEW),
    )
}


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_event_type_is_folded_or_listed_as_ignored(name: str) -> None:
    kind = name.partition(".")[0]
    if kind in IGNORED_KINDS:
        assert kind not in VIEWS
        return
    places = _places(VIEWS[kind], TYPES[name].cls)
    assert places, f"{name}: fold it in projections/views/{kind}.py, or list it as ignored there"
    assert len(places) == 1, f"{name} has several places: {places}"


@pytest.mark.parametrize("kind", sorted(VIEWS))
def test_a_view_speaks_of_no_event_of_another_kind(kind: str) -> None:
    view = VIEWS[kind]
    mine = {found.cls for name, found in TYPES.items() if name.startswith(f"{kind}.")}
    assert set(view.changes) | view.ignores | {view.created, view.removed} - {None} <= mine | {None}


def test_a_forgotten_event_type_would_be_noticed() -> None:
    class Forgotten(Event, frozen=True, kw_only=True):
        """Nobody folds it."""

    assert _places(vm.VIEW, Forgotten) == []


def _places(view: View, cls: type[Event]) -> list[str]:  # type: ignore[type-arg]
    places = {
        "created": cls is view.created,
        "removed": cls is view.removed,
        "changes": cls in view.changes,
        "ignores": cls in view.ignores,
    }
    return [name for name, there in places.items() if there]
