"""The log against PostgreSQL itself: appends, reads, and a command on a long stream, as ratios.

`python -m benchmarks.append [--seconds 1]`. All figures of one run are of one server; on shared,
noisy cores only their ratios count. "Raw" is pgbench, written in C, inserting single rows.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import gc
import multiprocessing
import re
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import uvloop
from uuid_utils.compat import uuid7

from benchmarks._report import compare
from chronovisor.contexts import source_for
from commands.data_center.create import CreateDataCenter
from commands.data_center.update import UpdateDataCenter
from commands.kernel.command import Command
from commands.kernel.handler import Accepted, Handler, Repository
from commands.state.data_center import DATA_CENTER
from events.codec import CODEC
from events.envelope import NewEvent
from events.log.migrate import migrate
from events.log.port import Append, Appended, OverloadedError
from events.log.postgres import PostgresLog
from events.types.vm import VmStarted
from tests.harness.postgres import Database, PostgresServer
from tests.harness.workspace import Workspace

READ_EVENTS = 200_000
FILLING_COMMANDS, FILLING_EVENTS = 20, 100
FETCH_EVENTS = 2_000
LONG_STREAM_EVENTS = 1_000
LONG_STREAM_ROUNDS = 190
"""Some make another snapshot; the others read the events behind the last one as well."""
RAW_TABLE = """
    create table raw (
        position bigint generated always as identity primary key,
        time timestamptz not null default now(), payload bytea not null)
"""


def append_of(stream: str, version: int) -> Append:
    """A command with one event, as small as events commonly are."""
    event = VmStarted(
        name=f"web-{version}",
        host="0191d1f0-7f5e-7c44-9d5c-1f6d3c1b2a10",
        host_name="host-a.example.org",
        incarnation=version + 1,
    )
    return Append(
        command=uuid7(),
        principal="user/admin@internal",
        actor="user/admin@internal",
        reads={stream: version},
        events=(NewEvent(stream, event),),
        body_mac=b"0123456789abcdef0123456789abcdef",
        answer=b'{"status":202}',
        correlation="operation/0191d1f0-7f5e-7c44-9d5c-1f6d3c1b2a11",
        time=dt.datetime.now(dt.UTC),
    )


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 (whatever the coroutine returns)
    """Run on the event loop that the product uses."""
    gc.freeze()  # as a process that lives long should: what was loaded is never garbage
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


async def writers(log: PostgresLog, clients: int, seconds: float) -> tuple[int, list[float]]:
    """Append from so many tasks at once; return how many commands, and their latencies."""
    deadline = time.perf_counter() + seconds
    latencies: list[float] = []

    async def client() -> None:
        stream = f"vm/{uuid.uuid4()}"
        version = 0
        while (begun := time.perf_counter()) < deadline:
            try:
                outcome = await log.append(append_of(stream, version))
            except OverloadedError:  # the disk stood still; as a client would, come again
                await asyncio.sleep(0.01)
                continue
            assert isinstance(outcome, Appended), outcome
            latencies.append(time.perf_counter() - begun)
            version += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return len(latencies), latencies


def append_rate(dsn: str, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Commands per second of one process with so many that wait."""

    async def measure() -> tuple[float, list[float]]:
        async with PostgresLog.open(dsn, migrate=False) as log:
            await writers(log, clients, 0.3)
            begun = time.perf_counter()
            count, latencies = await writers(log, clients, seconds)
            return count / (time.perf_counter() - begun), latencies

    found: tuple[float, list[float]] = run(measure())
    return found


def append_in_a_process(
    dsn: str, clients: int, seconds: float, begin: float, counts: multiprocessing.Queue[int]
) -> None:
    """One of several processes, all beginning at the same instant."""

    async def measure() -> int:
        async with PostgresLog.open(dsn, migrate=False) as log:
            await writers(log, clients, 0.3)
            await asyncio.sleep(max(0.0, begin - time.time()))
            return (await writers(log, clients, seconds))[0]

    counts.put(run(measure()))


def processes_rate(dsn: str, processes: int, clients: int, seconds: float) -> float:
    """Commands per second of several processes together."""
    context = multiprocessing.get_context("spawn")
    counts: multiprocessing.Queue[int] = context.Queue()
    begin = time.time() + 4.0
    children = [
        context.Process(target=append_in_a_process, args=(dsn, clients, seconds, begin, counts))
        for _ in range(processes)
    ]
    for child in children:
        child.start()
    total = sum(counts.get(timeout=60) for _ in children)
    for child in children:
        child.join(30)
    return total / seconds


def raw_rate(server: PostgresServer, database: Database, clients: int, seconds: float) -> float:
    """Rows per second that pgbench inserts one by one."""
    script = server.folder / "raw.sql"
    script.write_text(f"insert into raw (payload) values ('\\x{'ab' * 215}'::bytea);\n")
    script.chmod(0o644)
    answer = subprocess.run(
        [
            str(Path(server.binaries) / "pgbench"),
            *("-n", "-M", "prepared", "-f", str(script), "-T", str(max(1, round(seconds)))),
            *("-c", str(clients), "-j", "2" if clients > 1 else "1"),
            database.url,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"^tps = ([\d.]+)", answer.stdout, re.MULTILINE)
    assert found is not None, answer.stdout
    return float(found.group(1))


def cursor_rate(dsn: str) -> float:
    """Rows per second of a binary server cursor over the log, as psycopg returns them."""
    with psycopg.connect(dsn) as connection, connection.cursor("scan", binary=True) as cursor:
        begun = time.perf_counter()
        cursor.execute(
            "select position, stream, version, name, schema, payload, time, actor, command,"
            " correlation, causation, addressee from log.log order by position"
        )
        count = 0
        while rows := cursor.fetchmany(FETCH_EVENTS):
            count += len(rows)
        return count / (time.perf_counter() - begun)


def read_rate(dsn: str, *, decode: bool) -> float:
    """Events per second read through the log, decoded or not."""

    async def measure() -> float:
        async with PostgresLog.open(dsn, migrate=False) as log:
            position = 0
            begun = time.perf_counter()
            while stored := await log.read(position, FETCH_EVENTS):
                if decode:
                    for one in stored:
                        CODEC.decode(one)
                position = stored[-1].position
            return position / (time.perf_counter() - begun)

    rate: float = run(measure())
    return rate


def long_stream(dsn: str) -> tuple[float, float]:
    """Median seconds of a command on a long stream, decided and appended by the product's handler.

    First by one that has nothing of the stream at hand, and takes up its snapshot and the events
    behind it; then by one that decided on it before.
    """

    async def measure() -> tuple[float, float]:
        async with PostgresLog.open(dsn, migrate=False) as log:
            handler = Handler(log)
            created = await handle(handler, CreateDataCenter(name=f"long-{uuid.uuid4()}"))
            object_id = msgspec.json.decode(created.answer)["id"]
            fold = {f"data_center/{object_id}": DATA_CENTER}
            number = 0

            async def change(handler: Handler) -> None:
                nonlocal number
                number += 1
                await handle(handler, UpdateDataCenter(id=object_id, description=f"{number}"))

            async def from_snapshot() -> None:
                await change(Handler(log))

            async def cached() -> None:
                await change(handler)

            while number < LONG_STREAM_EVENTS:
                await cached()
            await Repository(log).load(dict(fold))  # so many are read that it makes a snapshot
            return await median(from_snapshot), await median(cached)

    found: tuple[float, float] = run(measure())
    return found


async def handle(handler: Handler, command: Command) -> Accepted:
    """Decide and append, as an admin's request does."""
    return await handler.handle(
        command.decide,
        source_for("admin:benchmark"),
        principal="admin:benchmark",
        key=str(uuid7()),
        body_mac=b"0123456789abcdef0123456789abcdef",
    )


async def median(action: Callable[[], Awaitable[None]]) -> float:
    """Seconds that an action takes, in the middle of many."""
    times: list[float] = []
    for _ in range(LONG_STREAM_ROUNDS):
        begun = time.perf_counter()
        await action()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def fill(dsn: str, count: int) -> None:
    """Append events, many to a command, until the log has enough to read."""

    async def work() -> None:
        async with PostgresLog.open(dsn, migrate=False) as log:
            while await log.head() < count:
                await asyncio.gather(*(some(log) for _ in range(FILLING_COMMANDS)))

    async def some(log: PostgresLog) -> None:
        stream = f"vm/{uuid.uuid4()}"
        one = append_of(stream, 0)
        events = tuple(append_of(stream, n).events[0] for n in range(FILLING_EVENTS))
        outcome = await log.append(msgspec.structs.replace(one, events=events))
        assert isinstance(outcome, Appended), outcome

    run(work())


@contextmanager
def a_server() -> Iterator[tuple[PostgresServer, Database]]:
    """A PostgreSQL with the log's tables and the raw one."""
    workspace = Workspace()
    try:
        server = PostgresServer(workspace)
        server.start()
        database = server.create_database("append")
        migrate(database.url)
        with psycopg.connect(database.url) as connection:
            connection.execute(RAW_TABLE)
        yield server, database
        server.kill()
    finally:
        workspace.close()


def main(arguments: list[str] | None = None) -> None:
    """Measure, and report each figure with its ratio and goal."""
    parser = argparse.ArgumentParser(prog="benchmarks.append", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    seconds = parser.parse_args(arguments).seconds
    with a_server() as (server, database):
        print(f"PostgreSQL {'.'.join(map(str, server.version))}")
        appends(server, database, seconds)
        commands(server, database, seconds)
        reads(database)


def appends(server: PostgresServer, database: Database, seconds: float) -> None:
    """Goal 2."""
    for clients, limit in ((1, None), (8, 0.6), (32, None), (128, 2.3), (512, None)):
        raw = raw_rate(server, database, 8, seconds)  # beside it: the machine is not quiet
        rate, latencies = append_rate(database.url, clients, seconds)
        middle_ms = 1000 * statistics.median(latencies)
        what = f"append, {clients} waiting (p50 {middle_ms:.2f} ms), over raw 8-client"
        compare(2, what, rate, raw, "1/s", limit=limit)
    raw = raw_rate(server, database, 8, seconds)
    rate = processes_rate(database.url, 4, 32, seconds)
    compare(2, "append, 4 processes x 32 waiting, over raw 8-client", rate, raw, "1/s", limit=1.9)


def commands(server: PostgresServer, database: Database, seconds: float) -> None:
    """Goal 4."""
    raw_s = 1 / raw_rate(server, database, 1, seconds)
    found = zip(("snapshot", "cached"), long_stream(database.url), (5.0, 3.0), strict=True)
    for how, taken_s, limit in found:
        what = f"command on a 1,000-event stream, {how}, over raw INSERT"
        compare(4, what, taken_s * 1e3, raw_s * 1e3, "ms", limit=limit, at_most=True)


def reads(database: Database) -> None:
    """Goal 5."""
    fill(database.url, READ_EVENTS)
    cursor = cursor_rate(database.url)
    for decode, limit in ((False, None), (True, 0.6)):
        what = "read through the log" + (", decoded" if decode else "") + ", over server cursor"
        compare(5, what, read_rate(database.url, decode=decode), cursor, "ev/s", limit=limit)


if __name__ == "__main__":
    main(sys.argv[1:])
