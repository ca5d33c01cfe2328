"""The log under kill -9: nothing is missed, doubled or reordered, and every answer is true."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid

import psycopg
import pytest

from events.envelope import Stored
from events.log.migrate import migrate
from events.log.port import Append, Appended, OverloadedError, UnavailableError
from events.log.postgres import PostgresLog
from events.log.reader import PostgresLogReader
from events.log.writer import Limits
from events.stream.direct import DirectStream
from events.stream.port import START as FROM_START
from tests.contract.claim_fold import folded_claims
from tests.contract.sample_events import SAMPLE_CODEC, command, exclusive, noted, shared
from tests.harness.postgres import Database, PostgresServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CLIENTS = 12
LIMITS = Limits(answer_timeout_s=0.6, group_timeout_s=1.0)


class Client:
    """Appends to a stream of its own, and comes again under the same key until it is answered."""

    def __init__(self, number: int, log: PostgresLog) -> None:
        self.stream = f"vm/{number}"
        self.log = log
        self.answers: list[Appended] = []
        self.retries = 0

    async def run(self, over: asyncio.Event) -> None:
        while not over.is_set():
            version = len(self.answers)
            claims = (
                exclusive(f"name/{self.stream}/{version}", self.stream),
                shared("host/1", f"{self.stream}/{version}"),
            )
            append = command(
                {self.stream: 2 * version},
                noted(self.stream, *claims, text=f"{version}"),
                noted(self.stream, text=f"{version} second"),
                key=f"{self.stream}:{version}",
                answer=f"{version}".encode(),
            )
            self.answers.append(await self.until_answered(append))

    async def until_answered(self, append: Append) -> Appended:
        while True:
            try:
                # A client that retries sends its request anew: another command id, the same key.
                outcome = await self.log.append(_under_a_new_id(append))
            except (UnavailableError, OverloadedError):
                self.retries += 1
                await asyncio.sleep(0.02)
                continue
            assert isinstance(outcome, Appended), outcome
            return outcome


def _under_a_new_id(append: Append) -> Append:
    return Append(
        **{field: getattr(append, field) for field in append.__struct_fields__}
        | {"command": uuid.uuid4()}
    )


async def follow(reader: PostgresLogReader, seen: list[Stored]) -> None:
    """Take in every batch of the stream, until cancelled."""
    async for batch in DirectStream(reader, wait_s=0.2).batches(FROM_START, 300):
        seen.extend(batch.events)


async def cut_backends(database: Database, random_: random.Random) -> None:
    """End a few connections, as an impatient administrator does."""

    def cut() -> None:
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(database.url, autocommit=True, connect_timeout=2) as connection,
        ):
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name like 'chronovisor log%%' and random() < %s",
                (random_.uniform(0.3, 0.9),),
            )

    await asyncio.to_thread(cut)


async def trouble(database: Database, postgres: PostgresServer, seed: int) -> None:
    """Kill the whole server, or some of its backends, or hold it still, again and again."""
    random_ = random.Random(seed)
    for round_ in range(9):
        await asyncio.sleep(random_.uniform(0.05, 0.4))
        if round_ % 3 == 0:
            await asyncio.to_thread(postgres.kill)
            await asyncio.to_thread(postgres.start)
        elif round_ % 3 == 1:
            await cut_backends(database, random_)
        else:
            await asyncio.to_thread(postgres.pause)
            await asyncio.sleep(random_.uniform(0.1, 1.2))
            await asyncio.to_thread(postgres.resume)


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_missed_doubled_or_reordered(
    database: Database, postgres: PostgresServer, seed: int
) -> None:
    migrate(database.url)
    seen: list[Stored] = []
    async with (
        PostgresLog.open(database.url, codec=SAMPLE_CODEC, limits=LIMITS) as one,
        PostgresLog.open(database.url, codec=SAMPLE_CODEC, limits=LIMITS) as two,
        PostgresLogReader.open(database.url) as reader,
    ):
        clients = [Client(number, one if number % 2 else two) for number in range(CLIENTS)]
        following = asyncio.ensure_future(follow(reader, seen))
        over = asyncio.Event()
        running = [asyncio.ensure_future(client.run(over)) for client in clients]
        await trouble(database, postgres, seed)
        over.set()
        await asyncio.wait_for(asyncio.gather(*running), 30)
        commands = sum(len(client.answers) for client in clients)
        total = 2 * commands
        await asyncio.wait_for(_until_seen(seen, total), 30)
        following.cancel()
        await asyncio.wait([following])

        # What a tailing reader saw is the log, each position once, in order.
        assert [stored.position for stored in seen] == list(range(1, total + 1))
        assert await one.head() == total
        for client in clients:
            events = [stored for stored in seen if stored.stream == client.stream]
            assert [stored.version for stored in events] == list(
                range(1, 2 * len(client.answers) + 1)
            )
            # Every answer names the very positions at which its events are.
            assert [answer.first for answer in client.answers] == [
                stored.position for stored in events[::2]
            ]
            assert [answer.answer for answer in client.answers] == [
                f"{version}".encode() for version in range(len(client.answers))
            ]
        assert [stored.time for stored in seen] == sorted(stored.time for stored in seen)
        assert await one.claims() == await folded_claims(one, SAMPLE_CODEC)
    with psycopg.connect(database.url) as connection:
        row = connection.execute("select count(*), sum(count) from log.answers").fetchone()
        assert row == (commands, total)
    assert sum(client.retries for client in clients) > 0  # the trouble was felt
    assert commands > 20 * CLIENTS


async def _until_seen(seen: list[Stored], total: int) -> None:
    while len(seen) < total:
        await asyncio.sleep(0.05)
