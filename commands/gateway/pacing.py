"""Answers that are sent as fast as their reader takes them, and not kept for one who does not.

uvicorn hands an answer's body to the connection as it comes: a page of some megabytes is encrypted
into memory at once, and stays there until the client has read it or the kernel gives up. Here a
body goes out in pieces, each when there is room for it; who takes nothing for a while, or next to
nothing for long, is cut off. The body itself lies in the application's memory meanwhile: where all
that wait come to too much, those that have taken nothing for longest are cut off at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter

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
HELD_BYTES_MAX = 64 * 1024 * 1024
"""Of all bodies of more than one piece, in a process."""
STALLED_S = 1.0
"""Who took something within this time is not cut off for the others' sake."""
GONE_TIMEOUT_S = 5.0
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, no seconds


class _Answer:
    """A body on its way: when its client last took something, and the time limit that runs."""

    def __init__(self, body: bytes, now: float) -> None:
        self.body = body
        self.moved_at = now
        self.limit: asyncio.Timeout | None = None


_held: set[_Answer] = set()


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
        answer = _Answer(message.get("body", b""), loop.time())
        ends = loop.time() + timeout_s + len(answer.body) / SLOWEST_BYTES_PER_S
        if len(pieces) > 1:
            _held.add(answer)
            _make_room(loop)
        try:
            for piece in pieces:
                async with asyncio.timeout_at(min(ends, loop.time() + timeout_s)) as answer.limit:
                    await send(piece)
                answer.moved_at = loop.time()
        except TimeoutError:
            over = True
            _cut_off(transport)
            await _gone(receive)
        finally:
            _held.discard(answer)

    await app(scope, receive, send_paced)


def _make_room(loop: asyncio.AbstractEventLoop) -> None:
    """End the time of those that take nothing, the longest first, while too much is held.

    A body that goes to many at once is in memory once.
    """
    sharing = Counter(id(answer.body) for answer in _held)
    held = sum({id(answer.body): len(answer.body) for answer in _held}.values())
    for answer in sorted(_held, key=lambda one: one.moved_at):
        if held <= HELD_BYTES_MAX:
            return
        if loop.time() - answer.moved_at < STALLED_S:
            loop.call_later(STALLED_S, _make_room, loop)
            return
        if answer.limit is not None:
            sharing[id(answer.body)] -= 1
            held -= 0 if sharing[id(answer.body)] else len(answer.body)
            with contextlib.suppress(RuntimeError):  # its time is over already
                answer.limit.reschedule(loop.time())


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
