"""Whatever is sent: an answer that the OpenAPI document knows, and never a server error."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from chronovisor.web import document
from commands.catalogue import COMMANDS
from commands.kernel.command import Declaration
from tests.unit.api.conftest import NOBODY, Asked

DOCUMENT = document()
PATHS = DOCUMENT["paths"]
SCHEMAS = DOCUMENT["components"]["schemas"]

_names = st.sampled_from(
    ["a", "web01", "web01\n", "", " ", "é", "x" * 256, "\x00", "..", "DEFAULT"]
)
_scalars = st.one_of(
    _names,
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([NOBODY, "cluster", "vm", 1 << 20, 1 << 28, 300, "virtio", "disk"]),
)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3)
)


_good_names = st.integers(0, 99).map(lambda number: f"n{number}")


def _likely(schema: dict[str, Any]) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one for each kind
    """Values that are nearly what a schema asks for: they come furthest."""
    if "$ref" in schema:
        return _likely(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return st.one_of(*(_likely(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from([*schema["enum"], "tape"])
    kind = schema.get("type")
    if kind == "object":
        fields = {name: _likely(each) for name, each in schema["properties"].items()}
        needed = {name: fields.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(needed, optional=fields)
    if kind == "array":
        return st.lists(_likely(schema["items"]), max_size=3)
    if kind == "string":
        # A placeholder for an id that cannot be known before, or some name.
        good = st.just("cluster") if schema.get("minLength") == 36 else _good_names
        return st.one_of(good, good, good, good, _values)
    if kind in {"integer", "number"}:
        low, high = schema.get("minimum", 0), schema.get("maximum", 10)
        return st.sampled_from([low, low, low, high, low - 1, high + 1])
    if kind == "boolean":
        return st.booleans()
    return _values


def _bodies(declaration: Declaration) -> st.SearchStrategy[bytes]:
    near = _values
    if declaration.body_fields:
        near = _likely(SCHEMAS[declaration.cls.__name__]) | _values
    encoded = near.map(lambda body: json.dumps(body).encode())
    return st.one_of(encoded, encoded, encoded, st.just(b""), st.binary(max_size=40))


@st.composite
def _requests(draw: st.DrawFn) -> tuple[Declaration, bytes, dict[str, str], str]:
    declaration = draw(st.sampled_from(list(COMMANDS.values())))
    printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
    headers: dict[str, str] = {}
    for name in ("Idempotency-Key", "If-Match", "Content-Type", "X-Request-Id"):
        if draw(st.sampled_from([*[False] * 15, True])):
            headers[name] = draw(printable)
    given_id = draw(st.sampled_from(["own", "own", "own", NOBODY, "x", "%00", "a%0Ab"]))
    return declaration, draw(_bodies(declaration)), headers, given_id


def _check(declaration: Declaration, answer: Any) -> None:
    status = str(answer.status_code)
    if answer.status_code == 404 and answer.json()["type"] == "no-such-path":
        return
    described = PATHS[declaration.path][declaration.method.lower()]["responses"]
    assert status in described, answer.text
    kind = answer.headers["content-type"]
    assert kind in described[status]["content"], (kind, answer.text)
    schema = described[status]["content"][kind]["schema"]
    jsonschema.Draft202012Validator({**schema, "components": {"schemas": SCHEMAS}}).validate(
        answer.json()
    )
    for header in ("X-Request-Id", "Chronovisor-Position", "Location"):
        if header in described[status].get("headers", {}):
            assert answer.headers[header]


async def _play(requests: list[tuple[Declaration, bytes, dict[str, str], str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asked = Asked(Path(folder))
        async with asked.http:
            cluster = await asked.cluster()
            vm = await asked.made("/v1/vms", {"name": "web01", "cluster": cluster})
            host = await asked.made("/v1/hosts", {"name": "kvm01", "cluster": cluster})
            place = await asked.made("/v1/data_centers", {"name": "Brno"})
            own = {"vms": vm, "hosts": host, "clusters": cluster, "data_centers": place}
            for declaration, body, headers, given_id in requests:
                object_id = own.get(declaration.path.split("/")[2], NOBODY)
                chosen = object_id if given_id == "own" else given_id
                spelt = body.replace(b': "cluster"', f': "{cluster}"'.encode())
                answer = await asked.http.request(
                    declaration.method,
                    declaration.path.replace("{id}", chosen),
                    content=spelt,
                    headers=headers,
                )
                assert answer.status_code < 500, answer.text
                _check(declaration, answer)
        await asked.api.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(_requests(), min_size=10, max_size=20))
def test_no_request_meets_a_mistake_of_ours(
    requests: list[tuple[Declaration, bytes, dict[str, str], str]],
) -> None:
    asyncio.run(_play(requests))
