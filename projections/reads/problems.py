"""Problems (RFC 9457): what a read can be answered with when it cannot be answered.

A problem is a class, as refusals of commands are: its docstring is the title, its name in kebab
case the type. Instances say what is wrong (`detail`) and what to do about it (`remedy`).
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A problem as the API shows it (RFC 9457); `remedy` says what can be done about it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    remedy: str


class Problem(Exception):
    """The request cannot be answered."""

    status: ClassVar[int] = 400

    def __init__(self, detail: str, remedy: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.headers = headers or {}

    @classmethod
    def slug(cls) -> str:
        """Return the problem's type."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("-")

    def answer(self, request: Request) -> Response:
        """Return the problem as the answer to a request."""
        document = ProblemDocument(
            type=self.slug(),
            title=(self.__doc__ or "").splitlines()[0].rstrip("."),
            status=self.status,
            detail=self.detail,
            instance=request.url.path,
            remedy=self.remedy,
        )
        return Response(
            msgspec.json.encode(document),
            status_code=self.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


class UnknownParameter(Problem):
    """There is no such parameter."""


class InvalidParameter(Problem):
    """A parameter has a value that is not allowed."""


class InvalidCursor(Problem):
    """The cursor does not belong to this list."""


class NotAuthenticated(Problem):
    """It is not known who is asking."""

    status = 401


class NotAllowed(Problem):
    """The caller may not read this."""

    status = 403


class NotFound(Problem):
    """There is no such object."""

    status = 404


class Unavailable(Problem):
    """The inventory cannot answer now."""

    status = 503

    def __init__(self, detail: str, remedy: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail, remedy, {"Retry-After": str(retry_after_s)})


class InventoryBehind(Unavailable):
    """The inventory has not seen that position yet."""


class InventoryBuilding(Unavailable):
    """The inventory is being built."""


class InventoryUnreachable(Unavailable):
    """The inventory's database does not answer."""


class TooManyStreams(Unavailable):
    """Too many clients follow the changes."""
