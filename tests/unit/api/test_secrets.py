"""Secrets in bodies: into the vault before anything is decided, and out of it where refused."""

from __future__ import annotations

import logging

import msgspec
import pytest

from access.principals import BOOTSTRAP_ADMIN
from commands.api.openapi import document
from commands.api.sealing import secret_fields
from commands.catalogue import COMMANDS
from tests.unit.api.conftest import NOBODY, Asked

SECRET = "plug-and-pray"


def agent(**more: object) -> dict[str, object]:
    return {
        "agent": "bmc",
        "type": "ipmilan",
        "address": "192.0.2.9",
        "username": "admin",
        "password": SECRET,
        **more,
    }


async def host(asked: Asked) -> str:
    return await asked.made("/v1/hosts", {"name": "kvm01", "cluster": await asked.cluster()})


async def stored(asked: Asked) -> bytes:
    """Return everything that is in the log."""
    return b"".join(one.payload for one in await asked.log.read(0, 10_000))


async def test_the_event_holds_a_reference_and_the_vault_the_secret(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    place = f"/v1/hosts/{await host(asked)}/fence_agents"
    answer = await asked.post(place, agent(), idempotency_key="one")
    assert answer.status_code == 200, answer.text
    ((reference, (_made, secret)),) = asked.vault.secrets.items()
    assert secret == SECRET
    payloads = await stored(asked)
    assert reference.encode() in payloads
    assert SECRET.encode() not in payloads
    assert SECRET not in answer.text + caplog.text
    known = await asked.log.answer(BOOTSTRAP_ADMIN.actor, "one")
    assert known is not None
    assert SECRET.encode() not in known.answer + known.body_mac


async def test_the_same_key_answers_the_same_and_leaves_one_secret(asked: Asked) -> None:
    place = f"/v1/hosts/{await host(asked)}/fence_agents"
    first = await asked.post(place, agent(), idempotency_key="one")
    again = await asked.post(place, agent(), idempotency_key="one")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert len(asked.vault.secrets) == 1
    other = await asked.post(place, agent(password="another"), idempotency_key="one")
    assert other.status_code == 422
    assert len(asked.vault.secrets) == 1


async def test_what_is_refused_leaves_nothing_in_the_vault(asked: Asked) -> None:
    place = f"/v1/hosts/{await host(asked)}/fence_agents"
    assert (await asked.post(f"/v1/hosts/{NOBODY}/fence_agents", agent())).status_code == 404
    assert (await asked.post(place, agent(options="password=x"))).status_code == 422
    assert (await asked.post(place, agent(type="../sh"))).status_code == 422
    bad = await asked.post(place, agent(password="two\nlines"))
    assert bad.status_code == 422
    assert "two" not in bad.text
    assert (await asked.post(place, agent())).status_code == 200
    assert (await asked.post(place, agent())).status_code == 409
    assert len(asked.vault.secrets) == 1


async def test_a_reference_that_somebody_types_is_but_a_secret(asked: Asked) -> None:
    """given another secret's reference as a password, then it gives nobody that secret"""
    place = f"/v1/hosts/{await host(asked)}/fence_agents"
    await asked.post(place, agent())
    (reference,) = asked.vault.secrets
    await asked.post(place, agent(agent="thief", password=reference))
    (stolen,) = [name for name, (_at, secret) in asked.vault.secrets.items() if secret == reference]
    assert stolen != reference


async def test_a_command_without_the_secret_puts_nothing_there(asked: Asked) -> None:
    place = f"/v1/hosts/{await host(asked)}/fence_agents"
    body = agent()
    del body["password"]
    assert (await asked.post(place, body)).status_code == 200
    assert asked.vault.secrets == {}


def test_secret_fields_are_known_by_their_type_and_marked_in_the_document() -> None:
    found = {name: secret_fields(each) for name, each in COMMANDS.items() if secret_fields(each)}
    assert found["host.add_fence_agent"] == ("password",)
    assert found["host.update_fence_agent"] == ("password",)
    schemas = msgspec.to_builtins(document("1"))["components"]["schemas"]
    for name, fields in found.items():
        schema = schemas[COMMANDS[name].cls.__name__]
        for field in fields:
            assert (
                '"writeOnly": true'
                in msgspec.json.format(msgspec.json.encode(schema["properties"][field])).decode()
            )
