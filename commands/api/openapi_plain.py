"""The paths of the OpenAPI document that are no command's."""

from __future__ import annotations

from typing import Any

from commands.api import balance_preview, machines, maintenance_preview, placement
from commands.api import problems as p
from commands.api.health import Health
from commands.api.machines import EngineSshKey
from commands.api.openapi_parts import (
    ANY_BODY,
    ANY_REQUEST,
    JSON,
    Schema,
    answered,
    header,
    parameter,
    path_parameter,
    problem_responses,
    reference,
    refusals,
)
from commands.gateway.balance_preview import BalancePreview
from commands.gateway.enrolment import TokenRefused
from commands.gateway.maintenance_preview import MaintenancePreview, PreviewRequest
from commands.gateway.placement import PlacementAnswer
from commands.kernel.refusal import InUse, NotFound, TooMuchContention
from events.wire.agent import Join, JoinAnswer

_TEXT: Schema = {"type": "string"}
_BINARY: Schema = {"type": "string", "format": "binary"}


def plain_paths() -> dict[str, dict[str, Any]]:
    """Return the paths that are no command's: health, certificates, joining, previews."""
    return {**_engine_paths(), **_machine_paths(), **_previews()}


def _plain(text: str, content: str, schema: Schema) -> Schema:
    headers = {p.REQUEST_ID_HEADER: header("RequestId")}
    return {
        "200": {
            "description": text,
            "headers": headers,
            "content": {content: {"schema": schema}},
        }
    }


def _get(name: str, summary: str, responses: Schema, *, public: bool = True) -> Schema:
    described: Schema = {"operationId": name, "summary": summary, "tags": ["engine"]}
    if public:
        described["security"] = []
    return {"get": {**described, "responses": responses}}


def _engine_paths() -> dict[str, dict[str, Any]]:
    health = _plain("How every part is.", JSON, reference(Health.__name__))
    away = {"503": {**health["200"], "description": "The log cannot be reached; `ok` is false."}}
    unavailable = problem_responses((p.Unavailable, *refusals(ANY_REQUEST)))
    metrics = _plain("Prometheus' text format.", "text/plain", _TEXT)
    unknown = problem_responses((p.NotAuthenticated,))
    return {
        "/v1/health": _get("get_health", "Tell how every part is", {**health, **away}),
        "/v1/ca": _get(
            "get_ca",
            "Get the CA certificates that this engine's certificates are issued by",
            {**_plain("Certificates.", "application/x-pem-file", _TEXT), **unavailable},
        ),
        "/v1/openapi.json": _get(
            "get_openapi", "Get this document", _plain("OpenAPI 3.1.", JSON, {"type": "object"})
        ),
        "/v1/docs": _get("get_docs", "Show this document", _plain("A page.", "text/html", _TEXT)),
        "/metrics": _get(
            "get_metrics",
            "Get the engine's metrics, for Prometheus",
            {**metrics, **unknown},
            public=False,
        ),
    }


def _machine_paths() -> dict[str, dict[str, Any]]:
    """Return what machines ask that become hosts, and what lets the engine in there."""
    join = {
        **_plain("The certificate, or `pending`.", JSON, reference(JoinAnswer.__name__)),
        **problem_responses(refusals((*ANY_BODY, TokenRefused, InUse, TooMuchContention))),
    }
    key = _plain("The key.", JSON, reference(EngineSshKey.__name__))
    return {
        "/v1/join": {
            "post": {
                "operationId": "join",
                "summary": "Join as a host, with an enrolment token and a signing request",
                "description": "`chronovisor agent join` does it. No other token is needed.",
                "tags": ["engine"],
                "security": [],
                "parameters": [parameter("RequestId")],
                "requestBody": {
                    "required": True,
                    "content": {JSON: {"schema": reference(Join.__name__)}},
                },
                "responses": join,
            }
        },
        machines.SSH_KEY_PATH: _get(
            "get_ssh_key",
            "Get the public SSH key that the engine shows to hosts",
            {**key, **problem_responses((p.NotAuthenticated,))},
            public=False,
        ),
        machines.DIGEST_PATH: _bundle_path(_plain("The bundle.", "application/gzip", _BINARY)),
    }


def _previews() -> dict[str, dict[str, Any]]:
    return {
        placement.PATH: _dry_run(
            "vm_placement",
            "Tell where a VM would be placed now, and why not on each other host",
            placement.RIGHT,
            PlacementAnswer,
        ),
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
            "parameters": [digest, parameter("RequestId")],
            "responses": {**answers, **problem_responses((NotFound, p.Unavailable))},
        }
    }


def _dry_run(
    operation: str, summary: str, right: str, answer: type, body: type | None = None
) -> dict[str, Any]:
    """Describe a question of what would happen; nothing is begun by it."""
    asked = {"content": {JSON: {"schema": reference(body.__name__)}}} if body is not None else None
    described = {
        "operationId": operation,
        "summary": summary,
        "description": f"A dry run: nothing is reserved or changed.\n\nNeeds the right {right}.",
        "tags": [f"{operation.partition('_')[0]}s"],
        "parameters": [path_parameter("id"), parameter("RequestId")],
        "responses": {
            "200": answered("What would happen.", [answer]),
            **problem_responses(refusals((*ANY_BODY, p.NotAuthenticated, p.NotAllowed, NotFound))),
        },
    }
    return {"post": described if asked is None else {**described, "requestBody": asked}}
