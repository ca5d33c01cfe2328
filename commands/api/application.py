"""The application around all routes: request ids, bounds, and problems where there is no route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Lifespan, Message, Receive, Scope, Send

from commands.api.problems import REQUEST_ID_HEADER, problem_response, request_id
from commands.gateway.limits import BodyLimit

BODY_BYTES_MAX = 256 * 1024
_METHOD_NOT_ALLOWED = 405
_REQUEST_ID = REQUEST_ID_HEADER.lower().encode()
_SAFETY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


class Application:
    """The routes of all parts as one ASGI application. Bodies have 256 KiB at most."""

    def __init__(
        self, routes: Sequence[BaseRoute], *, lifespan: Lifespan[Any] | None = None
    ) -> None:
        self._router = Router(routes, redirect_slashes=False, lifespan=lifespan)
        self._bounded = BodyLimit(self._route, bytes_max=BODY_BYTES_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        name = request_id(scope).encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [each for each in message["headers"] if each[0] != _REQUEST_ID]
                message["headers"] = [*headers, (_REQUEST_ID, name), *_SAFETY_HEADERS]
            await send(message)

        await self._bounded(scope, receive, send_with_id)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # makes the router raise what it has no route for
        answering = False

        async def send_noting(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self._router(scope, receive, send_noting)
        except Exception as error:
            if answering:
                raise  # half an answer cannot be mended: the server closes the connection
            problem = problem_response(self._named(error, scope), Request(scope))
            await problem(scope, receive, send)

    def _named(self, error: Exception, scope: Scope) -> Exception:
        """Name all methods that a path knows: the router names those of one route only."""
        if not isinstance(error, HTTPException) or error.status_code != _METHOD_NOT_ALLOWED:
            return error
        methods: set[str] = set()
        for route in self._router.routes:
            if isinstance(route, Route) and route.path_regex.match(scope["path"]):
                methods |= route.methods or set()
        return HTTPException(_METHOD_NOT_ALLOWED, headers={"Allow": ", ".join(sorted(methods))})
