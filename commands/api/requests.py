"""What a request says besides its body: key, precondition, preference; and how its body is read."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from commands.api.problems import InvalidHeader, UnknownParameter, UnsupportedMediaType

WAIT_S_MAX = 60
_KEY = re.compile(rb"[!-~](?:[ -~]{0,253}[!-~])?\Z")
_VERSION = re.compile(rb'(?:(?:W/)?"([0-9]{1,18})"|([0-9]{1,18}))\Z')
_WAIT = re.compile(rb"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=,|;|$)", re.IGNORECASE)
_PLAIN_ENCODINGS = frozenset({b"", b"identity"})

Headers = Mapping[bytes, bytes]


class Wishes(msgspec.Struct, frozen=True):
    """What the headers of a command ask for."""

    key: str | None
    if_match: int | None
    wait_s: int | None


def headers_of(scope: Scope) -> Headers:
    """Return the headers by their names in lower case; of several of one name the last counts."""
    return dict(scope["headers"])


def wishes(headers: Headers, *, versioned: bool) -> Wishes:
    """Return what the headers ask for; raises InvalidHeader."""
    key = headers.get(b"idempotency-key")
    if key is not None and not _KEY.match(key):
        raise InvalidHeader(
            "The Idempotency-Key is not usable.",
            remedy="Give 1 to 255 printable ASCII characters, a UUID for example.",
            header="Idempotency-Key",
        )
    prefer = headers.get(b"prefer")
    return Wishes(
        None if key is None else key.decode(),
        _if_match(headers.get(b"if-match"), versioned=versioned),
        None if prefer is None else _wait_s(prefer),
    )


def _if_match(given: bytes | None, *, versioned: bool) -> int | None:
    if given is None or given == b"*":
        return None
    if not versioned:
        # To ignore it would do what the client wanted done under a condition only.
        raise InvalidHeader(
            "This command knows no If-Match: it does not change a configuration.",
            remedy="Leave the header out.",
            header="If-Match",
        )
    match = _VERSION.match(given)
    if match is None:
        raise InvalidHeader(
            "If-Match names no configuration version.",
            remedy='Give the object\'s ETag as it was answered, such as "7".',
            header="If-Match",
        )
    return int(match[1] or match[2])


def _wait_s(given: bytes) -> int | None:
    match = _WAIT.search(given)
    return None if match is None else min(int(match[1]), WAIT_S_MAX)


def require_no_parameters(scope: Scope) -> None:
    """Refuse parameters in the query, which no command has."""
    if scope["query_string"]:
        raise UnknownParameter(
            "A command has no parameters behind a '?'.",
            remedy="Give them as fields of the body.",
        )


async def read_body(headers: Headers, receive: Receive) -> bytes | bytearray:
    """Return the whole body, whose size the application has bounded; raises what is wrong."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            whole: bytes | bytearray = part if not body else body + part
            break
        body += part
    if whole:
        _require_json(headers)
    return whole


def _require_json(headers: Headers) -> None:
    if headers.get(b"content-encoding", b"").strip().lower() not in _PLAIN_ENCODINGS:
        raise UnsupportedMediaType(
            "Compressed bodies are not understood.", remedy="Send the JSON as it is."
        )
    given = headers.get(b"content-type")
    if given is None or given == b"application/json":
        return
    kind = given.partition(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json"):
        raise UnsupportedMediaType(
            f"A body of type {kind.decode('latin-1')[:100]!r} is not understood.",
            remedy="Send JSON with Content-Type: application/json.",
        )
