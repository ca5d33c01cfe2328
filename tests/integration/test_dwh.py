"""The warehouse's process: ingest beside queries, kills at any instant, bounds of the service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from dwh.client import ask
from dwh.process import WarehouseProcess
from dwh.queries import Answer, Failure, Format, Query
from dwh.telemetry_server import TelemetryServer
from events.log.memory import MemoryLog
from events.log.postgres import PostgresLog
from events.stream.direct import DirectStream
from events.stream.kafka_telemetry import TelemetryConsumer, TelemetryPublisher
from events.stream.relay import Relay
from events.wire.telemetry import TelemetrySender
from tests.contract.sample_events import SAMPLE_CODEC
from tests.contract.stream_contract import append_events
from tests.harness.kafka import KafkaBroker
from tests.harness.postgres import Database
from tests.harness.processes import patience
from tests.harness.workspace import PROJECT_ROOT, Workspace
from tests.integration.kafka_clients import let_go_of_clients
from tests.unit.dwh.samples import telemetry

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
CHILD = PROJECT_ROOT / "tests" / "integration" / "dwh_child.py"
SLOW_SQL = "SELECT sum(a.range * b.range) FROM range(3000000) a, range(1000000) b"
_let_go = pytest.fixture(scope="module", autouse=True)(let_go_of_clients)


async def rows(socket: Path, sql: str) -> list[list[object]]:
    answer, content = await ask(socket, Query(sql=sql))
    assert answer.failure is None, answer.message
    found: list[list[object]] = orjson.loads(content)
    return found


async def eventually(
    question: Callable[[], Awaitable[object]], expected: object, timeout_s: float = 40.0
) -> None:
    """Ask again and again until the answer is the one expected; a dead process has no answer."""
    deadline = time.monotonic() + timeout_s * patience()
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = await question()
        except OSError as error:
            last = error
        if last == expected:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"waited {timeout_s} s for {expected!r}; last seen: {last!r}")


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    return workspace.make_folder("dwh", mode=0o700)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(codec=SAMPLE_CODEC)


@contextlib.asynccontextmanager
async def running(process: WarehouseProcess) -> AsyncIterator[WarehouseProcess]:
    task = asyncio.create_task(process.run())
    try:
        yield process
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def process(folder: Path, log: MemoryLog) -> AsyncIterator[WarehouseProcess]:
    warehouse = WarehouseProcess(
        DirectStream(log),
        folder,
        telemetry=TelemetryServer(folder / "telemetry.sock"),
        query_socket=folder / "query.sock",
        codec=SAMPLE_CODEC,
        time_scale=0.1,
    )
    async with running(warehouse):
        await eventually(lambda: rows(folder / "query.sock", "SELECT 1"), [[1]])
        yield warehouse


async def test_events_and_telemetry_arrive_while_queries_run(
    folder: Path, log: MemoryLog, process: WarehouseProcess
) -> None:
    socket = folder / "query.sock"
    slow = asyncio.create_task(ask(socket, Query(sql=SLOW_SQL, timeout_s=20)))
    await append_events(log, 300)
    sender = TelemetrySender(folder / "telemetry.sock")
    sending = asyncio.create_task(sender.run())
    for sequence in range(1, 21):
        sender.send(telemetry(sequence, vms=5))
    await eventually(lambda: rows(socket, "SELECT count(*) FROM events"), [[300]])
    await eventually(lambda: rows(socket, "SELECT count(*) FROM vm_samples"), [[100]])
    assert not slow.done()
    slow.cancel()
    sending.cancel()
    assert process.status.state == "following"
    assert (process.status.position, process.status.samples) == (300, 120)


async def test_arrow_comes_over_the_socket(
    folder: Path, log: MemoryLog, process: WarehouseProcess
) -> None:
    await append_events(log, 10)
    await eventually(lambda: rows(folder / "query.sock", "SELECT count(*) FROM events"), [[10]])
    query = Query(sql="SELECT * FROM events ORDER BY position", format=Format.ARROW)
    answer, content = await ask(folder / "query.sock", query)
    assert answer.rows == 10
    assert pa.ipc.open_stream(content).read_all()["position"].to_pylist() == list(range(1, 11))


async def test_a_query_has_a_time_limit(folder: Path, process: WarehouseProcess) -> None:
    started = time.monotonic()
    answer, _ = await ask(folder / "query.sock", Query(sql=SLOW_SQL, timeout_s=0.5))
    assert answer.failure is Failure.TIMED_OUT
    assert time.monotonic() - started < 5


async def test_what_is_wrong_is_said(folder: Path, process: WarehouseProcess) -> None:
    refused, _ = await ask(folder / "query.sock", Query(sql="DROP TABLE events"))
    assert (refused.failure, refused.message) == (
        Failure.REFUSED,
        "only SELECT is answered here, not DROP",
    )
    failed, _ = await ask(folder / "query.sock", Query(sql="SELECT * FROM evnts"))
    assert failed.failure is Failure.FAILED
    assert "evnts" in failed.message


async def test_too_many_queries_are_turned_away_and_leave_no_trace(
    folder: Path, process: WarehouseProcess
) -> None:
    socket = folder / "query.sock"
    slow = Query(sql=SLOW_SQL, timeout_s=20)
    many = [asyncio.create_task(ask(socket, slow)) for _ in range(20)]
    await asyncio.sleep(1)
    busy, _ = await ask(socket, Query(sql="SELECT 1"))
    assert busy.failure is Failure.BUSY
    for task in many:
        task.cancel()  # closes its connection, which stops its query
    await asyncio.gather(*many, return_exceptions=True)
    await eventually(lambda: answer_of(socket, "SELECT 1"), None, timeout_s=10)


async def state_of(process: WarehouseProcess) -> str:
    return process.status.state


async def answer_of(socket: Path, sql: str) -> Failure | None:
    answer: Answer = (await ask(socket, Query(sql=sql)))[0]
    return answer.failure


async def test_it_halts_at_an_event_that_it_cannot_read_and_still_answers(
    folder: Path, log: MemoryLog
) -> None:
    await append_events(log, 3)
    halting = WarehouseProcess(
        DirectStream(log),
        folder,
        telemetry=TelemetryServer(folder / "telemetry.sock"),
        query_socket=folder / "query.sock",
        time_scale=0.1,
    )  # with the product's codec, which knows no samples
    async with running(halting):
        await eventually(lambda: state_of(halting), "halted")
        await eventually(lambda: rows(folder / "query.sock", "SELECT count(*) FROM events"), [[0]])
        assert "sample.noted" in halting.status.last_error


async def test_a_restored_log_is_taken_in_from_its_beginning(folder: Path) -> None:
    counts = []
    for size in (9, 4):
        log = MemoryLog(codec=SAMPLE_CODEC)
        await append_events(log, size)
        warehouse = WarehouseProcess(
            DirectStream(log),
            folder,
            telemetry=TelemetryServer(folder / "telemetry.sock"),
            query_socket=folder / "query.sock",
            codec=SAMPLE_CODEC,
            time_scale=0.1,
        )
        async with running(warehouse):
            await eventually(
                lambda: rows(folder / "query.sock", "SELECT count(*) FROM events"),
                [[size]],
            )
            counts.append(await rows(folder / "query.sock", "SELECT count(*) FROM seeds"))
            if size == 4:
                assert warehouse.status.reseeds == 1
    assert counts == [[[1]], [[2]]]


def start_child(
    database: Database, folder: Path, bootstrap: str | None = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(CHILD), database.url, str(folder)]
    command += [bootstrap] if bootstrap is not None else []
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment)


async def test_kills_at_any_instant_lose_and_double_nothing(
    database: Database, folder: Path
) -> None:
    dice = random.Random(7)
    socket = folder / "query.sock"
    total, sequence = 0, 0
    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC) as log:
        child = start_child(database, folder)
        sender = TelemetrySender(folder / "telemetry.sock", backoff_max_s=0.2)
        sending = asyncio.create_task(sender.run())
        try:
            for _ in range(6):
                for _ in range(dice.randrange(4, 10)):
                    count = dice.randrange(1, 120)
                    await append_events(log, count)
                    total += count
                    sequence += 1
                    sender.send(telemetry(sequence, vms=3))
                    await asyncio.sleep(dice.random() * 0.3)
                child.send_signal(signal.SIGKILL)
                child.wait(10)
                child = start_child(database, folder)
            await eventually(lambda: rows(socket, "SELECT max(position) FROM events"), [[total]])
            found = await rows(socket, "SELECT count(*), count(DISTINCT position) FROM events")
            assert found == [[total, total]]
            sequence += 1  # on a busy machine those before may have lived too short to take any
            sender.send(telemetry(sequence, vms=3))
            await eventually(
                lambda: rows(socket, "SELECT count(*) > 0 FROM host_samples"), [[True]]
            )
            ((samples, distinct),) = await rows(
                socket, "SELECT count(*), count(DISTINCT (host, time)) FROM host_samples"
            )
            assert samples == distinct
            assert isinstance(samples, int)
            assert 0 < samples <= sequence
        finally:
            sending.cancel()
            child.kill()
            child.wait(10)


async def test_kills_of_the_warehouse_and_of_its_broker_lose_and_double_nothing(
    database: Database, folder: Path, kafka: KafkaBroker
) -> None:
    dice = random.Random(3)
    socket = folder / "query.sock"
    total = 0
    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC) as log:
        relaying = asyncio.create_task(Relay(kafka.bootstrap, log, time_scale=0.1).run())
        child = start_child(database, folder, kafka.bootstrap)
        try:
            for round_ in range(5):
                for _ in range(8):
                    await append_events(log, 40)
                    total += 40
                    await asyncio.sleep(dice.random() * 0.3)
                child.kill()
                child.wait(10)
                if round_ == 2:
                    await asyncio.to_thread(kafka.kill)
                child = start_child(database, folder, kafka.bootstrap)
                if round_ == 2:
                    await asyncio.to_thread(kafka.start)
            await eventually(
                lambda: rows(socket, "SELECT max(position) FROM events"), [[total]], 60.0
            )
            found = await rows(socket, "SELECT count(*), count(DISTINCT position) FROM events")
            assert found == [[total, total]]
        finally:
            relaying.cancel()
            child.kill()
            child.wait(10)


async def test_telemetry_comes_through_kafka_once(
    kafka: KafkaBroker, folder: Path, log: MemoryLog
) -> None:
    publisher = TelemetryPublisher(kafka.bootstrap, backoff_max_s=0.5)
    publishing = asyncio.create_task(publisher.run())
    socket = folder / "query.sock"
    # Other tests' telemetry may be in the broker that all of them share.
    mine = f"{uuid.uuid4()}-"
    try:
        for round_ in range(2):
            warehouse = WarehouseProcess(
                DirectStream(log),
                folder,
                telemetry=TelemetryConsumer(kafka.bootstrap, backoff_max_s=0.5),
                query_socket=socket,
                codec=SAMPLE_CODEC,
                time_scale=0.1,
            )
            async with running(warehouse):
                for sequence in range(1, 11):
                    for host in ("h1", "h2", "h3"):
                        publisher.send(telemetry(sequence + 10 * round_, host=mine + host, vms=2))
                expected = 60 * (round_ + 1)
                await eventually(
                    lambda: rows(
                        socket, f"SELECT count(*) FROM vm_samples WHERE starts_with(host, '{mine}')"
                    ),
                    [[expected]],
                )
                if round_ == 0:
                    await asyncio.to_thread(kafka.kill)
                    await asyncio.to_thread(kafka.start)
        assert publisher.dropped == 0
    finally:
        publishing.cancel()


async def test_a_sender_drops_its_oldest_while_the_warehouse_is_away(folder: Path) -> None:
    sender = TelemetrySender(folder / "nobody.sock", queue_frames_max=10, backoff_max_s=0.1)
    sending = asyncio.create_task(sender.run())
    for sequence in range(25):
        sender.send(telemetry(sequence))
    await asyncio.sleep(0.3)
    assert (sender.waiting, sender.dropped, sender.sent) == (10, 15, 0)
    source = TelemetryServer(folder / "nobody.sock").batches({})
    async for batch in source:
        assert [each.sequence for each in batch.telemetry] == list(range(15, 25))
        break
    sending.cancel()
    assert sender.sent == 10
