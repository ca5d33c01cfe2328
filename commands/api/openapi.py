"""The OpenAPI 3.1 document, from the commands' declarations and their types.

The read side has its own paths and components; `document` joins them. Every status that can be
answered is in it, with the types of its problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from commands.api import problems as p
from commands.api.answers import Begun, Done, Ended, TokenIssued
from commands.api.app import TOKEN_COMMAND
from commands.api.bodies import body_struct
from commands.api.health import Health
from commands.api.machines import EngineSshKey
from commands.api.openapi_headers import answer_headers, header_parameters
from commands.api.openapi_parts import (
    ANY_BODY,
    ANY_COMMAND,
    JSON,
    REFERENCE,
    Schema,
    answered,
    parameter,
    path_parameter,
    problem_responses,
    reference,
)
from commands.api.openapi_plain import plain_paths
from commands.catalogue import COMMANDS
from commands.gateway.balance_preview import BalancePreview
from commands.gateway.maintenance_preview import MaintenancePreview, PreviewRequest
from commands.gateway.placement import PlacementAnswer
from commands.kernel.command import Declaration
from commands.kernel.fields import END
from commands.kernel.refusal import (
    NotFound,
    PreconditionFailed,
    Refusal,
)
from events.wire.agent import Join, JoinAnswer

Document = dict[str, Any]

DESCRIPTION = """\
Every change is a command. A 2xx answer is durable: it is given only once the command's events are
in the log. `201` and `200` mean done, `202` that an operation carries it out, which can be read at
`Location`, or waited for with `Prefer: wait=N`.

Send an `Idempotency-Key` with each command: it is kept for 7 days, and the same key with the same
request answers the same, however often it is sent. Under the same key another request is refused.
`Chronovisor-Position` is the place in the log that an answer knows of; give it to a read as
`Chronovisor-Min-Position` to read your own writes.

Whatever is refused is answered with a problem (RFC 9457): `type` names it, `detail` says what is
wrong, `remedy` what can be done about it."""


def document(
    version: str,
    *,
    paths: Mapping[str, Mapping[str, Any]] | None = None,
    components: Mapping[str, Mapping[str, Any]] | None = None,
) -> Document:
    """Return the whole document, joined with another part's paths and components.

    Raises ValueError where the two describe one thing in two ways.
    """
    joined_paths: dict[str, dict[str, Any]] = command_paths()
    for path, methods in (paths or {}).items():
        _join(joined_paths.setdefault(path, {}), methods, path)
    joined_components = command_components()
    for kind, named in (components or {}).items():
        _join(joined_components.setdefault(kind, {}), named, kind)
    whole: Document = {
        "openapi": "3.1.0",
        "info": {"title": "Chronovisor", "version": version, "description": DESCRIPTION},
        "paths": dict(sorted(joined_paths.items())),
        "components": joined_components,
        "security": [{"token": []}],
    }
    plain: Document = _without_engine_words(whole)
    return plain


def command_paths() -> dict[str, dict[str, Any]]:
    """Return the paths of all commands, and of what else the API answers."""
    paths: dict[str, dict[str, Any]] = {}
    for declaration in COMMANDS.values():
        methods = paths.setdefault(declaration.path, {})
        methods[declaration.method.lower()] = _command(declaration)
    for path, methods in plain_paths().items():
        paths.setdefault(path, {}).update(methods)
    return paths


def command_components() -> dict[str, dict[str, Any]]:
    """Return the components that the paths refer to."""
    types = [
        *(body_struct(declaration) for declaration in COMMANDS.values()),
        *(p.Problem, Done, Begun, Ended, TokenIssued, Health, Join, JoinAnswer, PlacementAnswer),
        *(MaintenancePreview, PreviewRequest, BalancePreview),
        EngineSshKey,
    ]
    _, schemas = msgspec.json.schema_components(types, ref_template=REFERENCE)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
    return {
        "schemas": schemas,
        "parameters": header_parameters(),
        "headers": answer_headers(),
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The admin token, from the file that the first start made.",
            }
        },
    }


def refusals_of(declaration: Declaration) -> tuple[type[Refusal], ...]:
    """Return everything that a command may be refused with."""
    versioned = PreconditionFailed in declaration.refusals
    found = {
        *(*declaration.refusals, *ANY_BODY, *ANY_COMMAND),
        *((NotFound,) if declaration.path_fields else ()),
        *((PreconditionFailed,) if versioned else ()),
    }
    refusals = [each for each in found if issubclass(each, Refusal)]
    return tuple(sorted(refusals, key=lambda refusal: (refusal.status, refusal.slug())))


def _command(declaration: Declaration) -> Schema:
    described = {
        "operationId": declaration.name.replace(".", "_"),
        "summary": declaration.summary,
        "description": f"{declaration.description}\n\nNeeds the right {declaration.permission}.",
        "tags": [declaration.path.split("/")[2]],
        "parameters": [
            *(path_parameter(name) for name in declaration.path_fields),
            *(parameter(name) for name in _parameters_of(declaration)),
        ],
        "responses": {
            **_accepted(declaration),
            **problem_responses(refusals_of(declaration)),
        },
    }
    if declaration.body_fields:
        fields = msgspec.structs.fields(body_struct(declaration))
        described["requestBody"] = {
            "required": any(field.required for field in fields),
            "content": {JSON: {"schema": reference(declaration.cls.__name__)}},
        }
    return described


def _parameters_of(declaration: Declaration) -> Iterable[str]:
    yield "IdempotencyKey"
    if declaration.long:
        yield "Prefer"
    if PreconditionFailed in declaration.refusals:
        yield "IfMatch"
    yield "RequestId"


def _accepted(declaration: Declaration) -> Schema:
    done = TokenIssued if declaration.name == TOKEN_COMMAND else Done
    if not declaration.long:
        status, text = ("201", "Created.") if declaration.creates else ("200", "Done.")
        return {status: answered(text, [done], located=declaration.creates)}
    waited = "within the time of Prefer: wait"
    responses = {
        "202": answered(
            "Accepted; an operation carries it out.", [Begun], located=True, waited=True
        ),
    }
    if declaration.creates:
        ended = f"Created; where there is an operation, it has succeeded {waited}."
        responses["201"] = answered(ended, [Done, Ended], located=True, waited=True)
        failed = f"The operation has ended {waited}, without success."
        responses["200"] = answered(failed, [Ended], located=True, waited=True)
    else:
        ended = f"Done at once, or the operation has ended {waited}."
        responses["200"] = answered(ended, [Done, Ended], waited=True)
    return responses


def _join(ours: dict[str, Any], theirs: Mapping[str, Any], where: str) -> None:
    for name, schema in theirs.items():
        if name in ours and ours[name] != schema:
            raise ValueError(f"{where}: {name} is described in two ways")
        ours[name] = schema


def _without_engine_words(value: Any) -> Any:  # noqa: ANN401  any JSON
    """Patterns as JSON Schema has them: there `$` is the very end, and needs no help."""
    if isinstance(value, dict):
        return {key: _without_engine_words(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_engine_words(inner) for inner in value]
    if isinstance(value, str) and value.endswith(END):
        return value.removesuffix(END) + "$"
    return value
