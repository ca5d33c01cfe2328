"""Answers that are sent as fast as their reader takes them, and not kept for one who does not.

uvicorn hands an answer's body to the connection as it comes: a page of some megabytes is encrypted
into memory at once, and stays there until the client has read it or the kernel gives up. Here a
body goes out in pieces, each when there is room for it; who takes nothing for a while, or next to
nothing for long, is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import structlog

from commands.gateway.limits import AsgiApplication, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)
PIECE_BYTES = 64 * 1024
WRITE_BUFFER_BYTES = 64 * 1024
"""What a connection keeps of what was sent before the next piece waits; asyncio's own bound is 512
KiB for TLS."""
ANSWER_TIMEOUT_S = 30.0
"""Longer than a follower of changes is given (20 s), who is told of in a line of his own."""
SLOWEST_BYTES_PER_S = 16 * 1024
GONE_TIMEOUT_S = 5.0
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, no seconds


async def paced(
    app: AsgiApplication,
    transport: asyncio.Transport,
    timeout_s: float,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Have the application answer on a connection, whose reader has a time limit.

    Each piece has to find room within `timeout_s`, and a whole body has that and as long as the
    slowest reader takes whom we bear.
    """
    loop = asyncio.get_running_loop()
    over = False

    async def send_paced(message: Message) -> None:
        nonlocal over
        if over:
            return
        pieces = _pieces(message)
        ends = loop.time() + timeout_s + len(message.get("body", b"")) / SLOWEST_BYTES_PER_S
        try:
            for piece in pieces:
                async with asyncio.timeout_at(min(ends, loop.time() + timeout_s)):
                    await send(piece)
        except TimeoutError:
            over = True
            _cut_off(transport)
            await _gone(receive)

    await app(scope, receive, send_paced)


def _pieces(message: Message) -> list[Message]:
    body = message.get("body", b"")
    if message["type"] != "http.response.body" or len(body) <= PIECE_BYTES:
        return [message]
    view = memoryview(body)
    pieces: list[Message] = [
        {"type": message["type"], "body": view[at : at + PIECE_BYTES], "more_body": True}
        for at in range(0, len(body), PIECE_BYTES)
    ]
    pieces[-1]["more_body"] = message.get("more_body", False)
    return pieces


def _cut_off(transport: asyncio.Transport) -> None:
    """Close the connection, without waiting for the client and leaving the kernel nothing."""
    log.info(
        "a client that does not read its answer is cut off",
        client=str(transport.get_extra_info("peername")),
    )
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    transport.abort()


async def _gone(receive: Receive) -> None:
    """Return once uvicorn knows that the client has gone, so that it misses no answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GONE_TIMEOUT_S):
            while (await receive())["type"] != "http.disconnect":
                pass
