"""What the projections reach, as ratios to what the same machine does in the same run.

    python -m benchmarks.projections [--events 200000] [--vms 10000]

Goal 7: a rebuild, decoding included, against COPY of the same events into a table with two unique
indexes (at least 0.45 of its rate). Goal 8: from a command's answer to its change being visible in
the inventory, against one fdatasync of 8 kB (p50 at most 10 times, p99 at most 60 times). Goal 9:
1,000 and 10,000 VMs in one answer against one VM (at most 2.5 and 25 times).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import os
import signal
import socket
import statistics
import struct
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Self

import psycopg
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request

from access.principals import BOOTSTRAP_ADMIN, Principal
from benchmarks._report import compare
from events.envelope import NewEvent, Stored
from events.log.migrate import migrate
from events.log.port import Append, Appended
from events.log.postgres import PostgresLog
from events.log.reader import PostgresLogReader
from events.stream.direct import DirectStream
from events.types.data_center import DataCenterCreated
from projections.projector import Projector, ProjectorStatus
from projections.reads.routes import ReadApi
from tests.harness.postgres import PostgresServer
from tests.harness.workspace import Workspace
from tests.unit.projections.history import busy_history, write_log

TYPES = "int8 text int4 text int2 bytea timestamptz text uuid text"
COLUMNS = "position, stream, version, name, schema, payload, time, actor, command, correlation"
FLOOR_ROUNDS = 3
LATENCY_COMMANDS = 1_000
LOOK_INTERVAL_S = 0.000_1
FIRST_LOOK_S = 0.000_2
"""Nothing is visible sooner, and each look takes a tenth of a millisecond of the processors."""
GET_ROUNDS = 40
ANSWER_BYTES_MAX = 64 * 1024 * 1024
TIMEOUT_S = 600.0


def copy_floor(dsn: str, events: list[Stored]) -> float:
    """Return how many events a second COPY puts into a table with two unique indexes (the best)."""
    columns = COLUMNS.split(", ")
    rows = [[getattr(event, column) for column in columns] for event in events]
    best = 0.0
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(FLOOR_ROUNDS):
            connection.execute("DROP TABLE IF EXISTS floor")
            connection.execute("CREATE TABLE floor (LIKE log.log INCLUDING DEFAULTS)")
            connection.execute("CREATE UNIQUE INDEX ON floor (position)")
            connection.execute("CREATE UNIQUE INDEX ON floor (stream, version)")
            statement = f"COPY floor ({COLUMNS}) FROM STDIN (FORMAT BINARY)".encode()
            began = time.perf_counter()
            with connection.cursor().copy(statement) as copy:
                copy.set_types(TYPES.split())
                for row in rows:
                    copy.write_row(row)
            best = max(best, len(rows) / (time.perf_counter() - began))
        connection.execute("DROP TABLE floor")
    return best


def fdatasync_floor(folder: Path) -> float:
    """Return the median time of one fdatasync of 8 kB, in seconds."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(300):
            os.pwrite(file.fileno(), os.urandom(8192), 0)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


async def reached(projector: Projector, position: int) -> None:
    """Return once the projector follows and has seen the position."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            health = await projector.health()
            if health.status is ProjectorStatus.FOLLOWING and health.position >= position:
                return
            assert not health.error, health.error
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def projecting(dsn: str, reader: PostgresLogReader) -> AsyncIterator[Projector]:
    """Run a projector for the length of the block."""
    projector = Projector(DirectStream(reader), dsn)
    task = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def rebuild(dsn: str, count: int, floor: float) -> None:
    """Goal 7."""
    async with PostgresLogReader.open(dsn) as reader:
        began = time.perf_counter()
        async with projecting(dsn, reader) as projector:
            await reached(projector, count)
            first = count / (time.perf_counter() - began)
            began = time.perf_counter()
            await projector.rebuild()
            again = count / (time.perf_counter() - began)
    rate = max(first, again)
    compare(7, "rebuild of the inventory against COPY", rate, floor, "ev/s", limit=0.45)


class Observer:
    """A process that looks for objects in the inventory, and tells when it saw them.

    It is one of its own, as whoever waits for a change is: looking from the process that appends
    would hold up the word of the events that it sends right after the answer.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._ours, self._theirs = socket.socketpair()
        self._child = 0

    def __enter__(self) -> Self:
        self._child = os.fork()
        if self._child == 0:
            try:
                self._look()
            finally:
                os._exit(1)
        self._ours.settimeout(0)  # as the loop wants it
        return self

    def __exit__(self, *error: object) -> None:
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)

    async def seen(self, object_id: str) -> tuple[float, float]:
        """Return when the object was seen, and when it was last looked for in vain before."""
        loop = asyncio.get_running_loop()
        self._ours.send(object_id.encode())
        at, before = struct.unpack("dd", await loop.sock_recv(self._ours, 16))
        return at, before

    def _look(self) -> None:
        statement = "SELECT 1 FROM inventory.data_centers WHERE id = %s"
        with psycopg.connect(self._dsn, autocommit=True) as inventory:
            while object_id := self._theirs.recv(100).decode():
                time.sleep(FIRST_LOOK_S)
                before = time.perf_counter()
                while inventory.execute(statement, (object_id,), prepare=True).fetchone() is None:
                    before = time.perf_counter()
                    time.sleep(LOOK_INTERVAL_S)  # looks often, and leaves the others time
                self._theirs.send(struct.pack("dd", time.perf_counter(), before))


async def latency(dsn: str, fdatasync_s: float, observer: Observer) -> None:
    """Goal 8: appended and answered, then looked for in the inventory until it is there."""
    times, looks = [], []
    async with PostgresLog.open(dsn) as log:
        for number in range(LATENCY_COMMANDS):
            object_id, command = str(uuid.uuid4()), uuid.uuid4()
            stream = f"data_center/{object_id}"
            created = DataCenterCreated(name=f"dc-{object_id}", compatibility_version="4.8")
            outcome = await log.append(
                Append(
                    command=command,
                    principal="benchmark",
                    actor="benchmark",
                    reads={stream: 0},
                    events=(NewEvent(stream, created),),
                    time=dt.datetime.now(dt.UTC),
                )
            )
            began = time.perf_counter()  # one clock for all processes
            assert isinstance(outcome, Appended)
            seen, before = await observer.seen(object_id)
            if number >= LATENCY_COMMANDS // 10:  # the first ones warm up
                times.append(seen - began)
                looks.append(seen - before)
            await asyncio.sleep(0.002)
    times.sort()
    print(f"a look and the pause before it: {statistics.median(looks) * 1e3:.2f} ms, counted whole")
    p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
    for what, taken_s, limit in (("p50", p50, 10), ("p99", p99, 60)):
        compare(
            8,
            f"answer to visible against fdatasync, {what}",
            taken_s * 1e3,
            fdatasync_s * 1e3,
            "ms",
            limit=limit,
            at_most=True,
        )


async def project(dsn: str) -> None:
    """Run a projector until killed."""
    async with PostgresLogReader.open(dsn) as reader:
        await Projector(DirectStream(reader), dsn).run()


@contextlib.contextmanager
def forked(work: Coroutine[None, None, None]) -> Iterator[None]:
    """Run a coroutine in a process of its own for the length of the block."""
    child = os.fork()
    if child == 0:
        try:
            uvloop.run(work)  # as the product does
        finally:
            os._exit(1)
    work.close()
    try:
        time.sleep(3)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


async def authenticate(request: Request) -> Principal | None:
    """Everybody is the admin."""
    return BOOTSTRAP_ADMIN


def get(
    port: int, target: str, times: int, before: Callable[[], None] = lambda: None
) -> tuple[float, int]:
    """Return the median time of an answer over one connection, and its length in bytes."""
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    buffer = memoryview(bytearray(ANSWER_BYTES_MAX))
    taken = []
    length = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(times):
            before()
            began = time.perf_counter()
            connection.sendall(request)
            filled, end = 0, -1
            while end < 0 or filled < end + length:
                filled += connection.recv_into(buffer[filled:])
                if end < 0 and (found := bytes(buffer[: min(filled, 4096)])).find(b"\r\n\r\n") > 0:
                    end = found.find(b"\r\n\r\n") + 4
                    assert found.startswith(b"HTTP/1.1 200"), found
                    fields = dict(line.split(b": ", 1) for line in found[:end].split(b"\r\n")[1:-2])
                    length = int(fields[b"content-length"])
            taken.append(time.perf_counter() - began)
    return statistics.median(taken), length


def gets(dsn: str, port: int) -> None:
    """Goal 9, over HTTP on loopback."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT id FROM inventory.vms LIMIT 1").fetchone()
        assert row is not None
        get(port, f"/v1/vms/{row[0]}", 200)
        one, _ = get(port, f"/v1/vms/{row[0]}", 10 * GET_ROUNDS)
        for limit, goal in ((1_000, 2.5), (10_000, 25.0)):
            path = f"/v1/vms?limit={limit}"
            many, length = get(port, path, GET_ROUNDS)
            what = f"GET {limit:,} VMs ({length / 1e6:.1f} MB) against one"
            compare(9, what, many * 1e3, one * 1e3, "ms", limit=goal, at_most=True)
            many, _ = get(port, path, GET_ROUNDS, lambda: touch(connection))
            what = f"GET {limit:,} VMs, one of them changed, against one"
            compare(9, what, many * 1e3, one * 1e3, "ms", limit=goal, at_most=True)
    many, length = get(port, "/v1/vms?limit=1000&fields=*", GET_ROUNDS)
    what = f"GET 1,000 whole documents ({length / 1e6:.1f} MB) against one"
    compare(9, what, many * 1e3, one * 1e3, "ms")


def touch(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Change a VM as the projector does, so that no list is as it was."""
    connection.execute(
        "UPDATE inventory.vms SET position = (SELECT max(position) + 1 FROM inventory.vms)"
        " WHERE id = (SELECT id FROM inventory.vms ORDER BY name LIMIT 1)",
        prepare=True,
    )


async def serve(dsn: str, listener: socket.socket) -> None:
    """Serve the reads until killed."""
    async with PostgresLogReader.open(dsn) as log:
        api = ReadApi(dsn=dsn, log=log, authenticate=authenticate)
        async with api.open():
            application = Starlette(routes=api.routes())
            configuration = uvicorn.Config(application, lifespan="off", log_config=None)
            await uvicorn.Server(configuration).serve(sockets=[listener])


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--vms", type=int, default=10_000)
    given = parser.parse_args()
    workspace = Workspace()
    try:
        server = PostgresServer(workspace)
        server.start()
        database = server.create_database("benchmark")
        dsn = database.socket_url  # as the product reaches the PostgreSQL that it brings along
        migrate(dsn)
        history = busy_history(given.vms, given.events, hosts=200)
        events = history.events
        floor = copy_floor(dsn, events)
        write_log(dsn, events)
        uvloop.run(rebuild(dsn, len(events), floor))
        listener = socket.create_server(("127.0.0.1", 0))
        # asyncio sets it only on sockets that name their protocol, which this one does not; without
        # it each answer in two parts waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with forked(serve(dsn, listener)):
            gets(dsn, listener.getsockname()[1])
        with forked(project(dsn)), Observer(dsn) as observer:
            uvloop.run(latency(dsn, fdatasync_floor(workspace.folder), observer))
    finally:
        workspace.close()


if __name__ == "__main__":
    main()
