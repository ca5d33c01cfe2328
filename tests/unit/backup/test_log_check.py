"""A log that does not hold together is refused, with what is wrong."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from chronovisor.backup_format import BackupError, BrokenBackupError, LogFacts
from chronovisor.backup_log import LogCheck
from events.types.data_center import DataCenterRenamed
from tests.unit.backup.samples import (
    CLAIMS,
    CLUSTER,
    DATA_CENTER,
    EVENTS,
    Row,
    answer_row,
    claim_row,
    copied,
    event_row,
    facts,
)


def check(
    events: Iterable[Row] = EVENTS,
    claims: Iterable[Row] = CLAIMS,
    answers: Iterable[Row] = (answer_row(1, 2),),
    log: LogFacts | None = None,
) -> None:
    found = LogCheck(log or facts())
    # In pieces of a few bytes: rows go over the borders of chunks.
    found.events(pieces(copied(events)), lambda _events: None)
    found.claims(pieces(copied(claims)))
    found.answers(pieces(copied(answers)))


def pieces(content: bytes) -> Iterable[bytes]:
    return (content[place : place + 5] for place in range(0, len(content), 5))


def test_a_whole_log_passes() -> None:
    check()


def test_an_empty_log_passes() -> None:
    empty = LogFacts(
        log_id=facts().log_id,
        position=0,
        last_time=None,
        claims=0,
        answers=0,
        columns=facts().columns,
        migrations=(),
    )
    check([], [], [], empty)


def test_a_gap_is_found() -> None:
    rows = (EVENTS[0], event_row(3, "cluster/c1", 1, CLUSTER))
    with pytest.raises(BrokenBackupError, match="position 3 where 2 must come"):
        check(rows)


def test_a_stream_with_a_version_left_out_is_found() -> None:
    rows = (EVENTS[0], event_row(2, "data_center/d1", 3, DATA_CENTER))
    with pytest.raises(BrokenBackupError, match="version 3"):
        check(rows)


def test_time_that_falls_is_found() -> None:
    rows = (
        event_row(1, "data_center/d1", 1, DATA_CENTER, second=5),
        event_row(2, "cluster/c1", 1, CLUSTER, second=2),
    )
    with pytest.raises(BrokenBackupError, match="time falls at position 2"):
        check(rows)


def test_fewer_events_than_the_manifest_says_are_found() -> None:
    with pytest.raises(BrokenBackupError, match="2 events, the manifest says 3"):
        check(log=facts(3))


def test_a_payload_that_cannot_be_read_is_found() -> None:
    rows = (EVENTS[0], (*EVENTS[1][:-1], b"{"))
    with pytest.raises(BrokenBackupError, match="position 2"):
        check(rows)


def test_an_event_of_a_newer_release_is_named_as_such() -> None:
    newer = (*EVENTS[1][:5], b"cluster.dreamt", b"{}")
    with pytest.raises(BackupError, match="newer release"):
        check((EVENTS[0], newer))


def test_a_claim_that_no_event_made_is_found() -> None:
    rows = [*CLAIMS, claim_row("mac/1", "vm/1", "exclusive")]
    with pytest.raises(BrokenBackupError, match="does not follow from the events"):
        check(claims=rows)


def test_a_claim_that_is_missing_is_found() -> None:
    with pytest.raises(BrokenBackupError, match="claims are missing"):
        check(claims=CLAIMS[1:])


def test_a_claim_given_back_must_be_gone() -> None:
    renamed = DataCenterRenamed(name="South", previous_name="North")
    rows = (*EVENTS, event_row(3, "data_center/d1", 2, renamed))
    with pytest.raises(BrokenBackupError):
        check(rows, log=facts(3))


def test_an_answer_beyond_the_log_is_found() -> None:
    with pytest.raises(BrokenBackupError, match="beyond the log"):
        check(answers=[answer_row(2, 2)])


def test_rows_that_end_in_the_middle_are_found() -> None:
    found = LogCheck(facts())
    with pytest.raises(BrokenBackupError, match="middle"):
        found.events([copied(EVENTS)[:-3]], lambda _events: None)
