"""Starts of the engine and the policies: their folds from a snapshot against folding all.

`python -m benchmarks.starts [--events 50000] [--vms 3000]` (BENCH=full: 1,000,000 and 50,000). A
log in PostgreSQL is folded whole, as a first start does; a snapshot is written; and another
process's fold takes that up and reads the tail. The longer the log, the more the ratio says: a
snapshot grows with what there is, not with what happened.
"""

from __future__ import annotations

import argparse
import os
import time

import uvloop

from benchmarks._report import compare
from commands.gateway.view import SHAPE as VIEW
from commands.gateway.view import GatewayView
from commands.kernel.shapes import Shape
from commands.kernel.snapshots import Keeper
from commands.policies.facts import SHAPE as FACTS
from commands.policies.facts import Facts
from events.codec import CODEC
from events.log.migrate import migrate
from events.log.reader import PostgresLogReader
from tests.harness.postgres import PostgresServer
from tests.harness.workspace import Workspace
from tests.unit.projections.history import busy_history, write_log

GOAL = 12


async def fold_all(reader: PostgresLogReader, fold: Facts | GatewayView) -> None:
    """Read what the fold does not know yet."""
    while stored := await reader.read(fold.position):
        for one in stored:
            fold.take(CODEC.decode(one))


async def measure(dsn: str, name: str, kind: type[Facts | GatewayView], shape: Shape) -> None:
    """Report one fold's start."""
    async with PostgresLogReader.open(dsn) as reader:
        whole, began = kind(), time.perf_counter()
        await fold_all(reader, whole)
        folding_s = time.perf_counter() - began
        began = time.perf_counter()
        await Keeper(reader, shape).save(whole)
        saving_s = time.perf_counter() - began
        fresh, began = kind(), time.perf_counter()
        await Keeper(reader, shape).restore(fresh)
        await fold_all(reader, fresh)
        taking_up_s = time.perf_counter() - began
    if fresh.tables() != whole.tables():
        message = f"the {name}' snapshot is not what it was made of"
        raise RuntimeError(message)
    rate = whole.position / folding_s
    print(f"{name}: {whole.position:,} events folded at {rate:,.0f}/s", flush=True)
    what = f"{name}: start from a snapshot, over folding all"
    compare(GOAL, what, taking_up_s, folding_s, "s")
    compare(GOAL, f"{name}: writing the snapshot, over folding all", saving_s, folding_s, "s")


def main() -> None:
    """Measure both folds."""
    full = os.environ.get("BENCH") == "full"
    parser = argparse.ArgumentParser(prog="benchmarks.starts", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000 if full else 50_000)
    parser.add_argument("--vms", type=int, default=50_000 if full else 3_000)
    asked = parser.parse_args()
    workspace = Workspace()
    try:
        server = PostgresServer(workspace)
        server.start()
        database = server.create_database("starts")
        migrate(database.url)
        write_log(database.url, busy_history(asked.vms, asked.events, hosts=500).events)
        uvloop.run(measure(database.url, "the policies' facts", Facts, FACTS))
        uvloop.run(measure(database.url, "the gateway's view", GatewayView, VIEW))
        server.kill()
    finally:
        workspace.close()


if __name__ == "__main__":
    main()
