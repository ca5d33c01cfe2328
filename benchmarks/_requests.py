"""Many HTTP requests over many TLS connections at once, as cheaply as Python sends them."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hostagent.client import ANSWER_BYTES_MAX

HEAD_BYTES_MAX = 64 * 1024
RETRIES_MAX = 200
ANSWER_TIMEOUT_S = 60.0
NO_CONTENT, BUSY = 204, 503


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, and how long it took."""

    status: int
    body: bytes
    taken_s: float
    retry_after_s: float = 0.0

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever was answered
        """The body."""
        return json.loads(self.body)


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Send a request; return the answer's status, its fields (all in lower case), and its body.

    Raises EOFError where the connection ends, or where the answer is too long or tells no length.
    """
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in head[1:] if line)
    status = int(head[0][9:12])
    length = int(fields.get("content-length", "0" if status == NO_CONTENT else "-1"))
    if not 0 <= length <= ANSWER_BYTES_MAX:
        raise EOFError(f"an answer of {length} bytes, or without a length")
    return status, fields, await reader.readexactly(length)


class Connection:
    """One connection that is kept; requests on it follow each other."""

    def __init__(self, url: str, context: ssl.SSLContext, token: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._context = context
        self._head = f"Host: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> Sent:
        """Send a request; one that the engine is too busy for is sent again when it says."""
        for _attempt in range(RETRIES_MAX):
            sent = await asyncio.wait_for(self._once(method, path, body), ANSWER_TIMEOUT_S)
            if sent.status != BUSY:
                return sent
            await asyncio.sleep(sent.retry_after_s)
        message = f"{method} {path}: {sent.status} {sent.body[:300]!r}"
        raise RuntimeError(message)

    async def _once(self, method: str, path: str, body: bytes) -> Sent:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                self._host, self._port, ssl=self._context, limit=HEAD_BYTES_MAX
            )
        reader, writer = self._streams
        kind = "Content-Type: application/json\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{kind}Content-Length: {len(body)}\r\n\r\n"
        began = time.perf_counter()
        status, fields, content = await exchange(reader, writer, head.encode() + body)
        return Sent(
            status=status,
            body=content,
            taken_s=time.perf_counter() - began,
            retry_after_s=float(fields.get("retry-after", "0.1")),
        )

    async def close(self) -> None:
        """Let go."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def storm(
    connections: list[Connection], requests: Iterable[tuple[str, str, bytes]]
) -> list[Sent]:
    """Send all requests, each connection one after the other; return the answers as they came."""
    waiting: Iterator[tuple[str, str, bytes]] = iter(requests)
    answers: list[Sent] = []

    async def client(connection: Connection) -> None:
        for method, path, body in waiting:
            answers.append(await connection.ask(method, path, body))

    await asyncio.gather(*(client(connection) for connection in connections))
    return answers
