"""Many clients at once, each over a connection of its own, by as little work as can be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ANSWER_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 5.0
ACCEPTED_MAX = 299
OVERLOADED = 503


@dataclass
class Answers:
    """What came back: seconds until the answer, by what it was."""

    accepted_s: list[float] = field(default_factory=list)
    overloaded_s: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    others: list[str] = field(default_factory=list)
    lost: int = 0

    def percentile(self, part: float) -> float:
        """Of those that were accepted, in seconds."""
        ordered = sorted(self.accepted_s)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


class Flood:
    """`clients` that each send commands one after the other for a while.

    `body(n)` makes the n-th command's body. Without a TLS context they speak plain HTTP.
    """

    def __init__(
        self,
        url: str,
        token: str,
        path: str,
        body: Callable[[int], object],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        place = urlsplit(url)
        self.answers = Answers()
        self._host, self._port = place.hostname or "", place.port or 80
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\n"
        )
        self._body = body
        self._tls = tls
        self._count = 0

    async def run(self, clients: int, seconds: float, *, patient: bool = False) -> Answers:
        """Send; `patient` clients wait as long as Retry-After says."""
        ends_at = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._client(ends_at, patient=patient))
        return self.answers

    async def _client(self, ends_at: float, *, patient: bool) -> None:
        while time.monotonic() < ends_at:
            try:
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._tls
                )
            except OSError:
                self.answers.lost += 1
                await asyncio.sleep(0.5)
                continue
            try:
                while time.monotonic() < ends_at:
                    wait_s = await self._one(reader, writer)
                    if wait_s and patient:
                        await asyncio.sleep(min(wait_s, max(0.0, ends_at - time.monotonic())))
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                self.answers.lost += 1
            finally:
                writer.close()
                if self._tls is not None:  # else the loop ends before its connections do
                    with contextlib.suppress(OSError, TimeoutError):
                        async with asyncio.timeout(CLOSE_TIMEOUT_S):
                            await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
        self._count += 1
        body = json.dumps(self._body(self._count)).encode()
        began = time.monotonic()
        writer.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
            }
            content = await reader.readexactly(int(headers.get("content-length", "0")))
        took_s = time.monotonic() - began
        status = int(head.split(" ", 2)[1])
        if status <= ACCEPTED_MAX:
            self.answers.accepted_s.append(took_s)
        elif status == OVERLOADED:
            self.answers.overloaded_s.append(took_s)
            if "retry-after" not in headers:
                self.answers.without_retry_after += 1
            return float(headers.get("retry-after", "0"))
        else:
            self.answers.others.append(f"{status} {content[:200]!r}")
        return 0.0
