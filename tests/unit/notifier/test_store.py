"""The notifier's memory, its routes, and the local file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.stream.port import Cursor
from events.types.base import Severity
from notifier.filters import FilterError, parse_filter
from notifier.local_file import FileChannel
from notifier.mail import MailChannel, MailSettings
from notifier.routing import Routes, known_events
from notifier.store import Address, Place, Store, StoreUnavailableError
from tests.unit.notifier.samples import LOG, notification

ANN, BEN = Address("smtp", "ann@example.org"), Address("smtp", "ben@example.org")
MAIL = MailChannel(MailSettings(server="localhost"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def place(position: int) -> Place:
    return Place(cursor=Cursor(LOG, position, 3))


def test_queues_are_in_order_for_each_address(store: Store) -> None:
    assert store.place() is None
    store.take(place(2), [(ANN, notification(1)), (BEN, notification(1)), (ANN, notification(2))])
    assert store.place() == place(2)
    (first,) = store.next(ANN)
    assert first.notification == notification(1)
    store.told(ANN, [first])
    (second,) = store.next(ANN)
    assert second.notification.position == 2
    assert [(each.address, each.waiting) for each in store.queues()] == [(ANN, 1), (BEN, 1)]
    assert store.told_count() == 1


def test_a_failure_keeps_the_entry_and_a_refusal_sets_it_aside(store: Store) -> None:
    store.take(place(2), [(ANN, notification(1)), (ANN, notification(2))])
    (first,) = store.next(ANN)
    store.failed(first, "not now")
    (again,) = store.next(ANN)
    assert (again.id, again.attempts) == (first.id, 1)
    assert store.queues()[0].last_error == "not now"
    store.set_aside(again, "never")
    (following,) = store.next(ANN)
    assert following.notification.position == 2
    assert store.set_aside_count() == 1


def test_several_are_struck_off_at_once_in_their_order(store: Store) -> None:
    store.take(place(3), [(ANN, notification(position)) for position in (1, 2, 3)])
    entries = store.next(ANN, 2)
    assert [entry.notification.position for entry in entries] == [1, 2]
    store.told(ANN, entries)
    assert [entry.notification.position for entry in store.next(ANN, 9)] == [3]
    assert store.told_count() == 2


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.take(place(9), [(ANN, notification(9))])
    first.close()
    second = Store(tmp_path)
    assert second.place() == place(9)
    assert len(second.next(ANN)) == 1
    second.close()


def test_a_second_notifier_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifier.store.BUSY_TIMEOUT_S", 0.1)
    with pytest.raises(StoreUnavailableError, match="another notifier has it"):
        Store(tmp_path)


def test_a_filter_for_what_is_not_configured_is_refused_where_it_says_so() -> None:
    text = "include:*(smtp:ann@example.org) include:*(snmp:)"
    with pytest.raises(FilterError, match="transport 'snmp' is not configured") as refusal:
        Routes(text, parse_filter(text), [MAIL])
    assert refusal.value.offset == 32
    wrong = "include:*(smtp:ann)"
    with pytest.raises(FilterError, match="no mail address"):
        Routes(wrong, parse_filter(wrong), [MAIL])


def test_routes_follow_the_filter() -> None:
    text = "include:*:ERROR(smtp:ann@example.org)"
    routes = Routes(text, parse_filter(text), [MAIL])
    assert routes.addresses == (ANN,)
    assert routes.to(notification()) == (ANN,)
    assert routes.to(notification(severity=Severity.NORMAL)) == ()


def test_all_goes_to_the_file_while_nothing_is_configured(tmp_path: Path) -> None:
    text = "exclude:* include:*(smtp:ann@example.org)"
    routes = Routes(text, parse_filter(text), [FileChannel(tmp_path / "x")])
    assert routes.to(notification(severity=Severity.NORMAL)) == (Address("file", ""),)


def test_the_records_of_this_release_are_known() -> None:
    assert {"VM_DOWN_ERROR", "USER_RUN_VM", "VDS_FAILURE"} <= known_events()


async def test_the_file_gets_each_line_once_over_kills(tmp_path: Path) -> None:
    path = tmp_path / "notifications.log"
    channel = FileChannel(path)
    await channel.deliver("", [notification(1)])
    await channel.deliver("", [notification(2), notification(3)])
    with path.open("ab") as file:
        file.write(b'{"id":"torn')  # killed while it wrote
    after = FileChannel(path)
    queued = [notification(2), notification(3), notification(4)]
    await after.deliver("", queued)  # killed before two of them were struck off the queue
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["position"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["id"] == f"{LOG}/1"
    assert path.stat().st_mode & 0o777 == 0o600


async def test_the_file_knows_its_last_lines_again_in_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "notifications.log"
    told = [notification(position, message="x" * 5_000) for position in range(300)]
    for each in told:
        await FileChannel(path).deliver("", [each])
    await FileChannel(path).deliver("", [*told[-150:], notification(300)])
    positions = [json.loads(line)["position"] for line in path.read_text().splitlines()]
    assert positions == list(range(301))
