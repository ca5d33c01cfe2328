"""An agent's connections to the gateway at less cost: ten thousand agents share two processors.

What is sent and what is understood is the agent's own, over TLS with the host's certificate, one
connection for polls and one for all else, as httpx keeps them. Only the HTTP between is written for
what the gateway answers: httpx takes a millisecond for each request, which one host never notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from benchmarks._requests import HEAD_BYTES_MAX, exchange
from events.wire.agent import Intent, Orders
from hostagent.client import CONNECT_TIMEOUT_S, Messages, understood
from hostagent.gateway import GatewayAwayError

SUCCESS = range(200, 300)
Answer = TypeVar("Answer")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Line:
    """One connection that is kept; requests on it follow each other."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self._host, self._port, self._context = host, port, context
        self._turn = asyncio.Lock()
        self._streams: Streams | None = None

    async def ask(self, request: bytes, timeout_s: float) -> tuple[int, str | None, bytes]:
        """Return status, Retry-After and body of the answer; raises GatewayAwayError."""
        on_its_way = False
        async with self._turn:
            try:
                if self._streams is not None and self._streams[0].at_eof():
                    self.drop()  # the gateway lets go of what was idle for long
                if self._streams is None:
                    async with asyncio.timeout(CONNECT_TIMEOUT_S):
                        self._streams = await asyncio.open_connection(
                            self._host, self._port, ssl=self._context, limit=HEAD_BYTES_MAX
                        )
                on_its_way = True
                async with asyncio.timeout(timeout_s):
                    status, fields, body = await exchange(*self._streams, request)
            except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
                self.drop()
                words = f"{type(error).__name__}: {error}"
                raise GatewayAwayError(words, on_its_way=on_its_way) from error
            except BaseException:
                self.drop()  # an answer may still come, which would be taken for the next one's
                raise
            if fields.get("connection") == "close":
                self.drop()
            return status, fields.get("retry-after"), body

    def drop(self) -> None:
        """Let go of the connection; the next request makes another."""
        if self._streams is not None:
            with contextlib.suppress(RuntimeError):
                self._streams[1].close()
            self._streams = None


class LeanGateway(Messages):
    """One host's connections to the engine's gateway (`hostagent.fleet.HostGateway`)."""

    def __init__(self, address: str, context: ssl.SSLContext, *, request_timeout_s: float) -> None:
        super().__init__()
        parts = urlsplit(address)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._head = f"Host: {parts.netloc}\r\nContent-Type: application/json\r\n"
        self._timeout_s = request_timeout_s
        self._connect(context)

    async def orders(self, session: str, after: int, wait_s: float) -> Orders:
        """Wait for changes of the intent."""
        path = f"/agent/v1/orders?session={session}&after={after}&wait={wait_s:g}"
        request = f"GET {path} HTTP/1.1\r\n{self._head}\r\n".encode()
        answer = await self._polls.ask(request, self._timeout_s + wait_s)
        return self._taken(answer, Orders, Orders(changes=Intent(position=after)))

    def use(self, context: ssl.SSLContext) -> None:
        """Make all further connections with these TLS settings."""
        self._drop()
        self._connect(context)

    async def close(self) -> None:
        """Let go of all connections."""
        self._drop()

    def _connect(self, context: ssl.SSLContext) -> None:
        self._polls = _Line(self._host, self._port, context)
        self._others = _Line(self._host, self._port, context)

    def _drop(self) -> None:
        for line in (self._polls, self._others):
            line.drop()

    async def _post(
        self, path: str, message: msgspec.Struct, answer: type[Answer], empty: Answer | None = None
    ) -> Answer:
        body = msgspec.json.encode(message)
        head = f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        taken = await self._others.ask(head.encode() + body, self._timeout_s)
        return self._taken(taken, answer, empty)

    def _taken(
        self, answer: tuple[int, str | None, bytes], kind: type[Answer], empty: Answer | None
    ) -> Answer:
        status, retry_after, body = answer
        if status not in SUCCESS:
            raise self._problem(status, retry_after, body)
        return understood(body, kind, empty)
