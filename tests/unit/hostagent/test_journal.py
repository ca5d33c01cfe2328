"""The journal remembers what counted, whatever a crash leaves of its file."""

import asyncio
import datetime as dt
import os
from pathlib import Path

import pytest

from events.types.job import JobKind
from events.types.vm import DownReason
from events.wire.agent import JobState
from hostagent import journal as journal_module
from hostagent.journal import BORN_NAME, JOURNAL_NAME, Journal, JournalLockedError
from hostagent.records import (
    Begun,
    Done,
    JobBegun,
    JobEnded,
    JobForgotten,
    LossAnswered,
    Lost,
    Record,
    Remembered,
    Resets,
    RunKey,
    Tombstone,
    Up,
)
from tests.unit.hostagent.samples import OTHER, VM

T = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
STORY: tuple[Record, ...] = (
    Begun(vm=VM, incarnation=1, boot="b1", time=T),
    Done(vm=VM, incarnation=1, time=T),
    Up(vm=VM, incarnation=1),
    Resets(vm=VM, incarnation=1, count=2),
    JobBegun(job="j1", kind=JobKind.VM_SHUTDOWN, vm=VM, incarnation=1, time=T),
    Tombstone(vm=VM, incarnation=1, reason=DownReason.ADMIN, detail="ä", time=T),
    JobEnded(job="j1", state=JobState.DONE),
    Begun(vm=OTHER, incarnation=4, boot="b1", restored=True, time=T),
    JobBegun(job="j2", kind=JobKind.VM_REBOOT, vm=OTHER, incarnation=4, time=T),
)


def known(remembered: Remembered) -> tuple[object, ...]:
    return (remembered.runs, remembered.jobs, remembered.lost)


def reopened(folder: Path) -> Remembered:
    journal = Journal.open(folder)
    journal.close()
    return journal.known


async def told(folder: Path) -> bytes:
    """Write the story and return the file."""
    journal = Journal.open(folder)
    for record in STORY:
        await journal.write(record)
    journal.close()
    return (folder / JOURNAL_NAME).read_bytes()


async def test_what_was_written_is_known_after_a_restart(tmp_path: Path) -> None:
    await told(tmp_path)

    after = reopened(tmp_path)

    assert known(after) == known(Remembered(STORY))
    one, other = after.runs[RunKey(VM, 1)], after.runs[RunKey(OTHER, 4)]
    assert one.tombstone is not None
    assert one.tombstone.reason is DownReason.ADMIN
    assert (other.boot, other.restored, other.done) == ("b1", True, None)
    assert after.jobs["j1"].state is JobState.DONE
    assert after.jobs["j2"].state is None
    assert not after.lost


async def test_a_tail_torn_at_any_byte_loses_only_what_was_not_yet_durable(
    tmp_path: Path,
) -> None:
    data = await told(tmp_path / "whole")
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for length in range(len(data) + 1):
        folder = tmp_path / f"cut-{length}"
        folder.mkdir()
        (folder / JOURNAL_NAME).write_bytes(data[:length])
        (folder / BORN_NAME).touch()
        whole = sum(end <= length for end in ends)

        after = reopened(folder)

        expected = Remembered(STORY[:whole])
        assert known(after) == known(expected), f"cut at {length}"


async def test_writing_goes_on_after_a_torn_tail(tmp_path: Path) -> None:
    data = await told(tmp_path)
    (tmp_path / JOURNAL_NAME).write_bytes(data[:-10])

    journal = Journal.open(tmp_path)
    await journal.write(Begun(vm=OTHER, incarnation=5, boot="b1", time=T))
    journal.close()

    after = reopened(tmp_path)
    assert RunKey(OTHER, 5) in after.runs
    assert not after.lost


async def test_damage_in_the_middle_is_a_loss_and_the_rest_is_kept(tmp_path: Path) -> None:
    data = bytearray(await told(tmp_path))
    data[30] ^= 1
    (tmp_path / JOURNAL_NAME).write_bytes(data)

    after = reopened(tmp_path)

    assert after.lost
    assert after.runs[RunKey(VM, 1)].tombstone is not None
    assert reopened(tmp_path).lost, "a loss is durable until it is answered"


async def test_a_missing_file_is_a_loss_only_where_there_was_one(tmp_path: Path) -> None:
    assert not reopened(tmp_path).lost
    (tmp_path / JOURNAL_NAME).unlink()

    assert reopened(tmp_path).lost


async def test_an_answered_loss_is_over(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    await journal.write(Lost())
    await journal.write(LossAnswered())
    journal.close()

    assert not reopened(tmp_path).lost


async def test_two_agents_cannot_have_one_journal(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    with pytest.raises(JournalLockedError):
        Journal.open(tmp_path)
    journal.close()

    Journal.open(tmp_path).close()


async def test_a_disk_that_refuses_counts_nothing_and_is_made_whole_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tmp_path)
    await journal.write(STORY[0])
    really = os.write

    def torn(descriptor: int, data: bytes) -> int:
        return really(descriptor, data[:7])

    monkeypatch.setattr(os, "write", torn)
    with pytest.raises(OSError, match="in part"):
        await journal.write(STORY[5])
    assert journal.known.runs[RunKey(VM, 1)].tombstone is None
    monkeypatch.setattr(os, "write", really)

    await journal.write(STORY[7])
    journal.close()

    after = reopened(tmp_path)
    assert after.runs[RunKey(VM, 1)].tombstone is None
    assert RunKey(OTHER, 4) in after.runs
    assert not after.lost


async def test_a_record_is_flushed_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tmp_path)

    def refuse(_descriptor: int) -> None:
        raise OSError("no flush")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="no flush"):
        await journal.write(STORY[0])

    assert not journal.known.runs
    journal.close()


async def test_a_write_is_finished_even_if_its_task_is_cancelled(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    task = asyncio.create_task(journal.write(STORY[0]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await journal.write(STORY[1])
    journal.close()

    assert reopened(tmp_path).runs[RunKey(VM, 1)].begun is not None


async def test_a_long_life_does_not_make_a_long_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_RECORDS_MIN", 50)
    journal = Journal.open(tmp_path)
    for number in range(1, 300):
        await journal.write(
            Begun(vm=VM, incarnation=number, boot="b1", time=T),
            Done(vm=VM, incarnation=number, time=T),
            Tombstone(vm=VM, incarnation=number, reason=DownReason.GUEST, time=T),
        )
    journal.close()

    assert (tmp_path / JOURNAL_NAME).read_bytes().count(b"\n") < 120
    after = reopened(tmp_path)
    assert max(after.incarnations(VM)) == 299
    assert after.runs[RunKey(VM, 299)].tombstone is not None


async def test_reasons_that_are_still_asked_about_survive_compaction(tmp_path: Path) -> None:
    remembered = Remembered(
        Tombstone(vm=VM, incarnation=number, reason=DownReason.GUEST, time=T)
        for number in (1, 2, 3)
    )

    records = remembered.compacted(frozenset({RunKey(VM, 1)}))

    assert set(Remembered(records).runs) == {RunKey(VM, 1), RunKey(VM, 3)}


def test_the_first_reason_of_an_end_stays() -> None:
    remembered = Remembered(
        [
            Tombstone(vm=VM, incarnation=1, reason=DownReason.CRASHED, time=T),
            Tombstone(vm=VM, incarnation=1, reason=DownReason.ADMIN, time=T),
        ]
    )
    tombstone = remembered.runs[RunKey(VM, 1)].tombstone
    assert tombstone is not None
    assert tombstone.reason is DownReason.CRASHED


def test_that_a_run_used_its_memory_up_survives_compaction() -> None:
    remembered = Remembered(
        [
            Begun(vm=VM, incarnation=1, boot="b1", restored=True, time=T),
            Tombstone(vm=VM, incarnation=1, reason=DownReason.ADMIN, time=T),
        ]
    )

    again = Remembered(Remembered(remembered.compacted()).compacted())

    assert again.runs[RunKey(VM, 1)].restored


def test_a_forgotten_job_is_gone() -> None:
    assert not Remembered([*STORY, JobForgotten(job="j1"), JobForgotten(job="j2")]).jobs
