"""The direct stream passes the contract of all streams, and waits while the log is away."""

from __future__ import annotations

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
