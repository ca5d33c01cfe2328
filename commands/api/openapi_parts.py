"""What the OpenAPI document is put together of: references, answers, problems."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from commands.api import problems as p
from commands.api.openapi_headers import HEADER_NAMES
from commands.gateway.limits import BodyTooLarge, BodyTooSlow, TooManyConnections
from commands.kernel.fields import Id
from commands.kernel.refusal import (
    InUse,
    InvalidField,
    KeyReusedWithOtherBody,
    Refusal,
    TooMuchContention,
)

Schema = dict[str, Any]
REFERENCE = "#/components/schemas/{name}"
JSON = "application/json"
ANY_REQUEST: tuple[type[Exception], ...] = (TooManyConnections,)
ANY_BODY: tuple[type[Exception], ...] = (
    *(p.UnknownParameter, p.NotJson, p.BodyCutOff, BodyTooSlow, BodyTooLarge),
    *(p.UnsupportedMediaType, InvalidField, p.Overloaded, p.Unavailable, TooManyConnections),
)
ANY_COMMAND: tuple[type[Exception], ...] = (
    *(p.InvalidHeader, p.NotAuthenticated, p.NotAllowed),
    *(InUse, TooMuchContention, KeyReusedWithOtherBody),
)
"""What every command may be refused with, beside what its declaration lists."""


def answered(
    text: str,
    types: Sequence[type[msgspec.Struct]],
    *,
    located: bool = False,
    waited: bool = False,
) -> Schema:
    """Return one successful response: what it says, and what its body may be."""
    names = ["Position", "RequestId"]
    names += ["Location"] if located else []
    names += ["PreferenceApplied"] if waited else []
    references = [reference(each.__name__) for each in types]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {
        "description": text,
        "headers": {HEADER_NAMES[name]: header(name) for name in names},
        "content": {JSON: {"schema": schema}},
    }


def problem_responses(refusals: Iterable[type[Refusal]]) -> Schema:
    """Return a response for each status among the refusals, naming their types."""
    by_status: dict[int, list[type[Refusal]]] = {}
    for refusal in refusals:
        by_status.setdefault(refusal.status, []).append(refusal)
    return {str(status): _problem(kinds) for status, kinds in sorted(by_status.items())}


def _problem(kinds: Sequence[type[Refusal]]) -> Schema:
    headers = {p.REQUEST_ID_HEADER: header("RequestId")}
    if kinds[0].status == p.Unavailable.status:
        headers["Retry-After"] = header("RetryAfter")
    if kinds[0].status == p.NotAuthenticated.status:
        headers["WWW-Authenticate"] = header("Authenticate")
    types = sorted(kind.slug() for kind in kinds)
    return {
        "description": " ".join(f"`{kind.slug()}`: {kind.title()}." for kind in kinds),
        "headers": headers,
        "content": {
            p.MEDIA_TYPE: {
                "schema": {
                    **reference(p.Problem.__name__),
                    "properties": {"type": {"enum": types}},
                }
            }
        },
    }


def refusals(kinds: Iterable[type[Exception]]) -> list[type[Refusal]]:
    """Return those of several exceptions that are refusals."""
    return [kind for kind in kinds if issubclass(kind, Refusal)]


def path_parameter(name: str) -> Schema:
    """Return a parameter that is an object's id in the path."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": msgspec.json.schema(Id),
        "description": "The object's id.",
    }


def reference(name: str) -> Schema:
    """Return a reference to a component's schema."""
    return {"$ref": REFERENCE.format(name=name)}


def parameter(name: str) -> Schema:
    """Return a reference to a parameter that many share."""
    return {"$ref": f"#/components/parameters/{name}"}


def header(name: str) -> Schema:
    """Return a reference to a header that many answers have."""
    return {"$ref": f"#/components/headers/{name}"}
