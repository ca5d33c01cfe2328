"""What the gateway reads off a request, and how it answers."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from commands.gateway.tls import PEER_CERTIFICATE
from commands.kernel.refusal import InvalidField

BODY_BYTES_MAX = 4 * 1024 * 1024
Body = TypeVar("Body")


def fingerprint_of(request: Request) -> str:
    """Return the SHA-256 (hex) of the certificate that the agent showed."""
    certificate: bytes = request.scope["extensions"][PEER_CERTIFICATE]
    return hashlib.sha256(certificate).hexdigest()


async def body_of(request: Request, body: type[Body]) -> Body:
    """Return the body, decoded; raises InvalidField."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > BODY_BYTES_MAX:
            raise InvalidField(f"The body exceeds {BODY_BYTES_MAX} B.")
    try:
        return msgspec.json.decode(content, type=body)
    except msgspec.MsgspecError as error:
        raise InvalidField(f"The body cannot be read: {error}") from error


def number_of(request: Request, name: str, default: float | None = None) -> float:
    """Return a parameter that is a number from 0 on; raises InvalidField."""
    text = request.query_params.get(name)
    try:
        number = float(text) if text is not None else default
    except ValueError:
        number = None
    if number is None or not 0 <= number < 2**53:
        raise InvalidField(f"The parameter '{name}' must be a number from 0 on.", field=name)
    return number


def answer_of(body: Any) -> Response:  # noqa: ANN401 - any message of the wire
    """Return the answer that holds a message."""
    return Response(msgspec.json.encode(body), media_type="application/json")
