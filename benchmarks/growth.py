"""The log as it grows: appends, loads, starts, rebuild, time travel and disk, young and old.

`python -m benchmarks.growth [--events 60000] [--vms 1000] [--kafka]` (BENCH=full: 10,000,000 and
100,000). The product's own PostgreSQL, with the settings that it has there. Most of the log is
filled by COPY: valid events of a data center's life, with the claims that follow from them, but
without the answers and the deciding of the real path; beside it, at each age, commands are decided
and appended by the real path, 128 at a time. Then the whole product is started on what came of it,
and a start ends when each process knows the whole log: with `--kafka` the relay, too. At the end
PostgreSQL is asked how it looked after its tables. A short run kills no single process, since
`scale` does that.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import itertools
import os
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import msgspec
import psycopg
import uvloop

from benchmarks._postgres import alone
from benchmarks._report import compare
from benchmarks._site import Site
from benchmarks._vacuum import care, shown
from benchmarks.scale import PARTS, READS, Scale
from chronovisor.contexts import source_for
from chronovisor.embedded_postgres import EmbeddedPostgres
from chronovisor.installation import Installation
from commands.data_center.create import CreateDataCenter
from commands.data_center.update import UpdateDataCenter
from commands.kernel.command import Context
from commands.kernel.handler import Handler, Repository
from commands.state.host import HOST
from events.envelope import Stored
from events.log.claims import ClaimTable, plan
from events.log.port import OverloadedError
from events.log.postgres import PostgresLog
from events.log.reader import PostgresLogReader
from events.types.base import Event
from tests.harness.kafka import KafkaBroker
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.unit.projections.history import History, Life, write_log

GOAL = 12
FULL = os.environ.get("BENCH") == "full"
FLUSHED_EVENTS = 20_000
STEPS = (0.1, 0.5, 1.0) if FULL else (0.2, 1.0)
CLIENTS = 128
APPEND_S = 5.0 if FULL else 2.0
READS_THEN = READS if FULL else 10
LOOKS = 40
BUSY_STREAM_EVENTS = 10_000
AGES = {"young": 0.01, "middle-aged": 0.5, "old": 0.99}
START_S_MAX = 10.0
EVENT_EVERY_S = 0.2
SETTLE_TIMEOUT_S = 600.0
GIB = 1024**3


class Growing(History):
    """A history that is written into a log as it happens, and forgotten."""

    def __init__(self, dsn: str, events: int) -> None:
        super().__init__()
        self._dsn = dsn
        self.claims = ClaimTable()
        self.lengths: dict[str, int] = {}
        self.time = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=EVENT_EVERY_S * events * 1.1)

    def add(self, stream: str, *events: Event, after_s: float = EVENT_EVERY_S) -> Stored:
        """Append events."""
        for event in events:
            stored = super().add(stream, event, after_s=after_s)
            self.claims.apply(plan(event.claims(stream)).effects)
            self.lengths[stream] = stored.version
        if len(self.events) >= FLUSHED_EVENTS:
            self.flush()
        return stored

    def flush(self) -> None:
        """Write what has gathered."""
        write_log(self._dsn, self.events)
        self.written += len(self.events)
        self.events.clear()

    def write_claims(self) -> None:
        """Write what the claims came to."""
        statement = b"copy log.claims (key, holder, mode, amount) from stdin"
        with (
            psycopg.connect(self._dsn) as connection,
            connection.cursor().copy(statement) as copy,
        ):
            for (key, holder), holding in self.claims.rows().items():
                copy.write_row((key, holder, str(holding.mode), holding.amount))


@contextmanager
def database_alone(site: Site) -> Iterator[str]:
    """Run the product's PostgreSQL, and nothing else of it."""
    installation = Installation.open(site.product.root)
    postgres = EmbeddedPostgres(installation.folder.postgres)
    log = site.product.root / "log" / "postgres-alone.log"
    with alone(site.workspace, postgres, log):
        yield installation.dsn()


async def append_rate(dsn: str, now: dt.datetime) -> float:
    """Return how many commands a second are decided and appended, 128 at a time, at a time."""
    done = 0
    async with PostgresLog.open(dsn, migrate=False) as log:
        handler = Handler(log)
        until = time.monotonic() + APPEND_S

        def source() -> Context:
            return msgspec.structs.replace(source_for("benchmark")(), time=now)

        async def client() -> None:
            nonlocal done
            create = CreateDataCenter(name=f"bench {uuid.uuid4()}")
            accepted = await handler.handle(create.decide, source, principal="benchmark")
            center = str(msgspec.json.decode(accepted.answer)["id"])
            for count in itertools.count():
                update = UpdateDataCenter(id=center, description=f"{count}")
                try:
                    await handler.handle(update.decide, source, principal="benchmark")
                except OverloadedError as error:
                    await asyncio.sleep(error.retry_after_s)
                if time.monotonic() > until:
                    return
                done += 1

        began = time.monotonic()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return done / (time.monotonic() - began)


def _let_it_begin(dsn: str, begun: dt.datetime) -> None:
    """Put what the product made before the history begins: times never fall along a log."""
    with psycopg.connect(dsn) as connection:
        connection.execute("update log.log set time = %s", (begun,))


def settle(postgres: EmbeddedPostgres, dsn: str) -> None:
    """Wait until the server's own vacuum has been where the fill was, and write what is left of it.

    A log grows by so much in months and not in minutes: what is measured is its size, not that.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        wait_until(lambda: _is_vacuumed(connection), SETTLE_TIMEOUT_S, "the vacuum to end")
    with psycopg.connect(postgres.admin_dsn, autocommit=True) as connection:
        connection.execute("checkpoint")


def _is_vacuumed(connection: psycopg.Connection) -> bool:
    row = connection.execute(
        "select n_ins_since_vacuum <= 10000 + 0.02 * n_live_tup"
        " and not exists (select from pg_stat_progress_vacuum)"
        " from pg_stat_user_tables where relid = 'log.log'::regclass"
    ).fetchone()
    assert row is not None
    return bool(row[0])


async def load_s(dsn: str, stream: str) -> tuple[float, float]:
    """Return how long a stream takes to load: all of it, and again with the snapshot of that."""
    times = []
    async with PostgresLog.open(dsn, migrate=False) as log:
        for _ in range(2):
            began = time.perf_counter()
            await Repository(log).load({stream: HOST})
            times.append(time.perf_counter() - began)
    return times[0], times[1]


async def find_s(dsn: str, times: list[dt.datetime]) -> list[float]:
    """Return how long it takes to find the last position up to each of some times, p50."""
    found = []
    async with PostgresLogReader.open(dsn) as log:
        for instant in times:
            taken = []
            for _ in range(LOOKS):
                began = time.perf_counter()
                await log.position_at(instant)
                taken.append(time.perf_counter() - began)
            found.append(statistics.median(taken))
    return found


class Growth(Scale):
    """What is measured."""

    def __init__(
        self, workspace: Workspace, events: int, vms: int, bootstrap: str | None = None
    ) -> None:
        kafka = f'[kafka]\nbootstrap = "{bootstrap}"\n' if bootstrap else ""
        super().__init__(workspace, vms, settings=kafka)
        self.parts = (*PARTS, "relay") if bootstrap else PARTS
        self.events = events
        self.rates: dict[int, float] = {}
        self.hosts_made: list[str] = []
        now = dt.datetime.now(dt.UTC)
        self.span = (now, now)

    def fill(self) -> None:
        """Let the log grow, and look at it at each age."""
        with database_alone(self) as dsn:
            history = Growing(dsn, self.events)
            history.written = self._head(dsn)
            begun = history.time
            _let_it_begin(dsn, begun)
            self._append(dsn, history)
            life = Life(history, self.vms, max(3, self.vms // 200), "Grown")
            self.hosts_made = list(life.names)
            for part in STEPS:
                began, before = time.monotonic(), history.written
                while history.written + len(history.events) < self.events * part:
                    life.step()
                history.flush()
                seconds = time.monotonic() - began
                if history.written > before:
                    rate = (history.written - before) / seconds
                    self.note(f"filled up to {history.written:,} events, events/s", rate, "")
                self._append(dsn, history)
            busy = self.hosts_made[0]
            for _ in range(BUSY_STREAM_EVENTS):
                history.session(busy, life.names[busy])
            history.flush()
            history.write_claims()
            self.span = (begun, history.time)
            self._look_at_it(dsn, history)

    def _append(self, dsn: str, history: Growing) -> None:
        age = history.written
        settle(EmbeddedPostgres(Installation.open(self.product.root).folder.postgres), dsn)
        rate = uvloop.run(append_rate(dsn, history.time))
        self.rates[age] = rate
        self.note(f"at {age:,} events: commands appended a second", rate, "")
        history.written = self._head(dsn)

    def _look_at_it(self, dsn: str, history: Growing) -> None:
        busiest = f"host/{self.hosts_made[0]}"
        whole, again = uvloop.run(load_s(dsn, busiest))
        self.note(f"load of a host's stream of {history.lengths[busiest]:,} events", whole)
        self.note("the same, from its snapshot", again)
        compare(GOAL, "load of a busy stream: from a snapshot, over all", again, whole, "s")
        begun, ended = self.span
        instants = [ended - (ended - begun) * age for age in AGES.values()]
        for name, taken in zip(AGES, uvloop.run(find_s(dsn, instants)), strict=True):
            self.note(f"finding the position of a time, {name}, p50", taken)
        with psycopg.connect(dsn, autocommit=True) as connection:
            self._disk(connection)
            self._vacuum(connection)

    def _disk(self, connection: psycopg.Connection) -> None:
        row = connection.execute(
            "select pg_table_size('log.log'), pg_indexes_size('log.log'), max(position)"
            " from log.log"
        ).fetchone()
        assert row is not None
        table, indexes, head = row
        self.note("disk: rows of the log, bytes an event", table / head, "B")
        self.note("disk: its indexes, bytes an event", indexes / head, "B")

    def _vacuum(self, connection: psycopg.Connection) -> None:
        """Say whether the log is looked after: nobody vacuums it by hand."""
        row = connection.execute(
            "select s.autovacuum_count, s.vacuum_count, s.n_dead_tup, c.relallvisible, c.relpages,"
            " age(c.relfrozenxid) from pg_stat_user_tables s join pg_class c on c.oid = s.relid"
            " where s.relid = 'log.log'::regclass"
        ).fetchone()
        assert row is not None
        by_itself, by_hand, dead, visible, pages, age = row
        self.note("vacuumed by itself, times", by_itself, "")
        self.note("vacuumed by hand, times", by_hand, "")
        self.note("dead rows", dead, "")
        self.note("pages that readers need not check", visible / max(1, pages), "")
        self.note("transactions since its rows were frozen", age, "")

    # --------------------------------------------------------------------- the product on it

    def use(self) -> None:
        """Start the product on the log: once to fold it, then again; travel in time; rebuild."""
        self.note("first start: everything folded by every process", self._start())
        self.product.stop()
        again = self._start()
        self.note("start of everything, from snapshots", again)
        compare(
            GOAL, "start of everything, of 10 s", again, START_S_MAX, "s", limit=1, at_most=True
        )
        if FULL:
            self.restart_each()
        for kind, path in (("VM", self._vm()), ("host", f"/v1/hosts/{self.hosts_made[0]}")):
            begun, ended = self.span
            for name, age in AGES.items():
                instant = (ended - (ended - begun) * age * 0.9).isoformat()
                what = f"GET a {kind} as it was, {name}, p50"
                self.note(what, self.read_s(f"{path}?at={quote(instant)}", READS_THEN))
        self.rebuild()
        with psycopg.connect(Installation.open(self.product.root).dsn()) as connection:
            for what, figure in shown(care(connection)):
                self.note(what, figure, "")

    def _vm(self) -> str:
        return f"/v1/vms/{self.product.items('/v1/vms', sort='created', limit='1')[0]['id']}"

    def _start(self) -> float:
        """Start everything; return how long it took until each process knew the whole log."""
        began, then = time.monotonic(), dt.datetime.now(dt.UTC)
        self.product.start()
        head = self._head(Installation.open(self.product.root).dsn())
        for part in self.parts:
            self.await_row(
                "select pid from health.parts where part = %s and position >= %s and state = 'up'"
                " and time > %s",
                (part, head, then),
            )
        return time.monotonic() - began

    @staticmethod
    def _head(dsn: str) -> int:
        with psycopg.connect(dsn) as connection:
            row = connection.execute("select coalesce(max(position), 0) from log.log").fetchone()
        assert row is not None
        return int(row[0])


def show(growth: Growth) -> None:
    """Report how appending changed with age."""
    ages = sorted(growth.rates)
    for age in ages[1:]:
        compare(
            GOAL,
            f"commands appended a second at {age:,} events, over {ages[0]:,}",
            growth.rates[age],
            growth.rates[ages[0]],
            "cmd/s",
            limit=0.8,
        )


def main() -> None:
    """Measure one growth."""
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000 if FULL else 60_000)
    parser.add_argument("--vms", type=int, default=100_000 if FULL else 1_000)
    parser.add_argument("--kafka", action="store_true", help="with a broker and the relay")
    asked = parser.parse_args()
    workspace = Workspace()
    try:
        bootstrap = _broker(workspace) if asked.kafka else None
        growth = Growth(workspace, asked.events, asked.vms, bootstrap)
        try:
            growth.open()
            growth.end_second()  # it would follow the log, and hold up what is measured
            growth.product.stop()
            growth.fill()
            growth.use()
            show(growth)
        finally:
            growth.close()
    finally:
        workspace.close()


def _broker(workspace: Workspace) -> str:
    broker = KafkaBroker(workspace)
    broker.start()
    return broker.bootstrap


if __name__ == "__main__":
    main()
