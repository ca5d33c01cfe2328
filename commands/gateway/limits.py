"""A bound on the size of a request's body and on the time that it takes: pure ASGI middleware."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import orjson

BODY_BYTES_MAX = 1024 * 1024
BODY_TIMEOUT_S = 30.0

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApplication = Callable[[Scope, Receive, Send], Awaitable[None]]


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
            await body.refuse_as_too_large()
            return
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:
            # What the application makes of a body that was cut off is of no interest.
            if not body.cut_off:
                raise
        if body.cut_off and not body.answered:
            await (body.refuse_as_too_late() if body.late else body.refuse_as_too_large())


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

    async def refuse_as_too_large(self) -> None:
        await send_problem(
            self._send,
            status=413,
            name="body-too-large",
            title="The request's body is too large",
            detail=f"A body of at most {self._bytes_max} bytes is accepted.",
            headers=((b"connection", b"close"),),
        )

    async def refuse_as_too_late(self) -> None:
        await send_problem(
            self._send,
            status=408,
            name="body-too-slow",
            title="The request's body did not arrive in time",
            detail=f"The whole body is expected within {self._timeout_s:g} seconds.",
            headers=((b"connection", b"close"),),
        )


async def send_problem(
    send: Send,
    *,
    status: int,
    name: str,
    title: str,
    detail: str | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Answer with a problem (RFC 9457). For layers below the API, which has refusals of its own."""
    problem = {"type": name, "title": title, "status": status}
    if detail is not None:
        problem["detail"] = detail
    body = orjson.dumps(problem)
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/problem+json"),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0
