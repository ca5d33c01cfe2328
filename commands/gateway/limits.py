"""A bound on the size of a request's body and on the time that it takes: pure ASGI middleware."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import orjson

from commands.kernel.refusal import Refusal

BODY_BYTES_MAX = 1024 * 1024
BODY_TIMEOUT_S = 30.0
# After a refusal the rest of the body is read and thrown away for this long, and this much of it.
LINGER_S = 2.0
LINGER_BYTES_MAX = 16 * 1024 * 1024

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApplication = Callable[[Scope, Receive, Send], Awaitable[None]]


class BodyTooLarge(Refusal):
    """The request's body is too large."""

    status = 413


class BodyTooSlow(Refusal):
    """The request's body did not arrive in time."""

    status = 408


class CertificateExpired(Refusal):
    """The host's certificate is not valid at this time; it is good for its renewal only."""

    status = 403


class TooManyConnections(Refusal):
    """The server has as many connections as it can serve."""

    status = 503


class BodyLimit:
    """Answers 413 to a body of more than `bytes_max` bytes, 408 to one that dawdles.

    A body whose length is declared is refused before a byte of it is read. The application reads
    the body as it comes, so that it can refuse a stranger before it has taken anything in.
    """

    def __init__(
        self,
        app: AsgiApplication,
        *,
        bytes_max: int = BODY_BYTES_MAX,
        timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self._app = app
        self._bytes_max = bytes_max
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, watching its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, send, self._bytes_max, self._timeout_s)
        if _declared_length(scope) > self._bytes_max:
            await body.refuse()
            return
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:
            # What the application makes of a body that was cut off is of no interest.
            if not body.cut_off:
                raise
        if body.cut_off and not body.answered:
            await body.refuse()


class _Body:
    """One request's body on its way to the application, and the answer on its way back."""

    def __init__(self, receive: Receive, send: Send, bytes_max: int, timeout_s: float) -> None:
        self._receive = receive
        self._send = send
        self._bytes_max = bytes_max
        self._bytes = 0
        self._timeout_s = timeout_s
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._whole = False
        self.cut_off = False
        self.late = False
        self.answered = False

    async def receive(self) -> Message:
        """The next part; once the body is cut off, to the application the client has gone."""
        if self.cut_off:
            return {"type": "http.disconnect"}
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self.cut_off = self.late = True
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._bytes > self._bytes_max:
                self.cut_off = True
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on, unless it is an answer to a body that was cut off."""
        if self.cut_off and not self.answered:
            return
        self.answered = True
        await self._send(message)

    async def refuse(self) -> None:
        """Answer in the application's place, and close the connection."""
        if self.late:
            detail = f"The whole body is expected within {self._timeout_s:g} seconds."
            await send_refusal(self._send, BodyTooSlow(detail), linger=self._linger)
        else:
            detail = f"A body of at most {self._bytes_max} bytes is accepted."
            await send_refusal(self._send, BodyTooLarge(detail), linger=self._linger)

    async def _linger(self) -> None:
        """Take in some of the rest, since closing at once would destroy the answer on its way.

        (TCP resets a connection that is closed with unread data, and the peer then loses what it
        has not read yet.)
        """
        taken = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while taken < LINGER_BYTES_MAX:
                    message = await self._receive()
                    taken += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return


async def _no_linger() -> None:
    return


async def send_refusal(
    send: Send,
    refusal: Refusal,
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    linger: Callable[[], Awaitable[None]] = _no_linger,
) -> None:
    """Answer with a problem (RFC 9457) and close: for refusals below the API's own handling."""
    problem = {
        "type": refusal.slug(),
        "title": refusal.title(),
        "status": refusal.status,
        "detail": refusal.detail,
    }
    body = orjson.dumps(problem)
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": [
                (b"content-type", b"application/problem+json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await linger()
    await send({"type": "http.response.body", "body": b""})


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0
