"""How connections are taken up: few TLS handshakes at a time, and those to their end.

asyncio begins the handshake of every connection as it comes. If thousands of agents come back at
once, each handshake gets its share of the processor and all end after their clients gave up, who
then begin anew: nobody is served, for ever. Here a connection waits for a place as soon as its
client has said something, and one whose client has gone, or will have gone before we are done,
costs nothing.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)
HANDSHAKE_TIMEOUT_S = 10.0
"""From a connection's acceptance until its handshake ends, and so also until its first byte."""
HANDSHAKES_AT_ONCE_MAX = 32
PLACE_KEPT_S = 1.0
"""A client that leaves us waiting in the midst of its handshake loses its place, not its
connection: places go to those who answer."""
WAIT_S_MAX = HANDSHAKE_TIMEOUT_S / 2
"""Whoever waited for so long would see its own time-out end before the handshake does."""
NO_ROOM_PAUSE_S = 0.5
BACKLOG = 2048
# A host that lost its power says nothing: the kernel asks, and gives up after about a minute.
KEEP_ALIVE_IDLE_S, KEEP_ALIVE_INTERVAL_S, KEEP_ALIVE_PROBES = 30, 10, 3
UNACKNOWLEDGED_TIMEOUT_MS = 60_000
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_TCP_ESTABLISHED = 1  # of Linux's include/net/tcp_states.h


class PortInUse(Exception):
    """Another process listens on this address already."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; `port` 0 takes any free one. PortInUse names the port."""
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit these from the listening socket.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, KEEP_ALIVE_IDLE_S),
            (socket.TCP_KEEPINTVL, KEEP_ALIVE_INTERVAL_S),
            (socket.TCP_KEEPCNT, KEEP_ALIVE_PROBES),
            (socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_TIMEOUT_MS),
        ):
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} of {host} is in use by another process") from error
        raise
    listener.setblocking(False)  # noqa: FBT003  its only argument
    return listener


class Reception:
    """Takes up the connections of a listening socket until it is cancelled."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        protocol: Callable[[], asyncio.Protocol],
        *,
        waiting_max: int,
        at_once_max: int = HANDSHAKES_AT_ONCE_MAX,
    ) -> None:
        self._listener = listener
        self._context = context
        self._protocol = protocol
        self._waiting_max = waiting_max
        self._places = asyncio.Semaphore(at_once_max)
        self._waiting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Accept for ever; when cancelled, whoever was not taken up yet is let go."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    if error.errno in _NO_ROOM:
                        log.warning("no connection can be accepted", reason=str(error))
                        await asyncio.sleep(NO_ROOM_PAUSE_S)
                    continue  # else this one connection was given up while it waited
                if len(self._waiting) >= self._waiting_max:
                    connection.close()
                    continue
                task = asyncio.create_task(self._take_up(connection))
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)
        finally:
            for task in self._waiting:
                task.cancel()

    async def _take_up(self, connection: socket.socket) -> None:
        """Bring one connection to its protocol, or close it."""
        loop = asyncio.get_running_loop()
        connection.setblocking(False)  # noqa: FBT003  its only argument
        try:
            if self._context is None:
                await loop.connect_accepted_socket(self._protocol, connection)
            else:
                await self._shake_hands(connection, self._context)
        except (OSError, TimeoutError) as error:  # an SSLError is an OSError too
            log.debug("a connection came to nothing", reason=str(error) or repr(error))
        except Exception:
            log.exception("a connection could not be taken up")

    async def _shake_hands(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        came = loop.time()
        ours = True
        """Later the transport closes it, which may have to send something before."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                await _readable(connection)
            heard = loop.time()
            async with self._places:
                if loop.time() - heard > WAIT_S_MAX or not _is_open(connection):
                    return
                ours = False
                left_s = max(1.0, HANDSHAKE_TIMEOUT_S - (heard - came))
                handshake = asyncio.ensure_future(
                    loop.connect_accepted_socket(
                        self._protocol, connection, ssl=context, ssl_handshake_timeout=left_s
                    )
                )
                await asyncio.wait({handshake}, timeout=PLACE_KEPT_S)
            await handshake
        finally:
            if ours:
                connection.close()


async def _readable(connection: socket.socket) -> None:
    """Wait until the client has said something, or has gone."""
    loop = asyncio.get_running_loop()
    heard = loop.create_future()
    descriptor = connection.fileno()
    loop.add_reader(descriptor, lambda: None if heard.done() else heard.set_result(None))
    try:
        await heard
    finally:
        loop.remove_reader(descriptor)


def _is_open(connection: socket.socket) -> bool:
    """Tell whether the client is still there; the first byte of TCP_INFO is the state."""
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] == _TCP_ESTABLISHED
