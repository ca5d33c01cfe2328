"""`Prefer: wait`: the answer comes once the operation has ended."""

from __future__ import annotations

import asyncio

import pytest

from events.types.operation import OperationEnded
from events.types.operation import Outcome as Ended
from tests.unit.api.conftest import Asked

DATA_CENTERS = "/v1/data_centers"


async def _end(asked: Asked, operation: str, outcome: Ended, reason: str = "") -> int:
    ended = OperationEnded(
        kind="vm.start", target="vm/1", name="web01", outcome=outcome, reason=reason
    )
    return await asked.append(f"operation/{operation}", ended)


async def _operation(asked: Asked) -> str:
    while True:
        last = (await asked.history())[-1]
        if last.stream.startswith("operation/"):
            return last.object_id
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("outcome", list(Ended))
async def test_who_prefers_to_wait_gets_the_outcome(asked: Asked, outcome: Ended) -> None:
    vm = await asked.vm()
    asking = asyncio.create_task(asked.post(f"/v1/vms/{vm}/start", Prefer="wait=5"))
    operation = await _operation(asked)
    position = await _end(asked, operation, outcome, "because")
    answer = await asking
    assert answer.status_code == 200
    assert answer.json()["operation"] == {
        "id": operation,
        "href": f"/v1/operations/{operation}",
        "outcome": outcome.value,
        "reason": "because",
    }
    assert answer.headers["preference-applied"] == "wait=5"
    assert answer.headers["chronovisor-position"] == str(position)


@pytest.mark.parametrize(("outcome", "status"), [(Ended.SUCCEEDED, 201), (Ended.FAILED, 200)])
async def test_a_create_that_was_waited_for(asked: Asked, outcome: Ended, status: int) -> None:
    body = {"name": "a", "cluster": await asked.cluster(), "disks": [{"size_bytes": 1 << 20}]}
    asking = asyncio.create_task(asked.post("/v1/vms", body, Prefer="wait=5"))
    await _end(asked, await _operation(asked), outcome)
    answer = await asking
    assert answer.status_code == status
    assert answer.headers["location"] == f"/v1/vms/{answer.json()['id']}"


async def test_a_wait_that_is_over_leaves_the_operation_to_be_asked_for(asked: Asked) -> None:
    vm = await asked.vm()
    answer = await asked.post(f"/v1/vms/{vm}/start", Prefer="respond-async, wait=1")
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"
    assert "outcome" not in answer.json()["operation"]


async def test_a_repeated_key_waits_on_and_finds_an_end_that_has_been(asked: Asked) -> None:
    vm = await asked.vm()
    first = await asked.post(f"/v1/vms/{vm}/start", Idempotency_Key="k")
    await _end(asked, first.json()["operation"]["id"], Ended.SUCCEEDED)
    again = await asked.post(f"/v1/vms/{vm}/start", Idempotency_Key="k", Prefer="wait=5")
    assert again.status_code == 200
    assert again.json()["operation"]["outcome"] == "succeeded"


@pytest.mark.parametrize("prefer", ["wait=0", "wait=x", "return=minimal", "", "wait"])
async def test_other_preferences_are_not_applied(asked: Asked, prefer: str) -> None:
    vm = await asked.vm()
    answer = await asked.post(f"/v1/vms/{vm}/start", Prefer=prefer)
    assert answer.status_code == 202


async def test_a_wait_is_of_no_use_where_nothing_takes_long(asked: Asked) -> None:
    answer = await asked.post(DATA_CENTERS, {"name": "Prague"}, Prefer="wait=60")
    assert answer.status_code == 201
    assert "preference-applied" not in answer.headers


async def test_many_wait_at_once_and_each_gets_its_own(asked: Asked) -> None:
    cluster = await asked.cluster()
    vms = [await asked.made("/v1/vms", {"name": f"v{n}", "cluster": cluster}) for n in range(20)]
    waits = [asyncio.create_task(asked.post(f"/v1/vms/{vm}/start", Prefer="wait=10")) for vm in vms]
    while len(asked.api.endings._waiting) < len(vms):
        await asyncio.sleep(0.01)
    started = [r for r in await asked.history() if r.name == "operation.started"]
    for number, recorded in enumerate(started):
        await _end(asked, recorded.object_id, Ended.SUCCEEDED, f"{number}")
    answers = [await wait for wait in waits]
    told = {a.json()["operation"]["id"]: a.json()["operation"]["reason"] for a in answers}
    assert told == {recorded.object_id: f"{number}" for number, recorded in enumerate(started)}
    await asyncio.sleep(0)
    assert not asked.api.endings._waiting
