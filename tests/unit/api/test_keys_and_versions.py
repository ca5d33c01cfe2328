"""States, versions and repeated keys over HTTP."""

from __future__ import annotations

import pytest

from tests.unit.api.conftest import Asked, problem

DATA_CENTERS = "/v1/data_centers"


async def test_a_wrong_state_is_refused_with_what_to_do(asked: Asked) -> None:
    vm = await asked.vm()
    refusal = problem(await asked.post(f"/v1/vms/{vm}/stop"), 409, "wrong-state")
    assert refusal["vm_status"] == "down"
    assert refusal["remedy"] == "Start it first."


async def test_a_name_that_is_taken_tells_by_whom(asked: Asked) -> None:
    made = await asked.made(DATA_CENTERS, {"name": "Prague"})
    refusal = problem(await asked.post(DATA_CENTERS, {"name": "prague"}), 409, "name-taken")
    assert refusal["holder"] == f"data_center/{made}"


async def test_an_object_in_use_tells_by_whom(asked: Asked) -> None:
    cluster = await asked.cluster()
    vm = await asked.made("/v1/vms", {"name": "web01", "cluster": cluster})
    refusal = problem(await asked.send("DELETE", f"/v1/clusters/{cluster}"), 409, "in-use")
    assert refusal["holder"] == f"vm/{vm}"


@pytest.mark.parametrize("given", ['"1"', 'W/"1"', "1", "*"])
async def test_a_change_of_the_version_seen_is_accepted(asked: Asked, given: str) -> None:
    vm = await asked.vm()
    answer = await asked.send("PATCH", f"/v1/vms/{vm}", {"description": "x"}, If_Match=given)
    assert answer.status_code == 200


async def test_a_change_of_another_version_is_refused(asked: Asked) -> None:
    vm = await asked.vm()
    answer = await asked.send("PATCH", f"/v1/vms/{vm}", {"description": "x"}, If_Match='"7"')
    refusal = problem(answer, 412, "precondition-failed")
    assert "version 1, not 7" in refusal["detail"]


@pytest.mark.parametrize("given", ["", "seven", '"seven"', '"1', '"1", "2"', "-1"])
async def test_a_version_that_is_none_is_refused(asked: Asked, given: str) -> None:
    vm = await asked.vm()
    answer = await asked.send("PATCH", f"/v1/vms/{vm}", {"description": "x"}, If_Match=given)
    assert problem(answer, 400, "invalid-header")["header"] == "If-Match"


async def test_a_version_is_not_ignored_where_it_cannot_be_heeded(asked: Asked) -> None:
    vm = await asked.vm()
    answer = await asked.post(f"/v1/vms/{vm}/start", If_Match='"1"')
    problem(answer, 400, "invalid-header")


async def test_a_repeated_key_answers_the_same_and_does_nothing_again(asked: Asked) -> None:
    vm = await asked.vm()
    first = await asked.post(f"/v1/vms/{vm}/start", Idempotency_Key="k-1")
    head = await asked.log.head()
    again = await asked.post(f"/v1/vms/{vm}/start", {}, Idempotency_Key="k-1")
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    for header in ("location", "chronovisor-position"):
        assert again.headers[header] == first.headers[header]
    assert await asked.log.head() == head


async def test_a_repeated_create_answers_201_again(asked: Asked) -> None:
    answers = [
        await asked.post(DATA_CENTERS, body, Idempotency_Key="k")
        for body in ({"name": "Prague"}, b'{ "description": "", "name" : "Prague" }')
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


async def test_a_key_is_refused_for_another_body_or_another_path(asked: Asked) -> None:
    await asked.post(DATA_CENTERS, {"name": "Prague"}, Idempotency_Key="k")
    other = await asked.post(DATA_CENTERS, {"name": "Brno"}, Idempotency_Key="k")
    problem(other, 422, "key-reused-with-other-body")
    vm = await asked.vm()
    elsewhere = await asked.post(f"/v1/vms/{vm}/start", Idempotency_Key="k")
    problem(elsewhere, 422, "key-reused-with-other-body")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_key_that_cannot_be_one_is_refused(asked: Asked, key: str) -> None:
    answer = await asked.post(DATA_CENTERS, {"name": "Prague"}, Idempotency_Key=key)
    assert problem(answer, 400, "invalid-header")["header"] == "Idempotency-Key"


async def test_keys_at_the_bounds_are_taken(asked: Asked) -> None:
    for number, key in enumerate(("k", "x" * 255, "a b")):
        body = {"name": f"dc{number}"}
        assert (await asked.post(DATA_CENTERS, body, Idempotency_Key=key)).status_code == 201
