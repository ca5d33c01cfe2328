"""What machines that become hosts get over HTTP."""

from __future__ import annotations

from tests.unit.api.conftest import Asked


async def test_the_bundle_is_given_to_anybody_who_names_its_sha256(asked: Asked) -> None:
    answer = await asked.send("GET", f"/v1/agent/{'a' * 64}", Authorization="")
    assert (answer.status_code, answer.content) == (200, b"bundle")
    other = await asked.send("GET", f"/v1/agent/{'b' * 64}")
    assert other.status_code == 404
    assert other.json()["remedy"]


async def test_the_ssh_key_is_shown_to_who_has_a_token(asked: Asked) -> None:
    answer = await asked.send("GET", "/v1/ssh_key")
    shown = answer.json()
    assert shown["public_key"].startswith("ssh-ed25519 ")
    assert shown["fingerprint"].startswith("SHA256:")
    refused = await asked.send("GET", "/v1/ssh_key", Authorization="")
    assert refused.status_code == 401
