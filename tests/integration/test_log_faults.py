"""The log in PostgreSQL under faults: what fails, waits, hangs, dies or lies about durability."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from events.log import connection
from events.log.connection import NoLogError, NotDurableError
from events.log.migrate import migrate
from events.log.port import (
    Append,
    Appended,
    Claimed,
    Conflict,
    Outcome,
    OverloadedError,
    UnavailableError,
)
from events.log.postgres import PostgresLog
from events.log.reader import LogGapError, PostgresLogReader
from events.log.writer import Limits
from events.stream.direct import DirectStream
from events.stream.port import START as FROM_START
from events.stream.port import OtherLogError
from tests.contract.claim_fold import folded_claims
from tests.contract.sample_events import (
    SAMPLE_CODEC,
    START,
    check,
    command,
    exclusive,
    noted,
    release,
    shared,
)
from tests.harness.postgres import Database, PostgresServer

pytestmark = pytest.mark.integration
PATIENT = Limits(answer_timeout_s=20.0, group_timeout_s=30.0, wait_max_s=20.0)
"""For what is not about waiting: a busy disk may take longer than the product's limits."""


@pytest.fixture
async def log(database: Database) -> AsyncIterator[PostgresLog]:
    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC, limits=PATIENT) as log:
        yield log


def execute(database: Database, *statements: str) -> None:
    with psycopg.connect(database.url, autocommit=True) as session:
        for statement in statements:
            session.execute(statement)  # type: ignore[arg-type, unused-ignore]


# --- what the log refuses to work on -------------------------------------------------------------


async def test_a_server_that_does_not_sync_is_refused(
    database: Database, postgres: PostgresServer
) -> None:
    execute(database, "alter system set fsync = off", "select pg_reload_conf()")
    try:
        await asyncio.sleep(0.2)
        with pytest.raises(NotDurableError, match="fsync = off"):
            async with PostgresLog.open(database.url):
                pass
    finally:
        execute(database, "alter system reset fsync", "select pg_reload_conf()")


async def test_a_database_that_commits_asynchronously_is_refused(database: Database) -> None:
    execute(database, f'alter database "{database.name}" set synchronous_commit = off')
    with pytest.raises(NotDurableError, match="synchronous_commit = off"):
        async with PostgresLog.open(database.url):
            pass


async def test_a_server_that_is_too_old_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SERVER_VERSION_MIN", 990_000)
    with pytest.raises(NotDurableError, match="needs PostgreSQL 99 or newer"):
        async with PostgresLog.open(database.url):
            pass


async def test_a_database_without_a_log_is_refused(database: Database) -> None:
    with pytest.raises(NoLogError):
        async with PostgresLogReader.open(database.url):
            pass


async def test_a_server_that_is_not_there_is_said_so(database: Database) -> None:
    with pytest.raises(UnavailableError):
        async with PostgresLogReader.open(database.url.replace(f":{database.port}/", ":1/")):
            pass


# --- several logs on one database ----------------------------------------------------------------


async def test_two_processes_that_read_what_the_other_writes_do_not_both_pass(
    database: Database, log: PostgresLog
) -> None:
    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC) as other:
        for round_ in range(30):
            a, b = f"a/{round_}", f"b/{round_}"
            outcomes = await asyncio.gather(
                log.append(command({a: 0, b: 0}, noted(a))),
                other.append(command({a: 0, b: 0}, noted(b))),
            )
            kinds = sorted(type(outcome).__name__ for outcome in outcomes)
            assert kinds == ["Appended", "Conflict"], round_


async def test_a_reader_in_another_process_hears_of_an_event_at_once(
    database: Database, log: PostgresLog
) -> None:
    async with PostgresLogReader.open(database.url, poll_interval_s=30.0) as reader:
        await asyncio.sleep(0.2)
        for position in range(1, 6):
            waiting = asyncio.ensure_future(reader.wait(position - 1, 10.0))
            await asyncio.sleep(0.02)
            await log.append(command({}, noted(f"vm/{position}")))
            begun = time.perf_counter()
            assert await waiting == position
            assert time.perf_counter() - begun < 5.0  # by polling alone it would be 30 s


async def test_a_reader_that_hears_nothing_asks(database: Database, log: PostgresLog) -> None:
    async with PostgresLogReader.open(database.url, poll_interval_s=0.1) as reader:
        await reader.wait(0, 0.2)
        with psycopg.connect(database.url) as session:
            session.execute(
                "insert into log.log values"
                " (1, now(), gen_random_uuid(), 1, 1, 'vm/1', 'sample.noted', 'ann', null, null,"
                " null, '{}')"
            )
        assert await reader.wait(0, 10.0) == 1


# --- the writer's own troubles -------------------------------------------------------------------


async def test_a_command_that_the_database_refuses_harms_no_other_of_its_group(
    database: Database, log: PostgresLog
) -> None:
    execute(
        database,
        "create function log.refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'no such event here'; end $$",
        "create trigger refuse before insert on log.log for each row"
        " when (new.stream = 'bad') execute function log.refuse()",
    )
    outcomes = await asyncio.gather(
        *(log.append(command({}, noted(stream))) for stream in ("a", "bad", "b", "c")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [
        Appended,
        UnavailableError,
        Appended,
        Appended,
    ]
    assert [one.stream for one in await log.read(0)] == ["a", "b", "c"]


async def test_a_caller_that_leaves_harms_no_other(log: PostgresLog) -> None:
    appends = [asyncio.ensure_future(log.append(command({}, noted(f"vm/{n}")))) for n in range(50)]
    await asyncio.sleep(0)
    for task in appends[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert all(isinstance(outcome, Appended) for outcome in outcomes[1::2])
    stored = await log.read(0)
    assert [one.position for one in stored] == list(range(1, len(stored) + 1))
    assert {f"vm/{n}" for n in range(1, 50, 2)} <= {one.stream for one in stored}


async def test_who_holds_the_lock_is_waited_for(database: Database, log: PostgresLog) -> None:
    with psycopg.connect(database.url) as session:
        session.execute("select pg_advisory_xact_lock(7301)")
        waiting = asyncio.ensure_future(log.append(command({}, noted("vm/1"))))
        await asyncio.sleep(0.3)
        assert not waiting.done()
    assert isinstance(await waiting, Appended)


async def test_a_lock_that_is_never_given_back_makes_the_log_unavailable(
    database: Database,
) -> None:
    async with PostgresLog.open(
        database.url, codec=SAMPLE_CODEC, limits=Limits(answer_timeout_s=0.5, lock_timeout_ms=200)
    ) as log:
        append = command({}, noted("vm/1"), key="k")
        with psycopg.connect(database.url) as session:
            session.execute("select pg_advisory_xact_lock(7301)")
            with pytest.raises(UnavailableError):
                await log.append(append)
        outcome = await log.append(append)
        assert isinstance(outcome, Appended)
        assert await log.head() == 1


async def test_a_paused_server_makes_callers_wait_then_say_so_and_then_works_again(
    database: Database, postgres: PostgresServer
) -> None:
    async with PostgresLog.open(
        database.url, codec=SAMPLE_CODEC, limits=Limits(answer_timeout_s=1.0, group_timeout_s=1.5)
    ) as log:
        await log.append(command({}, noted("vm/0")))
        append = command({}, noted("vm/1"), key="k")
        with postgres.paused():
            first = asyncio.ensure_future(log.append(append))
            await asyncio.sleep(0.05)
            queued = asyncio.ensure_future(log.append(command({}, noted("vm/2"))))
            await asyncio.sleep(0.4)
            with pytest.raises(OverloadedError) as refusal:
                await log.append(command({}, noted("vm/3")))
            assert refusal.value.retry_after_s > 0
            for waiting in (first, queued):
                with pytest.raises(UnavailableError):
                    await waiting
            await asyncio.sleep(1.0)
        outcome = await eventually_appended(log, append)
        # Whether the first attempt was committed after all, its caller cannot know.
        assert isinstance(outcome, Appended)
        assert len(await log.load("vm/1")) == 1


async def test_a_full_queue_refuses_what_comes(
    database: Database, postgres: PostgresServer
) -> None:
    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC, limits=PATIENT) as log:
        await log.append(command({}, noted("vm/0")))
        with postgres.paused():
            waiting = [
                asyncio.ensure_future(log.append(command({}, noted(f"vm/{n}"))))
                for n in range(1, 2_700)
            ]
            await asyncio.sleep(0.1)
            refused = [task for task in waiting if task.done()]
            assert 0 < len(refused) < 700
            assert all(isinstance(task.exception(), OverloadedError) for task in refused)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        accepted = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
        assert len(accepted) == len(waiting) - len(refused)
        assert await log.head() == len(accepted) + 1


async def test_a_closed_log_takes_nothing(database: Database) -> None:
    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC) as log:
        waiting = asyncio.ensure_future(log.append(command({}, noted("vm/1"))))
        await asyncio.sleep(0)
    assert isinstance(await waiting, Appended)
    with pytest.raises(UnavailableError):
        await log.append(command({}, noted("vm/2")))


async def test_old_answers_are_forgotten_in_bounded_portions(
    database: Database, log: PostgresLog
) -> None:
    for number in range(5):
        await log.append(command({}, noted(f"vm/{number}"), key=str(number), time=START))
    execute(database, "update log.answers set time = now() where key = '4'")
    await log.prune_answers(limit=3)
    kept = [str(number) for number in range(5) if await log.answer("ann", str(number))]
    assert len(kept) == 2
    await log.prune_answers(limit=3)
    assert await log.answer("ann", "4") is not None
    assert await log.answer("ann", kept[0]) is None


# --- what a reader must notice -------------------------------------------------------------------


async def test_a_hole_in_the_log_stops_its_readers(database: Database, log: PostgresLog) -> None:
    for number in range(4):
        await log.append(command({}, noted(f"vm/{number}")))
    execute(database, "delete from log.log where position = 3")
    with pytest.raises(LogGapError) as caught:
        await log.read(0)
    assert (caught.value.after, caught.value.found) == (2, 4)
    with pytest.raises(LogGapError):
        await log.read(2)


async def test_another_log_behind_the_same_address_stops_everybody(
    database: Database, postgres: PostgresServer, log: PostgresLog
) -> None:
    await log.append(command({}, noted("vm/1")))
    execute(database, "select log.renew_identity()")
    postgres.restart()  # a restore never leaves connections open
    batches = DirectStream(log).batches(FROM_START)
    with pytest.raises(OtherLogError):
        await asyncio.wait_for(batches.__anext__(), 20)
    with pytest.raises(UnavailableError, match="restart this process"):
        await log.append(command({}, noted("vm/2")))


# --- claims --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_the_table_of_claims_equals_the_fold_of_the_events(
    database: Database, log: PostgresLog, seed: int
) -> None:
    """Many at once take, share, check and give back few keys; both processes' groups mix."""
    random_ = random.Random(seed)

    async def client(writer: PostgresLog, number: int) -> dict[str, int]:
        counts: dict[str, int] = {}
        version = 0
        stream = f"vm/{number}"
        for _ in range(25):
            claims = [
                random_.choice((exclusive, shared, check, release, release))(
                    random_.choice("abcd"), random_.choice((stream, "x", "y"))
                )
                for _ in range(random_.randint(0, 3))
            ]
            outcome = await writer.append(command({stream: version}, noted(stream, *claims)))
            version += isinstance(outcome, Appended)
            counts[type(outcome).__name__] = counts.get(type(outcome).__name__, 0) + 1
        return counts

    async with PostgresLog.open(database.url, codec=SAMPLE_CODEC, limits=PATIENT) as other:
        counts = await asyncio.gather(
            *(client(log if number % 2 else other, number) for number in range(16))
        )
    assert all(Conflict.__name__ not in one for one in counts)
    assert any(Claimed.__name__ in one for one in counts)
    assert await log.claims() == await folded_claims(log, SAMPLE_CODEC)


async def eventually_appended(log: PostgresLog, append: Append) -> Outcome:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            return await log.append(append)
        except (UnavailableError, OverloadedError):
            await asyncio.sleep(0.05)
    raise AssertionError("the log did not come back")


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    await asyncio.to_thread(migrate, database.url)
    async with PostgresLogReader.open(database.url) as reader:
        identity = reader.log_id
    await asyncio.to_thread(migrate, database.url)
    async with PostgresLogReader.open(database.url) as reader:
        assert reader.log_id == identity
