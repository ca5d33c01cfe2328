"""A VM's attempts to leave its host: whether a host took part in what failed."""

from __future__ import annotations

import datetime as dt
import uuid

from commands.state import vm_leaving
from commands.state.vm_leaving import Leaving
from events.envelope import Recorded
from events.types.base import Event, type_of
from events.types.vm_migration import VmMigrationFailed, VmMigrationRetried

RETRIED = VmMigrationRetried(
    name="web01",
    incarnation=1,
    host_name="h1",
    destination="h2",
    destination_name="h2",
    reason="it would not",
)
FAILED = VmMigrationFailed(
    name="web01", incarnation=1, host_name="h1", destination="", reason="No other host can."
)


def after(*events: tuple[Event, str]) -> Leaving:
    state = Leaving()
    for position, (event, operation) in enumerate(events, 1):
        recorded = Recorded(
            position=position,
            stream="vm/1",
            version=position,
            name=type_of(type(event)).name,
            event=event,
            time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            actor="policy",
            command=uuid.UUID(int=position),
            correlation=operation,
        )
        state = vm_leaving.evolve(state, recorded)
    return state


def test_a_host_that_did_not_take_it_in_took_part() -> None:
    state = after((RETRIED, "first"), (FAILED, "first"), (FAILED, "second"))
    assert [one.begun for one in state.failed] == [True, False]
    assert state.count == 2


def test_what_went_on_elsewhere_and_came_to_its_end_is_no_failure() -> None:
    assert after((RETRIED, "first")).count == 0
    assert [one.begun for one in after((RETRIED, "first"), (FAILED, "second")).failed] == [False]
