"""The direct stream passes the contract of all streams, and waits while the log is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from events.envelope import Stored
from events.log.memory import MemoryLog
from events.log.port import READ_EVENTS_MAX, UnavailableError
from events.stream.direct import DirectStream
from events.stream.port import START
from tests.contract.sample_events import SAMPLE_CODEC
from tests.contract.stream_contract import StreamContract, append, positions, read_until


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(codec=SAMPLE_CODEC)


@pytest.fixture
def stream(log: MemoryLog) -> DirectStream:
    return DirectStream(log)


class TestDirectStream(StreamContract):
    pass


class FailingLog(MemoryLog):
    def __init__(self, failures: int) -> None:
        super().__init__(codec=SAMPLE_CODEC)
        self.failures = failures

    async def read(self, after: int, limit: int = READ_EVENTS_MAX) -> Sequence[Stored]:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("away")
        return await super().read(after, limit)


async def test_the_stream_waits_while_the_log_is_away() -> None:
    log = FailingLog(failures=3)
    await append(log, 2)
    assert positions(await read_until(DirectStream(log), START, 2)) == [1, 2]
    assert log.failures == 0


async def test_events_gather_while_it_rests_and_the_first_does_not_wait(log: MemoryLog) -> None:
    """given a rest, when events come one by one, then the first is read at once, others together"""
    found: list[list[int]] = []
    stream = DirectStream(log, rest_s=1.0)

    async def follow() -> None:
        async for batch in stream.batches(START):
            positions_read = [stored.position for stored in batch.events]
            found.append(positions_read)

    task = asyncio.create_task(follow())
    await append(log, 1)
    async with asyncio.timeout(20):
        while not found:
            await asyncio.sleep(0.001)
        for _ in range(5):
            await append(log, 1)
            await asyncio.sleep(0.001)
        while len(found) < 2:
            await asyncio.sleep(0.001)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert found == [[1], [2, 3, 4, 5, 6]]
