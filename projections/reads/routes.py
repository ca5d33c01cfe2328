"""The routes of the read side, for the application that joins them with the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from events.log.port import LogReader
from projections.reads import host_parts
from projections.reads.collections import COLLECTIONS, Collection
from projections.reads.context import POOL_CONNECTIONS_MAX, Authenticate, Reads, endpoint
from projections.reads.objects import answer_one
from projections.reads.pages import answer_list
from projections.reads.stream import Hub, answer_stream


class ReadApi:
    """The read side: its routes, and what must run while they are served.

    `dsn` is the inventory's database, `log` the log (for answers about the past). `authenticate`
    answers who is asking, or None for nobody, which is answered with 401; what it raises is left
    to the application.
    """

    def __init__(
        self,
        *,
        dsn: str,
        log: LogReader,
        authenticate: Authenticate,
        pool_connections_max: int = POOL_CONNECTIONS_MAX,
        time_scale: float = 1.0,
    ) -> None:
        self._reads = Reads(
            dsn=dsn,
            log=log,
            authenticate=authenticate,
            pool_connections_max=pool_connections_max,
        )
        self._hub = Hub(self._reads, time_scale=time_scale)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[ReadApi]:
        """Serve for the length of the block."""
        async with self._reads.open():
            following = asyncio.create_task(self._hub.run())
            try:
                yield self
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    @property
    def position(self) -> int:
        """The position that the inventory is known to have reached, for health answers."""
        return self._reads.feed.position

    def routes(self) -> list[Route]:
        """Return the routes; the application may be made before `open`."""
        reads = self._reads
        found: list[Route] = []
        for collection in COLLECTIONS:
            listed, one = _list(collection), _one(collection)
            found.append(Route(collection.path, endpoint(reads, listed), methods=["GET"]))
            path = f"{collection.path}/{{id}}"
            found.append(Route(path, endpoint(reads, one), methods=["GET"]))
        for part in host_parts.PARTS:
            answer = endpoint(reads, _part(part))
            found.append(Route(host_parts.path(part), answer, methods=["GET"]))

        async def follow(reads: Reads, request: Request) -> Response:
            return await answer_stream(self._hub, request)

        stream = Route("/v1/stream", endpoint(reads, follow, waits=False), methods=["GET"])
        stream.methods = {"GET"}  # Starlette adds HEAD, whose answer would never end either
        found.append(stream)
        return found


def _list(collection: Collection) -> Callable[[Reads, Request], Awaitable[Response]]:
    async def answer(reads: Reads, request: Request) -> Response:
        return await answer_list(collection, reads, request)

    return answer


def _part(part: str) -> Callable[[Reads, Request], Awaitable[Response]]:
    async def answer(reads: Reads, request: Request) -> Response:
        return await host_parts.answer_part(part, reads, request)

    return answer


def _one(collection: Collection) -> Callable[[Reads, Request], Awaitable[Response]]:
    async def answer(reads: Reads, request: Request) -> Response:
        return await answer_one(collection, reads, request)

    return answer
