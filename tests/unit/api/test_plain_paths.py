"""What the API answers besides commands: joining, CA, health, metrics, its own description."""

from __future__ import annotations

import base64
import hashlib
import re

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from access.certificates import fingerprint
from access.joining import parse_join_token
from chronovisor.web import document
from commands.api.health import Health
from commands.api.openapi import document as own_document
from commands.api.page import page
from tests.unit.api.conftest import Asked, Json, problem

ANYBODY = {"Authorization": ""}


def _signing_request() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kvm01")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


async def _token(asked: Asked, *, approved: bool = True) -> tuple[str, str]:
    body = {"name": "kvm01", "cluster": await asked.cluster(), "approved": approved}
    host = await asked.made("/v1/hosts", body)
    answer = await asked.post(f"/v1/hosts/{host}/enrolment_token", {"valid_s": 600})
    assert answer.status_code == 200
    await asked.catch_up()
    return host, answer.json()["token"]


async def test_a_token_is_shown_once_and_under_its_key_and_never_stored(asked: Asked) -> None:
    host = await asked.made("/v1/hosts", {"name": "kvm01", "cluster": await asked.cluster()})
    path = f"/v1/hosts/{host}/enrolment_token"
    first = await asked.post(path, Idempotency_Key="k")
    again = await asked.post(path, Idempotency_Key="k")
    assert first.json() == again.json()
    assert set(first.json()) == {"id", "token_id", "expires", "token"}
    parts = parse_join_token(first.json()["token"])
    assert parts.token_id == first.json()["token_id"]
    stored = b"".join(event.payload for event in await asked.log.read(0))
    answer = await asked.log.answer("admin:bootstrap", "k")
    assert answer is not None
    assert parts.secret.encode() not in stored + answer.answer
    other = await asked.post(path)
    assert other.json()["token"] != first.json()["token"]


async def test_a_machine_joins_with_its_token_alone(asked: Asked) -> None:
    host, token = await _token(asked)
    body = {"token": token, "signing_request": _signing_request(), "hardware": "hw-1"}
    answer = await asked.post("/v1/join", body, **ANYBODY)
    assert answer.status_code == 200, answer.text
    joined: Json = answer.json()
    assert (joined["host"], joined["name"], joined["pending"]) == (host, "kvm01", False)
    certificate = x509.load_pem_x509_certificate(joined["certificate"].encode())
    authority = x509.load_pem_x509_certificate(joined["trust"].encode())
    certificate.verify_directly_issued_by(authority)
    assert fingerprint(authority) == parse_join_token(token).ca_fingerprint
    other = {**body, "signing_request": _signing_request()}
    problem(await asked.post("/v1/join", other, **ANYBODY), 403, "token-refused")


async def test_a_machine_waits_for_its_approval(asked: Asked) -> None:
    _, token = await _token(asked, approved=False)
    body = {"token": token, "signing_request": _signing_request(), "hardware": "hw-1"}
    answer = await asked.post("/v1/join", body, **ANYBODY)
    assert (answer.status_code, answer.json()["pending"]) == (200, True)
    assert answer.json()["certificate"] is None


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({}, 422, "invalid-field"),
        (b"{", 400, "not-json"),
        ({"token": "x", "signing_request": "x", "hardware": "x"}, 403, "token-refused"),
        ({"token": "x", "signing_request": "x", "hardware": ""}, 422, "invalid-field"),
        ({"token": "x", "signing_request": "x" * 9_000, "hardware": "x"}, 422, "invalid-field"),
    ],
)
async def test_who_joins_badly_is_refused(
    asked: Asked, body: object, status: int, kind: str
) -> None:
    problem(await asked.post("/v1/join", body, **ANYBODY), status, kind)


async def test_a_signing_request_that_is_none_is_refused(asked: Asked) -> None:
    _, token = await _token(asked)
    body = {"token": token, "signing_request": "nonsense", "hardware": "hw-1"}
    refusal = problem(await asked.post("/v1/join", body, **ANYBODY), 422, "invalid-field")
    assert refusal["field"] == "signing_request"


async def test_anybody_may_have_the_ca(asked: Asked) -> None:
    answer = await asked.send("GET", "/v1/ca", **ANYBODY)
    assert answer.headers["content-type"].startswith("application/x-pem-file")
    assert len(x509.load_pem_x509_certificates(answer.content)) == 1


@pytest.mark.parametrize(("head", "status"), [(0, 200), (7, 200), (None, 503)])
async def test_anybody_may_ask_for_health(asked: Asked, head: int | None, status: int) -> None:
    asked.health = {"ok": head is not None, "parts": [], "head": head}
    answer = await asked.send("GET", "/v1/health", **ANYBODY)
    assert answer.status_code == status
    assert msgspec.json.decode(answer.content, type=Health).head == head
    assert answer.headers["cache-control"] == "no-store"


async def test_metrics_are_not_for_anybody(asked: Asked) -> None:
    problem(await asked.send("GET", "/metrics", **ANYBODY), 401, "not-authenticated")
    assert (await asked.send("GET", "/metrics")).headers["content-type"].startswith("text/plain")


async def test_anybody_may_read_how_to_ask(asked: Asked) -> None:
    answer = await asked.send("GET", "/v1/openapi.json", **ANYBODY)
    assert answer.json() == {"openapi": "3.1.0"}
    shown = await asked.send("GET", "/v1/docs", **ANYBODY)
    assert shown.text == "<p>page</p>"
    assert shown.headers["content-security-policy"] == "default-src 'none'"
    for found in (answer, shown):
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["x-frame-options"] == "DENY"


def test_the_page_shows_everything_and_runs_nothing() -> None:
    described = document()
    text, policy = page(described)
    assert "<script" not in text
    assert not re.search(r"\son[a-z]+=|https?://|javascript:", text)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    for path in described["paths"]:
        assert f"<code>{path}</code>" in text
    for name in described["components"]["schemas"]:
        assert f'id="schema-{name}"' in text


def test_what_is_described_is_shown_as_text() -> None:
    described = own_document("1")
    described["info"]["title"] = "<img src=x>"
    described["paths"]["/v1/<b>"] = {"get": {"responses": {}, "summary": "<i>"}}
    text, _ = page(described)
    assert "<img" not in text
    assert "<i>" not in text
    assert "<b>/v1" not in text


def test_parts_that_describe_one_thing_in_two_ways_are_not_joined() -> None:
    with pytest.raises(ValueError, match="described in two ways"):
        own_document("1", components={"schemas": {"Problem": {"type": "string"}}})
    with pytest.raises(ValueError, match="described in two ways"):
        own_document("1", paths={"/v1/vms": {"post": {}}})


def test_parts_are_joined_by_path_and_method() -> None:
    described = own_document("1", paths={"/v1/vms": {"get": {"summary": "List"}}})
    assert set(described["paths"]["/v1/vms"]) == {"get", "post"}
