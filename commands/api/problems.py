"""Problems (RFC 9457): how every refusal, and every mistake of ours, is answered over HTTP.

A refusal's class gives the problem's type, title and status; the instance gives what is wrong here
(`detail`) and what can be done about it (`remedy`). The request's id is in each problem, so that an
admin's complaint and the engine's log find each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope
from uuid_utils.compat import uuid7

from commands.kernel.refusal import Refusal
from events.log.port import OverloadedError, UnavailableError

MEDIA_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "X-Request-Id"
RETRY_AFTER_S = 1
UNAVAILABLE_RETRY_AFTER_S = 2
_REQUEST_ID = "chronovisor.request_id"
_GIVEN_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,128}\Z")

log = structlog.get_logger(__name__)


class NotAuthenticated(Refusal):
    """It is not known who is asking."""

    status = 401


class NotAllowed(Refusal):
    """The caller may not do this."""

    status = 403


class NoSuchPath(Refusal):
    """There is nothing at this path."""

    status = 404


class MethodNotAllowed(Refusal):
    """The path does not know this method."""

    status = 405


class BodyCutOff(Refusal):
    """The request's body did not arrive whole."""

    status = 400


class NotJson(Refusal):
    """The request's body is not JSON."""

    status = 400


class InvalidHeader(Refusal):
    """A header has a value that is not allowed."""

    status = 400


class UnknownParameter(Refusal):
    """There is no such parameter."""

    status = 400


class UnsupportedMediaType(Refusal):
    """The request's body is of a type that is not understood."""

    status = 415


class Overloaded(Refusal):
    """The engine has more to do than it can do at once."""

    status = 503


class Unavailable(Refusal):
    """The engine cannot work now."""

    status = 503


class InternalError(Refusal):
    """The engine made a mistake."""

    status = 500


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem as the API shows it (RFC 9457).

    `type` names it, `detail` says what is wrong here, `remedy` what can be done about it. Some
    problems have further members, such as the field that is wrong.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    remedy: str | None = None
    request_id: str | None = None


def request_id(scope: Scope) -> str:
    """Return the request's id: the one that the client gave if it can be used, else a new one."""
    known: str | None = scope.get(_REQUEST_ID)
    if known is None:
        given = next((v for k, v in scope.get("headers", ()) if k == b"x-request-id"), b"")
        known = given.decode() if _GIVEN_REQUEST_ID.match(given) else str(uuid7())
        scope[_REQUEST_ID] = known
    return known


def problem_response(error: Exception, request: Request) -> Response:
    """Answer an error; what is no refusal is logged, and nothing of its insides is shown."""
    refusal, headers = _refusal_of(error, request)
    body: dict[str, Any] = {
        "type": refusal.slug(),
        "title": refusal.title(),
        "status": refusal.status,
        "detail": refusal.detail,
        "instance": request.scope["path"],
        "request_id": request_id(request.scope),
    }
    if refusal.remedy:
        body["remedy"] = refusal.remedy
    for name, value in refusal.extra.items():
        body.setdefault(name, value)
    return Response(
        msgspec.json.encode(body),
        status_code=refusal.status,
        media_type=MEDIA_TYPE,
        headers={REQUEST_ID_HEADER: request_id(request.scope), **headers},
    )


def _refusal_of(error: Exception, request: Request) -> tuple[Refusal, dict[str, str]]:
    """Return the refusal that an error amounts to, and the headers that go with it."""
    cause = next((e for e in _leaves(error) if not _is_mistake(e)), error)
    match cause:
        case NotAuthenticated():
            return cause, {"WWW-Authenticate": "Bearer"}
        case Refusal() if cause.status == Unavailable.status:
            return cause, {"Retry-After": str(RETRY_AFTER_S)}
        case Refusal():
            return cause, {}
        case OverloadedError():
            return _overloaded(), {"Retry-After": str(max(1, round(cause.retry_after_s)))}
        case UnavailableError() | TimeoutError():
            log.warning("a request could not be served", error=str(cause), path=request.url.path)
            return _unavailable(), {"Retry-After": str(UNAVAILABLE_RETRY_AFTER_S)}
        case ClientDisconnect():
            return BodyCutOff("The connection ended before the whole body had arrived."), {}
        case HTTPException():
            return _of_framework(cause, request), dict(cause.headers or {})
        case _:
            log.error(
                "a request met a mistake of ours",
                request_id=request_id(request.scope),
                method=request.method,
                path=request.url.path,
                exc_info=cause,
            )
            return InternalError(
                "This is a mistake in Chronovisor, not in the request.",
                remedy="Tell its makers, with the request id, which is in the engine's log too.",
            ), {}


def _leaves(error: BaseException) -> Iterator[Exception]:
    """The errors themselves, where several came together from tasks that ran beside each other."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif isinstance(error, Exception):
        yield error


def _is_mistake(error: Exception) -> bool:
    known = Refusal | OverloadedError | UnavailableError | TimeoutError
    return not isinstance(error, known | ClientDisconnect | HTTPException)


def _overloaded() -> Refusal:
    return Overloaded(
        "Too many commands wait to be stored; nothing of this one was.",
        remedy="Send it again after the time in Retry-After.",
    )


def _unavailable() -> Refusal:
    return Unavailable(
        "The database does not answer; it is not known whether this was stored.",
        remedy="Send it again with the same Idempotency-Key: it then happens once at most.",
    )


def _of_framework(error: HTTPException, request: Request) -> Refusal:
    if error.status_code == NoSuchPath.status:
        return NoSuchPath(
            f"There is nothing at {request.url.path[:200]}.",
            remedy="See /v1/openapi.json for all that there is.",
        )
    if error.status_code == MethodNotAllowed.status:
        allowed = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(
            f"{request.method} is not known at {request.url.path[:200]}.",
            remedy=f"Known methods are: {allowed}." if allowed else "",
        )
    return InvalidHeader(str(error.detail))
