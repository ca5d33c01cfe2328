"""Commands over HTTP: answers, headers, and each way to be refused."""

from __future__ import annotations

import pytest

from tests.unit.api.conftest import HOST_TOKEN, NOBODY, TOKEN, Asked, problem

DATA_CENTERS = "/v1/data_centers"


async def test_a_create_is_answered_with_where_to_find_what_was_made(asked: Asked) -> None:
    answer = await asked.post(DATA_CENTERS, {"name": "Prague"})
    assert answer.status_code == 201
    made = answer.json()["id"]
    assert answer.json() == {"id": made}
    assert answer.headers["location"] == f"/v1/data_centers/{made}"
    assert answer.headers["chronovisor-position"] == "1"
    assert answer.headers["content-type"] == "application/json"
    (event,) = await asked.history()
    assert (event.stream, event.actor) == (f"data_center/{made}", "admin:bootstrap")


async def test_an_update_and_a_removal_are_answered_with_the_id(asked: Asked) -> None:
    made = await asked.made(DATA_CENTERS, {"name": "Prague"})
    for method, body in (("PATCH", {"name": "Brno"}), ("DELETE", None)):
        answer = await asked.send(method, f"{DATA_CENTERS}/{made}", body)
        assert (answer.status_code, answer.json()) == (200, {"id": made})
        assert "location" not in answer.headers
    assert answer.headers["chronovisor-position"] == "3"


async def test_a_data_center_is_not_raised_above_its_clusters(asked: Asked) -> None:
    made = [await asked.made(DATA_CENTERS, {"name": name}) for name in ("Prague", "Brno")]
    cluster = await asked.made("/v1/clusters", {"name": "West", "data_center": made[0]})
    raised = {"compatibility_version": "1.1"}
    await asked.catch_up()
    refused = await asked.send("PATCH", f"{DATA_CENTERS}/{made[0]}", raised)
    assert problem(refused, 409, "wrong-state")["detail"].endswith("version below 1.1: West.")
    assert (await asked.send("PATCH", f"{DATA_CENTERS}/{made[1]}", raised)).status_code == 200
    assert (await asked.send("DELETE", f"/v1/clusters/{cluster}")).status_code == 200
    await asked.catch_up()
    assert (await asked.send("PATCH", f"{DATA_CENTERS}/{made[0]}", raised)).status_code == 200


async def test_long_work_is_accepted_with_its_operation(asked: Asked) -> None:
    vm = await asked.vm()
    answer = await asked.post(f"/v1/vms/{vm}/start")
    operation = answer.json()["operation"]["id"]
    href = f"/v1/operations/{operation}"
    assert answer.status_code == 202
    assert answer.json() == {"id": vm, "operation": {"id": operation, "href": href}}
    assert answer.headers["location"] == href
    assert (await asked.history())[-1].stream == f"operation/{operation}"


async def test_a_create_that_takes_long_is_202_and_without_disks_201(asked: Asked) -> None:
    cluster = await asked.cluster()
    disks = [{"size_bytes": 1 << 20}]
    long = await asked.post("/v1/vms", {"name": "a", "cluster": cluster, "disks": disks})
    short = await asked.post("/v1/vms", {"name": "b", "cluster": cluster})
    assert (long.status_code, short.status_code) == (202, 201)
    assert long.headers["location"].startswith("/v1/operations/")
    assert short.headers["location"].startswith("/v1/vms/")


@pytest.mark.parametrize("body", [None, {}, {"discard_saved_memory": False}])
async def test_a_body_may_be_left_out_where_nothing_in_it_is_needed(
    asked: Asked, body: object
) -> None:
    vm = await asked.vm()
    assert (await asked.post(f"/v1/vms/{vm}/start", body)).status_code == 202


# ------------------------------------------------------------------------------------ who is asking


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer short", f"Basic {TOKEN}", "Bearer " + "x" * 43]
)
async def test_a_request_without_a_known_token_is_refused(asked: Asked, given: str) -> None:
    answer = await asked.post(DATA_CENTERS, {"name": "Prague"}, Authorization=given)
    problem(answer, 401, "not-authenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert await asked.log.head() == 0


async def test_who_has_no_right_is_refused_and_told_which(asked: Asked) -> None:
    answer = await asked.post(
        DATA_CENTERS, {"name": "Prague"}, Authorization=f"Bearer {HOST_TOKEN}"
    )
    refusal = problem(answer, 403, "not-allowed")
    assert refusal["right"] == "CREATE_STORAGE_POOL"
    assert await asked.log.head() == 0


# ----------------------------------------------------------------------------------------- the body


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "name", "missing"),
        ({"name": 7}, "name", "int"),
        ({"name": "a b"}, "name", "no spaces"),
        ({"name": "web01\n"}, "name", "no spaces"),
        ({"name": "x" * 256}, "name", "255"),
        ({"name": "a", "nmae": 1}, "nmae", "storage_type"),
        ({"name": "a", "storage_type": "tape"}, "storage_type", "shared"),
        ({"name": "a", "description": "\x00"}, "description", "control characters"),
    ],
)
async def test_a_wrong_field_is_named_with_what_is_allowed(
    asked: Asked, body: object, field: str, words: str
) -> None:
    refusal = problem(await asked.post(DATA_CENTERS, body), 422, "invalid-field")
    assert refusal["field"] == field
    assert words in refusal["detail"] + refusal["remedy"]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"disks": [{"size_bytes": 1}]}, "disks[0].size_bytes"),
        ({"disks": [{"size": 1}]}, "disks[0].size"),
        ({"disks": [{}]}, "disks[0].size_bytes"),
        ({"cpu": {"cores": 0}}, "cpu.cores"),
        ({"cpu": {"scores": 1}}, "cpu.scores"),
        ({"boot": {"devices": ["floppy"]}}, "boot.devices[0]"),
        ({"nics": [{"bridge": "br0", "mac": "FF:FF:FF:FF:FF:FF"}]}, "nics[0].mac"),
        ({"memory_bytes": 1}, "memory_bytes"),
        ({"cpu": {"sockets": 16, "cores": 16, "threads": 16}}, "cpu"),
        ({"host": NOBODY}, "host"),
    ],
)
async def test_a_field_inside_of_another_is_named_by_its_place(
    asked: Asked, more: dict[str, object], field: str
) -> None:
    body = {"name": "web01", "cluster": await asked.cluster(), **more}
    refusal = problem(await asked.post("/v1/vms", body), 422, "invalid-field")
    assert refusal["field"] == field


@pytest.mark.parametrize(
    "body",
    [b"{", b"nope", b'{"name":"\xff"}', b'{"name":"\\ud800"}', b'{"name":"a"} x', b"\x00"],
)
async def test_what_is_not_json_is_refused_as_that(asked: Asked, body: bytes) -> None:
    problem(await asked.post(DATA_CENTERS, body), 400, "not-json")


@pytest.mark.parametrize("body", [b"[]", b"7", b'"name"', b"null", b"[" * 100_000])
async def test_what_is_no_object_is_refused_as_that(asked: Asked, body: bytes) -> None:
    problem(await asked.post(DATA_CENTERS, body), 422, "invalid-field")


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "application/merge-patch+json"]
)
async def test_kinds_of_json_are_understood(asked: Asked, kind: str) -> None:
    answer = await asked.post(DATA_CENTERS, {"name": "Prague"}, Content_Type=kind)
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": ""},
        {"Content_Encoding": "gzip"},
    ],
)
async def test_other_kinds_of_bodies_are_not_understood(
    asked: Asked, headers: dict[str, str]
) -> None:
    answer = await asked.post(DATA_CENTERS, {"name": "Prague"}, **headers)
    problem(answer, 415, "unsupported-media-type")


async def test_a_body_of_more_than_256_kib_is_refused(asked: Asked) -> None:
    answer = await asked.post(DATA_CENTERS, {"name": "x" * 256 * 1024})
    assert answer.status_code == 413
    assert answer.json()["type"] == "body-too-large"
    assert answer.headers["x-request-id"]
    fits = await asked.post(DATA_CENTERS, b'{"name":"a"' + b" " * (256 * 1024 - 12) + b"}")
    assert fits.status_code == 201


# ----------------------------------------------------------------------------- paths and parameters


@pytest.mark.parametrize("given", ["web01", NOBODY.upper().replace("0", "A"), "%0A", "..%2F.."])
async def test_a_path_with_no_id_in_it_leads_to_nothing(asked: Asked, given: str) -> None:
    answer = await asked.post(f"/v1/vms/{given}/start")
    assert answer.status_code == 404
    assert answer.json()["type"] in {"not-found", "no-such-path"}


async def test_an_object_that_is_not_there_is_not_found(asked: Asked) -> None:
    refusal = problem(await asked.post(f"/v1/vms/{NOBODY}/start"), 404, "not-found")
    assert NOBODY in refusal["detail"]


async def test_a_path_that_is_not_there_and_a_method_that_is_not_known(asked: Asked) -> None:
    problem(await asked.post("/v1/nothing"), 404, "no-such-path")
    problem(await asked.post("/v1/vms/"), 404, "no-such-path")
    answer = await asked.send("PUT", f"/v1/vms/{NOBODY}")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "DELETE, PATCH"


async def test_a_parameter_is_not_silently_ignored(asked: Asked) -> None:
    answer = await asked.post(f"{DATA_CENTERS}?wait=1", {"name": "Prague"})
    problem(answer, 400, "unknown-parameter")
