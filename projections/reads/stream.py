"""`GET /v1/stream`: changed documents and audit records as server-sent events, from any position.

One task looks for changes, once for all clients. Each client has a bounded queue: one that does not
keep up is cut off, and comes back with its last position. The id of a message is sent only with the
last change of a position, so that a client that resumes there has missed nothing before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from events.backoff import Backoff
from projections.reads.changes import KINDS, Change, changes
from projections.reads.context import POSITION_HEADER, POSITION_MAX, Reads, building
from projections.reads.lists import check_parameters
from projections.reads.problems import InvalidParameter, Problem, TooManyStreams

CLIENTS_MAX = 200
QUEUE_CHUNKS_MAX = 256
QUEUE_BYTES_MAX = 8 * 1024 * 1024
PIECE_BYTES = 64 * 1024
HEARTBEAT_S = 15.0
SEND_TIMEOUT_S = 20.0
LOOK_INTERVAL_S = 5.0
READY_TIMEOUT_S = 2.0
RETRY_MS = 2_000
MEDIA_TYPE = "text/event-stream"

logger = structlog.get_logger(__name__)


def message(change: Change, position: int | None) -> bytes:
    """Return one server-sent event; with a position, the client resumes after it."""
    lines: list[bytes] = []
    if position is not None:
        lines.append(b"id: %d" % position)
    if change.document is None:
        gone = msgspec.json.encode({"kind": change.kind, "id": change.id})
        lines += [b"event: removed", b"data: " + gone]
    else:
        lines += [b"event: " + change.kind.encode(), b"data: " + change.document]
    return b"\n".join(lines) + b"\n\n"


def place(position: int) -> bytes:
    """Return the message that says how far the stream is: it is the heartbeat, too."""
    return b'id: %d\nevent: position\ndata: {"position":%d}\n\n' % (position, position)


def chunk(found: Sequence[Change], kinds: frozenset[str]) -> bytes:
    """Return the messages for one client: of its kinds, the id on the last of each position."""
    mine = [change for change in found if change.kind in kinds]
    parts = []
    for change, following in itertools.zip_longest(mine, mine[1:]):
        last = following is None or following.position != change.position
        parts.append(message(change, change.position if last else None))
    return b"".join(parts)


class Client:
    """One follower: what it wants, and what waits to be sent to it."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self.kinds = kinds
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_CHUNKS_MAX)
        self._waiting_bytes = 0
        self.cut = False

    def offer(self, data: bytes) -> None:
        """Queue data; a client whose queue is full is cut off."""
        if self._chunks.full() or self._waiting_bytes + len(data) > QUEUE_BYTES_MAX:
            self.cut = True
        else:
            self._waiting_bytes += len(data)
            self._chunks.put_nowait(data)

    async def take(self, timeout_s: float) -> bytes:
        """Return what comes next, or b"" where nothing comes in time."""
        try:
            async with asyncio.timeout(timeout_s):
                data = await self._chunks.get()
        except TimeoutError:
            return b""
        self._waiting_bytes -= len(data)
        return data


class Hub:
    """Looks for changes as the inventory moves, and hands them to all clients."""

    def __init__(self, reads: Reads, *, time_scale: float = 1.0) -> None:
        self.reads = reads
        self.position = 0
        self.heartbeat_s = HEARTBEAT_S * time_scale
        self.ready = asyncio.Event()
        self._clients: set[Client] = set()

    def require_room(self) -> None:
        """Raise TooManyStreams where no further client may follow."""
        if len(self._clients) >= CLIENTS_MAX:
            raise TooManyStreams(
                f"{CLIENTS_MAX} clients follow the changes already.",
                "Try again later, or follow another engine process.",
            )

    @contextlib.asynccontextmanager
    async def client(self, kinds: frozenset[str]) -> AsyncIterator[Client]:
        """Follow all changes after the hub's position; raises TooManyStreams."""
        self.require_room()
        client = Client(kinds)
        self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.discard(client)

    async def run(self) -> None:
        """Follow the inventory until cancelled."""
        backoff = Backoff(max_s=2.0)
        await self.reads.feed.known.wait()
        self.position = self.reads.feed.position
        self.ready.set()
        while True:
            await self.reads.feed.wait(self.position + 1, LOOK_INTERVAL_S)
            try:
                await self._look()
            except Problem as problem:
                logger.warning("changes cannot be read", error=problem.detail)
                await backoff.wait()
            else:
                backoff.reset()

    async def _look(self) -> None:
        now = self.reads.feed.position
        if now < self.position:
            # The inventory was begun anew from another log: who follows must begin anew as well.
            for client in self._clients:
                client.cut = True
            self.position = now
        # All kinds, not only those wanted now: who joins during the query may want others.
        while self._clients and self.position < now:
            found = await changes(self.reads, KINDS, self.position, now)
            # Clients that want the same share the bytes: what waits for the slow is there once.
            chunks: dict[frozenset[str], bytes] = {}
            for client in self._clients:
                if client.kinds not in chunks:
                    chunks[client.kinds] = chunk(found, client.kinds)
                if chunks[client.kinds]:
                    client.offer(chunks[client.kinds])
            if not found:
                break
            self.position = found[-1].position
        self.position = now


class EventStream(Response):
    """The answer: what the client missed, then what happens, until it leaves or falls behind."""

    def __init__(self, hub: Hub, kinds: frozenset[str], after: int | None) -> None:
        super().__init__(
            media_type=MEDIA_TYPE,
            headers={"Cache-Control": "no-store", POSITION_HEADER: str(hub.position)},
        )
        del self.headers["content-length"]
        self._hub = hub
        self._kinds = kinds
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the client leaves, is cut off, or the server stops."""
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        try:
            async with self._hub.client(self._kinds) as client:
                joined = self._hub.position
                await _send(send, b"retry: %d\n\n" % RETRY_MS)
                async for data in self._missed(joined):
                    await _send(send, data)
                position = joined
                await _send(send, place(position))
                while not client.cut:
                    data = await client.take(self._hub.heartbeat_s)
                    # The hub's place is a client's own only once its queue is empty.
                    await _send(send, data or place(self._hub.position))
        except (Problem, TimeoutError, OSError) as error:
            logger.info("a follower of changes is cut off", error=str(error))

    async def _missed(self, until: int) -> AsyncIterator[bytes]:
        after = until if self._after is None else self._after
        if after > until:
            # It follows another log than this one, or the future: what it knows counts no more.
            yield b'event: reset\ndata: {"position":%d}\n\n' % until
            return
        while after < until:
            found = await changes(self._hub.reads, self._kinds, after, until)
            if not found:
                return
            yield chunk(found, self._kinds)
            after = found[-1].position


async def _send(send: Send, data: bytes) -> None:
    """Send by pieces: the connection buffers the one at hand, however slow the client is."""
    async with asyncio.timeout(SEND_TIMEOUT_S):
        for first in range(0, len(data), PIECE_BYTES):
            piece = data[first : first + PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _parse_position(given: str, name: str) -> int:
    if given.isascii() and given.isdigit() and int(given[:20]) <= POSITION_MAX:
        return int(given[:20])
    raise InvalidParameter(
        f"{given[:100]!r} is no position for {name}.",
        f"Give the id of the last message, or the number from a {POSITION_HEADER} header.",
    )


async def answer_stream(hub: Hub, request: Request) -> Response:
    """Answer the stream of changes; what comes before `after` or Last-Event-ID is left out."""
    check_parameters(request.query_params, ("after", "kinds"))
    asked = request.query_params.get("kinds")
    kinds = frozenset(asked.split(",")) if asked is not None else frozenset(KINDS)
    unknown = sorted(kinds - set(KINDS))
    if unknown:
        raise InvalidParameter(
            f"{unknown[0][:100]!r} is no kind.", f"Kinds are: {', '.join(KINDS)}."
        )
    after: int | None = None
    # A browser that comes back sends the header; the parameter is where it began.
    for given, name in (
        (request.headers.get("Last-Event-ID"), "Last-Event-ID"),
        (request.query_params.get("after"), "after"),
    ):
        if given is not None and after is None:
            after = _parse_position(given, name)
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await hub.ready.wait()
    except TimeoutError:
        raise building() from None
    hub.require_room()
    return EventStream(hub, kinds, after)
