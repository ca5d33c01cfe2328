"""What every stream must do: one suite, run on the direct stream and on Kafka's.

A test module derives a class from `StreamContract` and gives it two fixtures: `log`, a fresh, empty
log with SAMPLE_CODEC, and `stream`, a stream that follows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import pytest

from events.envelope import Stored
from events.log.port import Appended, Log
from events.stream.port import START, Batch, Cursor, OtherLogError, Stream
from tests.contract.sample_events import command, noted

PATIENCE_S = 30.0


async def append_events(log: Log, count: int, *, per_command: int = 50) -> None:
    """Append this many events, each on a stream of its own."""
    while count > 0:
        size = min(count, per_command)
        events = [
            noted(f"vm/{uuid.uuid4()}", text=f"{number}", to="host-1" if number % 2 else None)
            for number in range(size)
        ]
        outcome = await log.append(command({}, *events))
        assert isinstance(outcome, Appended), outcome
        count -= size


async def take(
    stream: Stream, after: Cursor, until: int, limit: int = 2_000, patience_s: float = PATIENCE_S
) -> list[Batch]:
    """Read batches up to a position (`until` at least), within the patience."""
    batches: list[Batch] = []
    async with (
        asyncio.timeout(patience_s),
        contextlib.aclosing(stream.batches(after, limit)) as source,  # type: ignore[type-var]
    ):
        async for batch in source:
            batches.append(batch)
            if batch.cursor.position >= until:
                break
    return batches


def events_of(batches: list[Batch]) -> list[Stored]:
    return [stored for batch in batches for stored in batch.events]


def positions(batches: list[Batch]) -> list[int]:
    return [stored.position for stored in events_of(batches)]


async def append(log: Log, count: int) -> None:
    """Append this many events, each by a command of its own."""
    await append_events(log, count, per_command=1)


async def read_until(stream: Stream, after: Cursor, position: int, limit: int = 7) -> list[Batch]:
    """Read batches, small ones, up to a position."""
    return await take(stream, after, position, limit)


class StreamContract:
    """The suite."""

    async def test_all_events_come_in_order_and_whole(self, log: Log, stream: Stream) -> None:
        await append_events(log, 230)
        events = events_of(await take(stream, START, 230))
        assert events == list(await log.read(0))

    async def test_the_cursor_is_that_of_the_last_event(self, log: Log, stream: Stream) -> None:
        await append_events(log, 10)
        batches = await take(stream, START, 10)
        assert all(batch.cursor.position == batch.events[-1].position for batch in batches)
        assert {batch.cursor.log_id for batch in batches} == {log.log_id}

    async def test_a_batch_is_never_larger_than_the_limit(self, log: Log, stream: Stream) -> None:
        await append_events(log, 100)
        batches = await take(stream, START, 100, limit=7)
        assert all(1 <= len(batch.events) <= 7 for batch in batches)
        assert positions(batches) == list(range(1, 101))

    async def test_reading_goes_on_after_each_cursor(self, log: Log, stream: Stream) -> None:
        await append_events(log, 30)
        for batch in await take(stream, START, 30, limit=10):
            if batch.cursor.position < 30:
                rest = events_of(await take(stream, batch.cursor, 30))
                assert [stored.position for stored in rest] == list(
                    range(batch.cursor.position + 1, 31)
                )

    @pytest.mark.parametrize("hint", [None, 0, 3, 29, 30, 31, 1_000_000])
    async def test_a_wrong_hint_changes_nothing(
        self, log: Log, stream: Stream, hint: int | None
    ) -> None:
        await append_events(log, 30)
        await take(stream, START, 30)
        rest = events_of(await take(stream, Cursor(log.log_id, 12, hint), 30))
        assert [stored.position for stored in rest] == list(range(13, 31))

    async def test_a_cursor_without_a_log_may_have_a_position(
        self, log: Log, stream: Stream
    ) -> None:
        await append_events(log, 20)
        events = events_of(await take(stream, Cursor(None, 15), 20))
        assert [stored.position for stored in events] == list(range(16, 21))

    async def test_it_waits_for_new_events(self, log: Log, stream: Stream) -> None:
        await append_events(log, 5)
        reading = asyncio.create_task(take(stream, START, 9))
        await asyncio.sleep(0.5)
        assert not reading.done()
        await append_events(log, 4)
        assert positions(await reading) == list(range(1, 10))

    async def test_two_readers_do_not_disturb_each_other(self, log: Log, stream: Stream) -> None:
        await append_events(log, 40)
        one, two = await asyncio.gather(
            take(stream, START, 40, limit=3), take(stream, Cursor(None, 20), 40)
        )
        assert len(events_of(one)) == 40
        assert len(events_of(two)) == 20

    async def test_a_cursor_of_another_log_is_refused(self, log: Log, stream: Stream) -> None:
        other = uuid.uuid4()
        with pytest.raises(OtherLogError) as refusal:
            await take(stream, Cursor(other, 3), 4)
        assert (refusal.value.expected, refusal.value.found) == (other, log.log_id)

    async def test_the_head_is_the_logs(self, log: Log, stream: Stream) -> None:
        assert await stream.head() == 0
        await append_events(log, 3)
        assert await stream.head() == 3
