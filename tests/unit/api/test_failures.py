"""Request ids, metrics, and what is answered when the log fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from commands.api.app import EVENTS_BEHIND_MAX
from events.log.memory import MemoryLog
from events.log.port import Append, Outcome, OverloadedError, UnavailableError
from tests.unit.api.conftest import Asked, problem

DATA_CENTERS = "/v1/data_centers"


async def test_a_request_id_is_echoed_or_made(asked: Asked) -> None:
    given = await asked.post(DATA_CENTERS, {"name": "a"}, X_Request_Id="tour-1")
    assert given.headers["x-request-id"] == "tour-1"
    made = await asked.post(DATA_CENTERS, {"name": "b"})
    assert len(made.headers["x-request-id"]) == 36
    unusable = await asked.post(DATA_CENTERS, {"name": "c"}, X_Request_Id="a b<script>")
    assert unusable.headers["x-request-id"] != "a b<script>"


class SickLog(MemoryLog):
    """A log whose append fails as it is told."""

    error: Exception | None = None

    async def append(self, append: Append) -> Outcome:
        if self.error is not None:
            raise self.error
        return await super().append(append)


@pytest.fixture
async def sick(tmp_path: Path) -> AsyncIterator[Asked]:
    asked = Asked(tmp_path, SickLog())
    async with asked.http:
        yield asked
    await asked.api.close()


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (OverloadedError(3.2), 503, "overloaded"),
        (UnavailableError("postgres is away, password=hunter2"), 503, "unavailable"),
        (RuntimeError("password=hunter2"), 500, "internal-error"),
    ],
)
async def test_when_the_log_fails_nothing_of_its_insides_is_told(
    sick: Asked, error: Exception, status: int, kind: str
) -> None:
    assert isinstance(sick.log, SickLog)
    sick.log.error = error
    answer = await sick.post(DATA_CENTERS, {"name": "Prague"})
    problem(answer, status, kind)
    assert "hunter2" not in answer.text
    if status == 503:
        assert int(answer.headers["retry-after"]) >= 1


async def test_an_engine_that_does_not_keep_up_says_so_before_it_is_given_more(
    asked: Asked,
) -> None:
    asked.behind = EVENTS_BEHIND_MAX + 1
    answer = await asked.post(DATA_CENTERS, {"name": "Prague"})
    problem(answer, 503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    assert await asked.log.head() == 0

    asked.behind = EVENTS_BEHIND_MAX
    assert (await asked.post(DATA_CENTERS, {"name": "Prague"})).status_code == 201


async def test_commands_are_counted_by_their_outcome(asked: Asked) -> None:
    await asked.post(DATA_CENTERS, {"name": "Prague"}, Idempotency_Key="k")
    await asked.post(DATA_CENTERS, {"name": "Prague"}, Idempotency_Key="k")
    await asked.post(DATA_CENTERS, {"name": "Prague"})
    answer = await asked.send("GET", "/metrics")
    counted = {
        line
        for line in answer.text.splitlines()
        if line.startswith("chronovisor_command_seconds_c")
    }
    for outcome in ("accepted", "repeated", "name-taken"):
        line = f'{{command="data_center.create",outcome="{outcome}"}} 1.0'
        assert f"chronovisor_command_seconds_count{line}" in counted
