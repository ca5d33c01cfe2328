"""The OpenAPI 3.1 document, from the commands' declarations and their types.

The read side has its own paths and components; `document` joins them. Every status that can be
answered is in it, with the types of its problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from commands.api import balance_preview, machines, maintenance_preview, placement
from commands.api import problems as p
from commands.api.answers import Begun, Done, Ended, TokenIssued
from commands.api.app import TOKEN_COMMAND
from commands.api.bodies import body_struct
from commands.api.health import Health
from commands.api.machines import EngineSshKey
from commands.api.openapi_headers import HEADER_NAMES, answer_headers, header_parameters
from commands.catalogue import COMMANDS
from commands.gateway.balance_preview import BalancePreview
from commands.gateway.enrolment import TokenRefused
from commands.gateway.limits import BodyTooLarge, BodyTooSlow, TooManyConnections
from commands.gateway.maintenance_preview import MaintenancePreview, PreviewRequest
from commands.gateway.placement import PlacementAnswer
from commands.kernel.command import Declaration
from commands.kernel.fields import END, Id
from commands.kernel.refusal import (
    InUse,
    InvalidField,
    KeyReusedWithOtherBody,
    NotFound,
    PreconditionFailed,
    Refusal,
    TooMuchContention,
)
from events.wire.agent import Join, JoinAnswer

Schema = dict[str, Any]
Document = dict[str, Any]
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
    for path, methods in _plain_paths().items():
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
            *(_path_parameter(name) for name in declaration.path_fields),
            *(_parameter(name) for name in _parameters_of(declaration)),
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
            "content": {JSON: {"schema": _reference(declaration.cls.__name__)}},
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
        return {status: _answer(text, [done], located=declaration.creates)}
    waited = "within the time of Prefer: wait"
    responses = {
        "202": _answer(
            "Accepted; an operation carries it out.", [Begun], located=True, waited=True
        ),
    }
    if declaration.creates:
        ended = f"Created; where there is an operation, it has succeeded {waited}."
        responses["201"] = _answer(ended, [Done, Ended], located=True, waited=True)
        failed = f"The operation has ended {waited}, without success."
        responses["200"] = _answer(failed, [Ended], located=True, waited=True)
    else:
        ended = f"Done at once, or the operation has ended {waited}."
        responses["200"] = _answer(ended, [Done, Ended], waited=True)
    return responses


def _answer(
    text: str,
    types: Sequence[type[msgspec.Struct]],
    *,
    located: bool = False,
    waited: bool = False,
) -> Schema:
    names = ["Position", "RequestId"]
    names += ["Location"] if located else []
    names += ["PreferenceApplied"] if waited else []
    references = [_reference(each.__name__) for each in types]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {
        "description": text,
        "headers": {HEADER_NAMES[name]: _header(name) for name in names},
        "content": {JSON: {"schema": schema}},
    }


def problem_responses(refusals: Iterable[type[Refusal]]) -> Schema:
    """Return a response for each status among the refusals, naming their types."""
    by_status: dict[int, list[type[Refusal]]] = {}
    for refusal in refusals:
        by_status.setdefault(refusal.status, []).append(refusal)
    return {str(status): _problem(kinds) for status, kinds in sorted(by_status.items())}


def _problem(kinds: Sequence[type[Refusal]]) -> Schema:
    headers = {p.REQUEST_ID_HEADER: _header("RequestId")}
    if kinds[0].status == p.Unavailable.status:
        headers["Retry-After"] = _header("RetryAfter")
    if kinds[0].status == p.NotAuthenticated.status:
        headers["WWW-Authenticate"] = _header("Authenticate")
    types = sorted(kind.slug() for kind in kinds)
    return {
        "description": " ".join(f"`{kind.slug()}`: {kind.title()}." for kind in kinds),
        "headers": headers,
        "content": {
            p.MEDIA_TYPE: {
                "schema": {
                    **_reference(p.Problem.__name__),
                    "properties": {"type": {"enum": types}},
                }
            }
        },
    }


def _plain_paths() -> dict[str, dict[str, Any]]:
    def plain(text: str, content: str, schema: Schema) -> Schema:
        headers = {p.REQUEST_ID_HEADER: _header("RequestId")}
        return {
            "200": {
                "description": text,
                "headers": headers,
                "content": {content: {"schema": schema}},
            }
        }

    def get(name: str, summary: str, responses: Schema, *, public: bool = True) -> Schema:
        described: Schema = {"operationId": name, "summary": summary, "tags": ["engine"]}
        if public:
            described["security"] = []
        return {"get": {**described, "responses": responses}}

    text: Schema = {"type": "string"}
    binary: Schema = {"type": "string", "format": "binary"}
    health = plain("How every part is.", JSON, _reference(Health.__name__))
    away = {"503": {**health["200"], "description": "The log cannot be reached; `ok` is false."}}
    unavailable = problem_responses((p.Unavailable, *_refusals(ANY_REQUEST)))
    join = {
        **plain("The certificate, or `pending`.", JSON, _reference(JoinAnswer.__name__)),
        **problem_responses(_refusals((*ANY_BODY, TokenRefused, InUse, TooMuchContention))),
    }
    return {
        "/v1/health": get("get_health", "Tell how every part is", {**health, **away}),
        "/v1/ca": get(
            "get_ca",
            "Get the CA certificates that this engine's certificates are issued by",
            {**plain("Certificates.", "application/x-pem-file", text), **unavailable},
        ),
        "/v1/join": {
            "post": {
                "operationId": "join",
                "summary": "Join as a host, with an enrolment token and a signing request",
                "description": "`chronovisor agent join` does it. No other token is needed.",
                "tags": ["engine"],
                "security": [],
                "parameters": [_parameter("RequestId")],
                "requestBody": {
                    "required": True,
                    "content": {JSON: {"schema": _reference(Join.__name__)}},
                },
                "responses": join,
            }
        },
        placement.PATH: _dry_run(
            "vm_placement",
            "Tell where a VM would be placed now, and why not on each other host",
            placement.RIGHT,
            PlacementAnswer,
        ),
        machines.SSH_KEY_PATH: get(
            "get_ssh_key",
            "Get the public SSH key that the engine shows to hosts",
            {
                **plain("The key.", JSON, _reference(EngineSshKey.__name__)),
                **problem_responses((p.NotAuthenticated,)),
            },
            public=False,
        ),
        machines.DIGEST_PATH: _bundle_path(plain("The bundle.", "application/gzip", binary)),
        maintenance_preview.PATH: _dry_run(
            "host_maintenance_preview",
            "Tell what would become of each VM if a host went into maintenance now",
            maintenance_preview.RIGHT,
            MaintenancePreview,
            PreviewRequest,
        ),
        balance_preview.PATH: _dry_run(
            "cluster_balance_preview",
            "Tell which VMs would be moved if a cluster were balanced now, and why",
            balance_preview.RIGHT,
            BalancePreview,
        ),
        "/v1/openapi.json": get(
            "get_openapi", "Get this document", plain("OpenAPI 3.1.", JSON, {"type": "object"})
        ),
        "/v1/docs": get("get_docs", "Show this document", plain("A page.", "text/html", text)),
        "/metrics": get(
            "get_metrics",
            "Get the engine's metrics, for Prometheus",
            {
                **plain("Prometheus' text format.", "text/plain", text),
                **problem_responses((p.NotAuthenticated,)),
            },
            public=False,
        ),
    }


def _bundle_path(answers: Schema) -> Schema:
    digest = {
        "name": "sha256",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "description": "The bundle's SHA-256, in hexadecimal digits.",
    }
    return {
        "get": {
            "operationId": "get_agent",
            "summary": "Get the agent's bundle, as machines do that are installed over SSH",
            "description": "There is no secret in it, and no token is needed.",
            "tags": ["engine"],
            "security": [],
            "parameters": [digest, _parameter("RequestId")],
            "responses": {**answers, **problem_responses((NotFound, p.Unavailable))},
        }
    }


def _dry_run(
    operation: str, summary: str, right: str, answer: type, body: type | None = None
) -> dict[str, Any]:
    """Describe a question of what would happen; nothing is begun by it."""
    asked = {"content": {JSON: {"schema": _reference(body.__name__)}}} if body is not None else None
    described = {
        "operationId": operation,
        "summary": summary,
        "description": f"A dry run: nothing is reserved or changed.\n\nNeeds the right {right}.",
        "tags": [f"{operation.partition('_')[0]}s"],
        "parameters": [_path_parameter("id"), _parameter("RequestId")],
        "responses": {
            "200": _answer("What would happen.", [answer]),
            **problem_responses(_refusals((*ANY_BODY, p.NotAuthenticated, p.NotAllowed, NotFound))),
        },
    }
    return {"post": described if asked is None else {**described, "requestBody": asked}}


def _refusals(kinds: Iterable[type[Exception]]) -> list[type[Refusal]]:
    return [kind for kind in kinds if issubclass(kind, Refusal)]


def _path_parameter(name: str) -> Schema:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": msgspec.json.schema(Id),
        "description": "The object's id.",
    }


def _reference(name: str) -> Schema:
    return {"$ref": REFERENCE.format(name=name)}


def _parameter(name: str) -> Schema:
    return {"$ref": f"#/components/parameters/{name}"}


def _header(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


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
