"""The command API over PostgreSQL: durable answers, many clients at once, a database that dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from events.log.postgres import PostgresLog
from events.types.operation import OperationEnded, Outcome
from tests.harness.postgres import Database, PostgresServer
from tests.unit.api.conftest import Asked, problem

pytestmark = pytest.mark.integration
DATA_CENTERS = "/v1/data_centers"
CLIENTS = 64


@pytest.fixture
async def log(database: Database) -> AsyncIterator[PostgresLog]:
    async with PostgresLog.open(database.url) as log:
        yield log


@pytest.fixture
async def asked(log: PostgresLog, tmp_path: Path) -> AsyncIterator[Asked]:
    asked = Asked(tmp_path, log)
    async with asked.http:
        yield asked
    await asked.api.close()


async def insist(asked: Asked, body: dict[str, object], **headers: str) -> httpx.Response:
    """Make a data center as a client does, who comes again where the engine has too much to do."""
    while True:
        answer = await asked.post(DATA_CENTERS, body, **headers)
        if answer.status_code != 503:
            return answer
        await asyncio.sleep(float(answer.headers["retry-after"]) / 10)


async def test_what_was_answered_is_there_for_another_engine(
    asked: Asked, database: Database, tmp_path: Path
) -> None:
    vm = await asked.vm()
    first = await asked.post(f"/v1/vms/{vm}/start", Idempotency_Key="k")
    assert first.status_code == 202
    async with PostgresLog.open(database.url) as other_log:
        other = Asked(tmp_path, other_log)
        async with other.http:
            again = await other.post(f"/v1/vms/{vm}/start", Idempotency_Key="k")
            assert (again.status_code, again.json()) == (202, first.json())
            assert again.headers["chronovisor-position"] == first.headers["chronovisor-position"]
            problem(await other.post(f"/v1/vms/{vm}/start"), 409, "wrong-state")


async def test_many_at_once_get_positions_without_a_gap(asked: Asked) -> None:
    answers = await asyncio.gather(
        *(insist(asked, {"name": f"dc{number}"}) for number in range(CLIENTS))
    )
    assert {answer.status_code for answer in answers} == {201}
    positions = sorted(int(answer.headers["chronovisor-position"]) for answer in answers)
    assert positions == list(range(1, CLIENTS + 1))


async def test_of_many_who_want_one_name_one_gets_it(asked: Asked) -> None:
    answers = await asyncio.gather(*(insist(asked, {"name": "Prague"}) for _ in range(CLIENTS)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(201) == 1
    assert statuses.count(409) == CLIENTS - 1
    assert await asked.log.head() == 1


async def test_one_key_sent_by_many_is_done_once(asked: Asked) -> None:
    answers = await asyncio.gather(
        *(insist(asked, {"name": "Prague"}, Idempotency_Key="k") for _ in range(CLIENTS))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await asked.log.head() == 1


async def test_of_many_changes_of_one_version_one_is_made(asked: Asked) -> None:
    made = await asked.made(DATA_CENTERS, {"name": "Prague"})
    answers = await asyncio.gather(
        *(
            asked.send(
                "PATCH", f"{DATA_CENTERS}/{made}", {"description": f"{number}"}, If_Match='"1"'
            )
            for number in range(8)
        )
    )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] + [412] * 7


async def test_an_end_that_another_process_appends_is_waited_for(
    asked: Asked, database: Database, tmp_path: Path
) -> None:
    vm = await asked.vm()
    asking = asyncio.create_task(asked.post(f"/v1/vms/{vm}/start", Prefer="wait=20"))
    async with PostgresLog.open(database.url) as other_log:
        other = Asked(tmp_path, other_log)
        async with other.http:
            operation = ""
            while not operation:
                last = (await other.history())[-1]
                operation = last.object_id if last.stream.startswith("operation/") else ""
                await asyncio.sleep(0.05)
            ended = OperationEnded(
                kind="vm.start", target=f"vm/{vm}", name="web01", outcome=Outcome.SUCCEEDED
            )
            await other.append(f"operation/{operation}", ended)
    answer = await asking
    assert (answer.status_code, answer.json()["operation"]["outcome"]) == (200, "succeeded")


async def test_a_database_that_dies_is_503_and_the_key_tells_afterwards(
    asked: Asked, postgres: PostgresServer
) -> None:
    assert (await asked.post(DATA_CENTERS, {"name": "a"})).status_code == 201
    postgres.kill()
    answer = await asked.post(DATA_CENTERS, {"name": "b"}, Idempotency_Key="k")
    problem(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    postgres.start()
    async with asyncio.timeout(30):
        while True:
            again = await asked.post(DATA_CENTERS, {"name": "b"}, Idempotency_Key="k")
            if again.status_code != 503:
                break
            await asyncio.sleep(0.2)
    assert again.status_code == 201
    assert [event.name for event in await asked.history()] == ["data_center.created"] * 2
