"""What every read needs: the database, the log, the feed of positions, and who is asking."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from starlette.requests import Request
from starlette.responses import Response

from access.principals import Principal
from access.right_names import Right
from access.rights import allowed
from events.log.port import LogReader, UnavailableError
from projections.connection import CONNECT_TIMEOUT_S, KEEPALIVE, Connection
from projections.reads.cache import DocumentCache, PageCache
from projections.reads.feed import Feed
from projections.reads.problems import (
    InvalidParameter,
    InventoryBehind,
    InventoryBuilding,
    InventoryUnreachable,
    NotAllowed,
    NotAuthenticated,
    Problem,
)

POOL_CONNECTIONS_MAX = 8
POOL_TIMEOUT_S = 5.0
QUERY_TIMEOUT_MS = 10_000
BEHIND_TIMEOUT_S = 2.0
SHORT_WAIT_S = 0.1
POSITION_MAX = 2**63 - 1
POSITION_HEADER = "Chronovisor-Position"
MIN_POSITION_HEADER = "Chronovisor-Min-Position"

# The inventory is not there, or is one of another release than this: it is being built.
NOT_THERE = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.FeatureNotSupported,
)

Authenticate = Callable[[Request], Awaitable[Principal | None]]
"""Answers who is asking, or None; what it raises is left to the application."""

logger = structlog.get_logger(__name__)


class Reads:
    """The read side's dependencies; `open` it before serving its routes.

    `dsn` is the inventory's database, `log` the log for answers about the past.
    """

    def __init__(
        self,
        *,
        dsn: str,
        log: LogReader,
        authenticate: Authenticate,
        pool_connections_max: int = POOL_CONNECTIONS_MAX,
    ) -> None:
        self.log = log
        self.feed = Feed(dsn)
        self.cache = DocumentCache()
        self.pages = PageCache()
        self._authenticate = authenticate
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=pool_connections_max,
            timeout=POOL_TIMEOUT_S,
            open=False,
            configure=_configure,
            kwargs={
                "autocommit": True,
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "chronovisor reads",
                "prepare_threshold": 2,
                **KEEPALIVE,
            },
        )

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Reads]:
        """Have connections and follow the inventory's position for the length of the block."""
        await self._pool.open()
        following = asyncio.create_task(self.feed.run())
        try:
            yield self
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await self._pool.close()

    async def principal(self, request: Request) -> Principal:
        """Return who is asking; raises NotAuthenticated or NotAllowed."""
        principal = await self._authenticate(request)
        if principal is None:
            raise NotAuthenticated(
                "The request carries no valid token.",
                "Send the header 'Authorization: Bearer <token>'.",
                {"WWW-Authenticate": "Bearer"},
            )
        object_id = request.path_params.get("id")
        if not allowed(principal, Right.LOGIN, object_id):
            raise NotAllowed(
                f"{principal.actor} may not read the inventory.", "Ask an admin for the right."
            )
        return principal

    async def wait_for(self, position: int) -> None:
        """Wait until the inventory has seen a position, at most 2 s.

        Raises InventoryBehind, or InvalidParameter for a position that no event has.
        """
        if await self.feed.wait(position, SHORT_WAIT_S):
            return
        with contextlib.suppress(UnavailableError, OSError, TimeoutError):
            head = await self.log.head()
            if position > head:
                raise InvalidParameter(
                    f"There is no position {position}: the log ends at {head}.",
                    f"Give the number from a {POSITION_HEADER} header or a command's answer.",
                )
        if not await self.feed.wait(position, BEHIND_TIMEOUT_S - SHORT_WAIT_S):
            raise InventoryBehind(
                f"The inventory is at position {self.feed.position}, not yet at {position}.",
                "Try again in a moment; if it does not move, look at the projector's health.",
            )

    async def query(
        self, statement: bytes, arguments: list[Any] | dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Return a statement's rows; raises the problems of an inventory that cannot be asked."""
        try:
            async with self._pool.connection() as connection:
                found = await connection.execute(statement, arguments, binary=True)
                return await found.fetchall()
        except NOT_THERE as error:
            raise building() from error
        except (psycopg.OperationalError, PoolTimeout, OSError) as error:
            logger.warning("the inventory does not answer", error=str(error))
            raise InventoryUnreachable(
                "The inventory's database did not answer in time.", "Try again in a moment."
            ) from error


async def _configure(connection: Connection) -> None:
    await connection.execute(
        "SELECT set_config('timezone', 'UTC', false),"
        " set_config('jit', 'off', false),"
        " set_config('default_transaction_read_only', 'on', false),"
        " set_config('statement_timeout', %s, false)",
        (f"{QUERY_TIMEOUT_MS}ms",),
    )


def building() -> Problem:
    """Return the problem of an inventory that is not there yet."""
    return InventoryBuilding(
        "The inventory is being built from the log.",
        "Try again in a moment; the projector's health shows how far it is.",
    )


Handler = Callable[[Reads, Request], Awaitable[Response]]


def endpoint(
    reads: Reads, handler: Handler, *, waits: bool = True
) -> Callable[[Request], Awaitable[Response]]:
    """Return a route's endpoint: it asks who is there, waits as asked, and answers problems."""

    async def answer(request: Request) -> Response:
        try:
            await reads.principal(request)
            position = min_position(request) if waits else 0
            if position:
                await reads.wait_for(position)
            return await handler(reads, request)
        except Problem as problem:
            return problem.answer(request)

    return answer


def min_position(request: Request) -> int:
    """Return the position that the answer must have seen, by parameter or header; 0 for any."""
    given = request.query_params.get("after") or request.headers.get(MIN_POSITION_HEADER)
    if given is None:
        return 0
    if not (given.isascii() and given.isdigit() and int(given[:20]) <= POSITION_MAX):
        raise InvalidParameter(
            f"{given[:100]!r} is not a position.",
            f"Give the number from a {POSITION_HEADER} header or a command's answer.",
        )
    return int(given[:20])
