"""The projector on a real PostgreSQL: whatever happens to it, the inventory is the log's fold."""

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from events.log.migrate import migrate
from events.log.reader import PostgresLogReader
from events.stream.direct import DirectStream
from events.stream.port import Cursor, OtherLogError
from events.types.vm import VmCreated
from projections.projector import Projector, ProjectorStatus
from projections.store import NEXT, Changes, Store
from projections.views.table import Table
from projections.views.tables import TABLES
from tests.harness.postgres import Database, PostgresServer
from tests.unit.projections.history import History, ListStream, busy_history, write_log
from tests.unit.projections.test_batches import build

pytestmark = pytest.mark.integration

TIMEOUT_S = 30.0
ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import asyncio, sys
from events.log.reader import PostgresLogReader
from events.stream.direct import DirectStream
from projections.projector import Projector

async def main(dsn):
    async with PostgresLogReader.open(dsn) as reader:
        await Projector(DirectStream(reader), dsn, follow_batch_events=20, time_scale=0.05).run()

asyncio.run(main(sys.argv[1]))
"""


@contextlib.asynccontextmanager
async def running(projector: Projector) -> AsyncIterator[Projector]:
    task = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, f"waited {TIMEOUT_S} s for {what}"
        await asyncio.sleep(0.01)


async def caught_up(projector: Projector, position: int) -> None:
    async def there() -> bool:
        health = await projector.health()
        return health.status is ProjectorStatus.FOLLOWING and health.position >= position

    await until(there, f"the projector to reach {position}")


def rows_of(dsn: str) -> dict[str, dict[str, tuple[Any, ...]]]:
    """All rows of the inventory, as `build` gives them."""
    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    with psycopg.connect(dsn) as connection:
        connection.execute("SET timezone = 'UTC'")
        for name in (*(table.name for table in TABLES), "events"):
            rows = connection.execute(f"SELECT * FROM inventory.{name}".encode()).fetchall()
            found[name] = {str(row[0]): row for row in rows}
    return found


def position_of(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        try:
            row = connection.execute("SELECT position FROM inventory.cursor").fetchone()
        except psycopg.errors.UndefinedTable:
            return 0
    return row[0] if row else 0


def assert_is_fold(dsn: str, history: History) -> None:
    expected, removed = build(history, [])
    found = rows_of(dsn)
    for name, rows in expected.items():
        assert found[name] == rows, f"table {name} differs from the fold"
    with psycopg.connect(dsn) as connection:
        gone = connection.execute("SELECT kind, id, position FROM inventory.removed").fetchall()
    assert {(kind + "s", one): at for kind, one, at in gone} == {
        (table, one): at for table, objects in removed.items() for one, at in objects.items()
    }
    assert position_of(dsn) == len(history.events)


async def test_follows_the_stream(database: Database) -> None:
    history = busy_history(50, 3_000, renaming=True)
    later = history.events[2_000:]
    del history.events[2_000:]
    async with running(Projector(ListStream(history), database.url)) as projector:
        await caught_up(projector, 2_000)
        for first in range(0, len(later), 7):
            history.events += later[first : first + 7]
            await asyncio.sleep(0.001)
        await caught_up(projector, len(history.events))
    assert_is_fold(database.url, history)


@pytest.mark.parametrize("unwritten", [0, 40, 100_000])
async def test_folds_without_its_cache_what_it_folds_with_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, unwritten: int
) -> None:
    defaults = {
        "building": False,
        "cached_max": 0,
        "vms_max": None,
        "unwritten_max": unwritten,
    }
    monkeypatch.setattr("projections.folder.Folder.__init__.__kwdefaults__", defaults)
    history = busy_history(50, 3_000, seed=3, renaming=True)
    stream = ListStream(history)
    projector = Projector(stream, database.url, build_batch_events=100)
    async with running(projector):
        await caught_up(projector, len(history.events))
        assert_is_fold(database.url, history)
        longer = busy_history(50, 3_500, seed=3, renaming=True)
        history.events += longer.events[len(history.events) :]
        await caught_up(projector, len(history.events))
    assert_is_fold(database.url, history)


async def test_a_build_writes_each_object_once_and_reads_none_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, int] = {}
    write, load = Store.write, Store.load

    async def counted(
        store: Store, changes: Sequence[Changes], before: Cursor, after: Cursor
    ) -> None:
        if store.schema == NEXT:
            for change in changes:
                name = change.part.table
                written[name] = written.get(name, 0) + len(change.rows)
        await write(store, changes, before, after)

    async def refused(store: Store, table: Table[Any], ids: Iterable[str]) -> list[Any]:
        assert store.schema != NEXT, "a document was read back"
        return await load(store, table, ids)

    monkeypatch.setattr(Store, "write", counted)
    monkeypatch.setattr(Store, "load", refused)
    history = busy_history(50, 3_000, seed=5)
    projector = Projector(ListStream(history), database.url, build_batch_events=100)
    async with running(projector):
        await caught_up(projector, len(history.events))
    assert_is_fold(database.url, history)
    with psycopg.connect(database.url) as connection:
        for name in ("vms", "hosts", "operations", "events"):
            rows = connection.execute(f"SELECT count(*) FROM inventory.{name}".encode()).fetchone()
            assert rows == (written[name],), name


async def test_an_append_cut_in_two_still_shows_its_operation(database: Database) -> None:
    """The operation in one batch, the object that it makes in the next, by another process."""
    history = History()
    center = history.make_data_center()
    where = history.make_cluster(center)
    vm_id = history.new_id()
    work = history.begin_operation(f"vm/{vm_id}", kind="vm.create")
    created = VmCreated(
        name="web01", data_center=center, cluster=where, configuration=history.configuration()
    )
    history.add(f"vm/{vm_id}", created)
    rest = [history.events.pop()]
    async with running(Projector(ListStream(history), database.url)) as projector:
        await caught_up(projector, len(history.events))
    history.events += rest
    async with running(Projector(ListStream(history), database.url)) as projector:
        await caught_up(projector, len(history.events))
    assert_is_fold(database.url, history)
    document = json.loads(rows_of(database.url)["vms"][vm_id][-1])
    assert [operation["id"] for operation in document["operations"]] == [work]


async def test_killed_again_and_again_loses_and_doubles_nothing(
    database: Database, tmp_path: Path
) -> None:
    migrate(database.url)
    history = busy_history(60, 4_000, seed=5)
    write_log(database.url, history.events[:200])
    dice = random.Random(5)
    written = 200
    kills = 0
    while position_of(database.url) < len(history.events):
        with _child(database.url) as child:
            await until(lambda: position_of(database.url) >= 200, "the first build")
            while kills < 8:
                more = history.events[written : written + 400]
                write_log(database.url, more)
                written += len(more)
                aim = position_of(database.url) + dice.randrange(1, 300)
                deadline = time.monotonic() + TIMEOUT_S
                while position_of(database.url) < min(aim, written):
                    assert child.poll() is None
                    assert time.monotonic() < deadline
                child.send_signal(signal.SIGKILL)
                child.wait()
                kills += 1
                break
            else:
                write_log(database.url, history.events[written:])
                written = len(history.events)
                await until(
                    lambda: position_of(database.url) >= len(history.events), "the last events"
                )
    assert kills == 8
    assert_is_fold(database.url, history)


@contextlib.contextmanager
def _child(dsn: str) -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen([sys.executable, "-c", CHILD, dsn], cwd=ROOT)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("lost", ["rebuild", "audit log"])
async def test_a_build_that_loses_one_of_its_connections_is_begun_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Audit records and documents are written in a transaction each; one alone is never served."""
    history = busy_history(50, 3_000, seed=11)
    complete, cut = Store.complete_audits, list[Any]()

    async def complete_and_cut(store: Store) -> None:
        await complete(store)
        if not cut:
            with psycopg.connect(database.url, autocommit=True) as other:
                cut.extend(
                    other.execute(
                        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                        " WHERE application_name = %s",
                        (f"chronovisor projector {lost}",),
                    ).fetchall()
                )

    monkeypatch.setattr(Store, "complete_audits", complete_and_cut)
    async with running(Projector(ListStream(history), database.url)) as projector:
        await caught_up(projector, len(history.events))
    assert cut == [(True,)]
    assert_is_fold(database.url, history)
    with psycopg.connect(database.url) as connection:
        left = connection.execute("SELECT to_regnamespace(%s)", (NEXT,)).fetchone()
    assert left == (None,)


async def test_rebuilds_while_the_old_one_is_read_and_followed(database: Database) -> None:
    history = busy_history(50, 6_000, seed=7)
    later = history.events[3_000:]
    del history.events[3_000:]
    seen: list[int] = []
    counts: set[int] = set()
    stop = asyncio.Event()

    async def read() -> None:
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as reader:
            while not stop.is_set():
                found = await reader.execute(
                    "SELECT position, (SELECT count(*) FROM inventory.vms) FROM inventory.cursor"
                )
                row = await found.fetchone()
                assert row is not None
                seen.append(row[0])
                counts.add(row[1])

    async def grow() -> None:
        for first in range(0, len(later), 20):
            history.events += later[first : first + 20]
            await asyncio.sleep(0.001)

    projector = Projector(ListStream(history), database.url, build_batch_events=200)
    async with running(projector):
        await caught_up(projector, 3_000)
        reading = asyncio.create_task(read())
        growing = asyncio.create_task(grow())
        for _ in range(3):
            await projector.rebuild()
        await growing
        await caught_up(projector, len(history.events))
        stop.set()
        await reading
    assert seen == sorted(seen), "a reader saw the position fall"
    assert counts == {50}, "a reader saw a half-built inventory"
    assert len(set(seen)) > 3, "it did not follow meanwhile"
    assert_is_fold(database.url, history)


async def test_other_views_make_a_rebuild_at_the_start(database: Database) -> None:
    history = busy_history(20, 500)
    async with running(Projector(ListStream(history), database.url)) as projector:
        await caught_up(projector, len(history.events))
    with psycopg.connect(database.url) as connection:
        connection.execute("UPDATE inventory.cursor SET schema_hash = 'of older views'")
        connection.execute("UPDATE inventory.vms SET document = 'of older views'")
    async with running(Projector(ListStream(history), database.url)) as projector:
        await caught_up(projector, len(history.events))
    assert_is_fold(database.url, history)


@pytest.mark.parametrize(("behind", "built"), [(400, True), (100, False)])
async def test_far_behind_it_builds_instead_of_following(
    database: Database, behind: int, *, built: bool
) -> None:
    history = busy_history(20, 1_000)
    later = history.events[-behind:]
    del history.events[-behind:]

    async def kept() -> str:
        projector = Projector(ListStream(history), database.url, far_behind_events=300)
        async with running(projector):
            await caught_up(projector, len(history.events))
        with psycopg.connect(database.url) as connection:
            row = connection.execute("SELECT 'inventory'::regnamespace::oid::text").fetchone()
        assert row is not None
        return str(row[0])

    before = await kept()
    history.events += later
    assert (await kept() != before) is built
    assert_is_fold(database.url, history)


async def test_another_log_begins_anew(database: Database) -> None:
    before = busy_history(20, 900, seed=1)
    async with running(Projector(ListStream(before), database.url)) as projector:
        await caught_up(projector, len(before.events))
    restored = busy_history(20, 600, seed=2)
    async with running(Projector(ListStream(restored), database.url)) as projector:
        await until(lambda: position_of(database.url) == len(restored.events), "the new log")
    assert_is_fold(database.url, restored)


async def test_a_log_exchanged_under_the_stream_ends_it(database: Database) -> None:
    """A restore under a running process: the next process opens the log that is there then."""
    migrate(database.url)
    history = busy_history(10, 200)
    write_log(database.url, history.events)
    async with PostgresLogReader.open(database.url, poll_interval_s=0.05) as reader:
        projector = Projector(DirectStream(reader, wait_s=0.2), database.url, time_scale=0.05)
        task = asyncio.create_task(projector.run())
        await caught_up(projector, len(history.events))
        with psycopg.connect(database.url) as connection:
            connection.execute("UPDATE log.log_identity SET log_id = gen_random_uuid()")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'chronovisor log%'"
            )
        async with asyncio.timeout(TIMEOUT_S):
            with pytest.raises(OtherLogError):
                await task
    async with (
        PostgresLogReader.open(database.url) as reader,
        running(Projector(DirectStream(reader), database.url)) as projector,
    ):
        await caught_up(projector, len(history.events))
    assert_is_fold(database.url, history)


async def test_an_unknown_event_halts_it_visibly(database: Database) -> None:
    history = busy_history(10, 300)
    stranger = msgspec.structs.replace(history.events[249], name="vm.teleported")
    history.events[249] = stranger
    async with running(Projector(ListStream(history), database.url)) as projector:

        async def halted() -> bool:
            return (await projector.health()).status is ProjectorStatus.HALTED

        await until(halted, "the halt")
        health = await projector.health()
        assert not health.healthy
        assert "vm.teleported" in health.error
        assert "250" in health.error


async def test_an_unknown_event_in_the_stream_halts_it_after_all_before(
    database: Database,
) -> None:
    history = busy_history(10, 300)
    stranger = msgspec.structs.replace(history.events[249], schema=99)
    rest = [stranger, *history.events[250:]]
    del history.events[200:]
    between = busy_history(10, 300).events[200:249]
    async with running(Projector(ListStream(history), database.url)) as projector:
        await caught_up(projector, 200)
        history.events += between + rest
        await until(lambda: position_of(database.url) == 249, "all before the unknown event")
        await asyncio.sleep(0.05)
        assert (await projector.health()).status is ProjectorStatus.HALTED


async def test_a_fault_in_a_fold_shows_and_leaves_the_inventory_as_it_was(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = busy_history(10, 300)
    monkeypatch.setattr("projections.views.inventory.audit_record", _fail_beyond(200))
    async with running(Projector(ListStream(history), database.url)) as projector:

        async def halted() -> bool:
            return (await projector.health()).status is ProjectorStatus.HALTED

        await until(halted, "the halt")
        assert "no such record" in (await projector.health()).error
    assert position_of(database.url) == 0


def _fail_beyond(position: int) -> Callable[[Any], None]:
    def audit_record(recorded: Any) -> None:
        if recorded.position > position:
            raise LookupError("no such record")

    return audit_record


async def test_only_one_works_and_the_other_takes_over(database: Database) -> None:
    history = busy_history(20, 500)
    first = Projector(ListStream(history), database.url, time_scale=0.05)
    second = Projector(ListStream(history), database.url, time_scale=0.05)
    async with running(second):
        async with running(first):

            async def settled() -> bool:
                statuses = {(await first.health()).status, (await second.health()).status}
                return statuses == {ProjectorStatus.FOLLOWING, ProjectorStatus.STANDBY}

            await until(settled, "one projector to work and the other to stand by")
        # Whichever worked: now only the second is left.
        await caught_up(second, len(history.events))
    assert_is_fold(database.url, history)


async def test_survives_its_connection_and_the_server(
    postgres: PostgresServer, database: Database
) -> None:
    history = busy_history(40, 3_000, seed=11)
    later = history.events[1_000:]
    del history.events[1_000:]
    projector = Projector(ListStream(history), database.url, time_scale=0.05)
    async with running(projector):
        await caught_up(projector, 1_000)
        history.events += later[:500]
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'chronovisor projector%'"
            )
        await caught_up(projector, 1_500)
        history.events += later[500:]
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
        # What was not on the disk yet is gone: it must come again without any new event.
        await until(lambda: position_of(database.url) == len(history.events), "all of it")
    assert_is_fold(database.url, history)


async def test_follows_a_log_in_postgresql(database: Database) -> None:
    migrate(database.url)
    history = busy_history(30, 1_000, seed=4)
    write_log(database.url, history.events[:600])
    async with (
        PostgresLogReader.open(database.url, poll_interval_s=0.05) as reader,
        running(Projector(DirectStream(reader), database.url)) as projector,
    ):
        await caught_up(projector, 600)
        write_log(database.url, history.events[600:])
        await caught_up(projector, len(history.events))
    assert_is_fold(database.url, history)


async def test_a_rebuild_that_cannot_be_is_told(database: Database) -> None:
    history = busy_history(10, 100)
    projector = Projector(ListStream(history), database.url)
    async with running(projector):
        await caught_up(projector, len(history.events))
        waiting = asyncio.create_task(projector.rebuild())
        await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match=r"rebuild failed|stopped"):
        await waiting
