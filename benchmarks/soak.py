"""The log's promise under random kills: nothing missed, doubled or reordered (goal 3).

`python -m benchmarks.soak [--events 60000] [--seed 1]` (BENCH=full: 10^6 events). Four writer
processes and three tailing readers work on one PostgreSQL, while writers, readers, single backends
and the whole server are killed with -9 at random and started again. In the end the log, what the
readers folded, the claims and the answers must agree; if they do not, the soak fails.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import sys
import time
import uuid
import zlib
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import uvloop

from benchmarks._report import compare
from benchmarks.append import append_of
from events.claims import Claim, exclusive, release
from events.codec import Codec
from events.envelope import NewEvent, Stored
from events.log.claims import ClaimTable, plan
from events.log.migrate import migrate
from events.log.port import Appended, OverloadedError, UnavailableError
from events.log.postgres import PostgresLog
from events.log.reader import PostgresLogReader
from events.log.writer import Limits
from events.stream.direct import DirectStream
from events.stream.port import START, Cursor
from events.types import catalogue
from events.types.base import Event, event, registered_types
from tests.harness.postgres import PostgresServer
from tests.harness.workspace import Workspace

WRITERS, CLIENTS, READERS = 4, 12, 3
EVENTS_EACH = 4
LIMITS = Limits(answer_timeout_s=4.0, group_timeout_s=3.0)


@event("soak.counted")
class Counted(Event, frozen=True, kw_only=True):
    """The n-th event of its stream; it swaps one claim for the next."""

    n: int

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Give back the claim of the event before, and take this one's."""
        return (
            release(f"soak/{stream}/{self.n - 1}", stream),
            exclusive(f"soak/{stream}/{self.n}", stream),
        )


CODEC = Codec(catalogue.TYPES | {"soak.counted": registered_types()["soak.counted"]}, {})


class Folded(msgspec.Struct):
    """What a reader has made of the log so far: effect and cursor, kept together."""

    log_id: uuid.UUID | None = None
    position: int = 0
    checksum: int = 0


def taken_in(checksum: int, stored: Stored) -> int:
    """Return the checksum over one more event: another order gives another sum."""
    return zlib.crc32(f"{stored.position} {stored.stream} {stored.version}".encode(), checksum)


def writer(dsn: str, number: int, over: Any) -> None:  # noqa: ANN401 (multiprocessing's event)
    """Append to this writer's streams, from where a killed predecessor left them."""

    async def client(log: PostgresLog, stream: str) -> None:
        version: int | None = None
        while not over.is_set():
            try:
                if version is None:
                    version = len(await log.load(stream))
                events = tuple(
                    NewEvent(stream, Counted(n=n))
                    for n in range(version + 1, version + EVENTS_EACH + 1)
                )
                outcome = await log.append(
                    msgspec.structs.replace(
                        append_of(stream, version), events=events, key=f"{stream}:{version}"
                    )
                )
            except (UnavailableError, OverloadedError):
                await asyncio.sleep(0.05)
                continue
            if not isinstance(outcome, Appended):  # a predecessor's last command, late
                version = None
                continue
            assert outcome.count == EVENTS_EACH, outcome
            version += EVENTS_EACH

    async def work() -> None:
        while not over.is_set():
            try:
                async with PostgresLog.open(dsn, migrate=False, codec=CODEC, limits=LIMITS) as log:
                    streams = [f"soak/{number}-{one}" for one in range(CLIENTS)]
                    await asyncio.gather(*(client(log, stream) for stream in streams))
            except UnavailableError:
                await asyncio.sleep(0.1)

    uvloop.run(work())


def reader(dsn: str, file: str, over: Any) -> None:  # noqa: ANN401 (multiprocessing's event)
    """Fold the stream, storing the effect with the cursor after each batch."""
    path = Path(file)

    async def follow() -> None:
        folded = load(path)
        async with PostgresLogReader.open(dsn) as log:
            after = Cursor(folded.log_id, folded.position) if folded.log_id else START
            async for batch in DirectStream(log, wait_s=0.2).batches(after):
                for stored in batch.events:
                    assert stored.position == folded.position + 1, (folded, stored)
                    folded.position = stored.position
                    folded.checksum = taken_in(folded.checksum, stored)
                folded.log_id = batch.cursor.log_id
                store(path, folded)

    async def work() -> None:
        while not over.is_set():
            try:
                await follow()
            except UnavailableError:
                await asyncio.sleep(0.1)

    uvloop.run(work())


def load(path: Path) -> Folded:
    """Return what a reader stored last."""
    return msgspec.json.decode(path.read_bytes(), type=Folded) if path.exists() else Folded()


def store(path: Path, folded: Folded) -> None:
    """Store a reader's effect and cursor at once."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(folded))
    temporary.replace(path)


class Soak:
    """The processes, and what is done to them."""

    def __init__(self, server: PostgresServer, dsn: str, seed: int) -> None:
        self.server = server
        self.dsn = dsn
        self.random = random.Random(seed)
        self.context = multiprocessing.get_context("spawn")
        self.over = self.context.Event()
        self.files = [str(server.folder / f"reader-{number}") for number in range(READERS)]
        self.writers = [self.start(writer, number) for number in range(WRITERS)]
        self.readers = [self.start(reader, file) for file in self.files]
        self.head_found = 0
        self.kills = {"writers": 0, "readers": 0, "backends": 0, "servers": 0}

    def start(self, target: Any, argument: int | str) -> SpawnProcess:  # noqa: ANN401
        """Start a writer or a reader."""
        process = self.context.Process(target=target, args=(self.dsn, argument, self.over))
        process.start()
        return process

    def hurt(self) -> None:
        """Kill something, and start it again."""
        what = self.random.choice(("writers", "writers", "readers", "backends", "servers"))
        self.kills[what] += 1
        if what == "servers":
            self.server.kill()
            self.server.start()
        elif what == "backends":
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name like 'chronovisor%' and random() < 0.4"
                )
        else:
            processes = self.writers if what == "writers" else self.readers
            place = self.random.randrange(len(processes))
            processes[place].kill()
            processes[place].join()
            argument: int | str = place if what == "writers" else self.files[place]
            processes[place] = self.start(writer if what == "writers" else reader, argument)

    def head(self) -> int:
        """Return how far the log goes."""
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute("select coalesce(max(position), 0) from log.log").fetchone()
            assert row is not None
            return int(row[0])

    def end(self) -> None:
        """Let the writers come to their end and the readers to the log's."""
        self.over.set()
        for process in self.writers:
            process.join(60)
        head = self.head_found = self.head()
        deadline = time.monotonic() + 120
        while any(load(Path(file)).position < head for file in self.files):
            assert time.monotonic() < deadline, "the readers do not come to the end"
            time.sleep(0.1)
        for process in self.readers:
            process.kill()
            process.join()


async def verify(dsn: str, files: list[str]) -> int:
    """Compare the log with what follows from it; return how many events were compared."""
    versions: dict[str, int] = {}
    table = ClaimTable()
    checksum = position = 0
    async with PostgresLogReader.open(dsn) as log:
        while page := await log.read(position):
            for stored in page:
                counted = CODEC.decode(stored).event
                assert isinstance(counted, Counted)
                versions[stored.stream] = versions.get(stored.stream, 0) + 1
                assert stored.version == versions[stored.stream] == counted.n, stored
                checksum = taken_in(checksum, stored)
                table.apply(plan(counted.claims(stored.stream)).effects)
            position = page[-1].position
        assert await log.claims() == table.rows(), "the claims are not the fold of the events"
        for stream, version in versions.items():
            for first in range(0, version, EVENTS_EACH):
                answer = await log.answer("user/admin@internal", f"{stream}:{first}")
                assert answer is not None, f"{stream}:{first} has no answer"
    for file in files:
        folded = load(Path(file))
        assert (folded.position, folded.checksum) == (position, checksum), file
    return position


def main(arguments: list[str] | None = None) -> None:
    """Run the soak, and print what was done and found."""
    parser = argparse.ArgumentParser(description=__doc__)
    events = 1_000_000 if os.environ.get("BENCH") == "full" else 60_000
    parser.add_argument("--events", type=int, default=events)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    workspace = Workspace()
    try:
        server = PostgresServer(workspace)
        server.start()
        database = server.create_database("soak")
        migrate(database.url)
        begun = time.monotonic()
        soak = Soak(server, database.url, asked.seed)
        while soak.head() < asked.events:
            time.sleep(soak.random.uniform(0.2, 2.5))
            soak.hurt()
        soak.end()
        seconds = time.monotonic() - begun
        count = uvloop.run(verify(database.url, soak.files))
        print(f"{count:,} events in {seconds:.0f} s; killed {soak.kills}")
        print("nothing missed, doubled or reordered; claims and answers agree with the events")
        what = f"events right after {sum(soak.kills.values())} kills, of those appended"
        compare(3, what, count, soak.head_found, "ev", limit=1.0)
        server.kill()
    finally:
        workspace.close()


if __name__ == "__main__":
    main(sys.argv[1:])
