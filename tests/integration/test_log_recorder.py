"""Our logs pass the `eventsourcing` library's own recorder test cases, unchanged."""

from __future__ import annotations

import asyncio
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from eventsourcing import cryptography
from eventsourcing.persistence import IntegrityError, OperationalError, StoredEvent

from events.log.memory import MemoryLog
from events.log.port import Log
from events.log.postgres import PostgresLog
from events.log.recorder import (
    RECORDER_CODEC,
    LogAggregateRecorder,
    LogApplicationRecorder,
)
from tests.contract.sample_events import noted
from tests.harness.postgres import PostgresServer

# The test cases' module imports a cipher for others of its cases, in the variant that needs one
# more package; the variant over `cryptography` has the same interface.
sys.modules.setdefault("eventsourcing.cipher", cryptography)
from eventsourcing.tests.persistence import (  # noqa: E402
    AggregateRecorderTestCase,
    ApplicationRecorderTestCase,
)

pytestmark = pytest.mark.integration

Opener = Callable[[], AbstractAsyncContextManager[Log]]


class RunningLog:
    """A log on an event loop of its own thread, as a synchronous program has it."""

    def __init__(self, opener: Opener) -> None:
        self._threads_before = set(threading.enumerate())
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._context = opener()
        self.log = self._run(self._context.__aenter__())

    def close(self) -> None:
        # Some of the library's cases leave their reading threads to end by themselves.
        for thread in set(threading.enumerate()) - self._threads_before - {self._thread}:
            if not thread.name.startswith("asyncio"):
                thread.join(10)
        self._run(self._context.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Iterator[None]:
    @asynccontextmanager
    async def opener() -> Any:
        yield MemoryLog(codec=RECORDER_CODEC)

    yield from _given(request, opener)


@pytest.fixture
def postgres_log(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[None]:
    database = postgres.create_database("recorder")
    yield from _given(request, lambda: PostgresLog.open(database.url, codec=RECORDER_CODEC))
    postgres.drop_database(database)


def _given(request: pytest.FixtureRequest, opener: Opener) -> Iterator[None]:
    running = RunningLog(opener)
    request.instance.running = running
    yield
    running.close()


class Aggregates(AggregateRecorderTestCase):
    __test__ = False
    INITIAL_VERSION = 0  # the library's own versions begin so, and ours have no gaps
    running: RunningLog

    def create_recorder(self) -> LogAggregateRecorder:
        return LogAggregateRecorder(self.running.log, self.running.loop)


class Applications(ApplicationRecorderTestCase[LogApplicationRecorder]):
    __test__ = False
    INITIAL_VERSION = 0
    running: RunningLog

    def create_recorder(self) -> LogApplicationRecorder:
        return LogApplicationRecorder(self.running.log, self.running.loop)

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


@pytest.mark.usefixtures("memory")
class TestAggregatesInMemory(Aggregates):
    __test__ = True


@pytest.mark.usefixtures("postgres_log")
class TestAggregatesInPostgres(Aggregates):
    __test__ = True


@pytest.mark.usefixtures("memory")
class TestApplicationsInMemory(Applications):
    __test__ = True


@pytest.mark.usefixtures("postgres_log")
class TestApplicationsInPostgres(Applications):
    __test__ = True


@pytest.mark.usefixtures("memory")
class TestBeyondTheLibrarysCases:
    running: RunningLog

    def recorder(self) -> LogApplicationRecorder:
        return LogApplicationRecorder(self.running.log, self.running.loop)

    def test_text_ids_come_back_as_text(self) -> None:
        recorder = self.recorder()
        event = StoredEvent("dogs-1", 0, "topic", b"state")
        recorder.insert_events([event])
        assert recorder.select_events("dogs-1") == [event]
        assert recorder.select_notifications(None, 1)[0].originator_id == "dogs-1"

    def test_a_gap_in_the_versions_is_refused(self) -> None:
        recorder = self.recorder()
        with pytest.raises(IntegrityError):
            recorder.insert_events([StoredEvent(uuid.uuid4(), 3, "topic", b"state")])

    def test_a_log_that_is_away_is_an_operational_error(self) -> None:
        recorder = LogApplicationRecorder(PostgresLog("host=nowhere"), self.running.loop)
        with pytest.raises(OperationalError):
            recorder.insert_events([StoredEvent(uuid.uuid4(), 0, "topic", b"state")])

    def test_only_recordings_can_be_stored(self) -> None:
        with pytest.raises(TypeError, match="Noted"):
            RECORDER_CODEC.encode(noted("vm/1").event)
