"""The relay to Kafka against a server cursor over the same log (goal 6).

`python -m benchmarks.relay [--events 50000]`. A log in PostgreSQL is published to a real broker of
one node, every record acknowledged. The goal speaks of one core, so the ratio counts the relay's
own processor time; the time that passed, broker included, is beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import time

import uvloop

from benchmarks._report import compare
from benchmarks.append import cursor_rate
from events.log.migrate import migrate
from events.log.reader import PostgresLogReader
from events.stream.relay import Relay
from tests.harness.kafka import KafkaBroker
from tests.harness.postgres import PostgresServer
from tests.harness.workspace import Workspace
from tests.unit.projections.history import busy_history, write_log

VMS = 2_000
TIMEOUT_S = 600.0


async def publish(dsn: str, bootstrap: str, events: int) -> tuple[float, float]:
    """Return the events a second that the relay publishes: by the clock, and of one processor."""
    async with PostgresLogReader.open(dsn) as reader:
        relay = Relay(bootstrap, reader)
        began, processor = time.perf_counter(), time.process_time()
        task = asyncio.create_task(relay.run())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while relay.status.published < events:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.01)
            passed, spent = time.perf_counter() - began, time.process_time() - processor
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    return events / passed, events / spent


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(prog="benchmarks.relay", description=__doc__)
    count = 1_000_000 if os.environ.get("BENCH") == "full" else 50_000
    parser.add_argument("--events", type=int, default=count)
    asked = parser.parse_args()
    workspace = Workspace()
    try:
        server = PostgresServer(workspace)
        server.start()
        database = server.create_database("relay")
        migrate(database.url)
        events = busy_history(VMS, asked.events, hosts=200).events
        write_log(database.url, events)
        broker = KafkaBroker(workspace)
        broker.start()
        cursor = cursor_rate(database.url)
        by_clock, of_one = uvloop.run(publish(database.url, broker.bootstrap, len(events)))
        compare(6, "relay, a second of one core, over cursor", of_one, cursor, "ev/s", limit=0.25)
        compare(6, "relay, by the clock, over cursor", by_clock, cursor, "ev/s")
        broker.stop()
        server.kill()
    finally:
        workspace.close()


if __name__ == "__main__":
    main()
