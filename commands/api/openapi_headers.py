"""Headers in the OpenAPI document: those of requests, and those of answers."""

from __future__ import annotations

from typing import Any

from commands.api.answers import POSITION_HEADER
from commands.api.problems import REQUEST_ID_HEADER
from commands.api.requests import WAIT_S_MAX

Schema = dict[str, Any]
HEADER_NAMES = {
    "Position": POSITION_HEADER,
    "RequestId": REQUEST_ID_HEADER,
    "Location": "Location",
    "PreferenceApplied": "Preference-Applied",
}


def header_parameters() -> dict[str, Schema]:
    """Return the headers that requests may carry, as parameters."""

    def header(name: str, pattern: str, description: str) -> Schema:
        schema = {"type": "string", **({"pattern": pattern} if pattern else {})}
        return {"name": name, "in": "header", "description": description, "schema": schema}

    return {
        "IdempotencyKey": header(
            "Idempotency-Key",
            "^[!-~]([ -~]{0,253}[!-~])?$",
            "Names this request, so that it can be repeated safely; kept for 7 days.",
        ),
        "IfMatch": header(
            "If-Match",
            '^((W/)?"[0-9]{1,18}"|[0-9]{1,18})$',
            "The ETag (configuration version) that the change is meant for.",
        ),
        "Prefer": header(
            "Prefer",
            "^wait=[0-9]{1,2}$",
            f"Wait up to so many seconds, {WAIT_S_MAX} at most, for the operation's end.",
        ),
        "RequestId": header(
            REQUEST_ID_HEADER,
            "",
            "The client's own id of this request: 1 to 128 letters, digits, '.', '_', '-'. Without"
            " one, the engine makes one.",
        ),
    }


def answer_headers() -> dict[str, Schema]:
    """Return the headers that answers carry."""
    text, number = {"type": "string"}, {"type": "integer"}
    described = {
        "Position": ("The position in the log that the answer knows of.", number),
        "RequestId": ("The request's id.", text),
        "Location": ("Where the object, or the operation, can be read.", text),
        "PreferenceApplied": ("The wait that was granted.", text),
        "RetryAfter": ("After how many seconds to try again.", number),
        "Authenticate": ("How to say who is asking.", text),
    }
    return {
        name: {"description": description, "schema": schema}
        for name, (description, schema) in described.items()
    }
