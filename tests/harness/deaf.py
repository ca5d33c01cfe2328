"""Clients that ask over TLS and do not read the answer, nor do their kernels for them."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable

RECEIVED_BYTES_MAX = 4096
SEGMENT_BYTES = 536
"""The least there is: of a peer with small segments the sender's kernel keeps less, too."""
TIMEOUT_S = 15.0


class Deaf:
    """Such clients, each with a connection of its own."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self._host, self._port, self._context = host, port, context
        self._sockets: list[ssl.SSLSocket] = []

    def join(self, count: int) -> None:
        """Make so many connections."""
        for _ in range(count):
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_BYTES_MAX)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
            plain.settimeout(TIMEOUT_S)
            plain.connect((self._host, self._port))
            self._sockets.append(self._context.wrap_socket(plain, server_hostname=self._host))

    def ask(self, request: bytes) -> None:
        """Have each send this; one that is cut off or finds no room says no more."""
        for one in self._sockets:
            try:
                one.sendall(request)
            except OSError:
                continue

    def left(self) -> int:
        """Return how many connections were not reset."""
        poll = select.poll()
        for one in self._sockets:
            poll.register(one.fileno(), 0)
        return len(self._sockets) - len(poll.poll(0))

    def await_cut(self, within_s: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until all are cut off."""
        ends_at = time.monotonic() + within_s
        while left := self.left():
            assert time.monotonic() < ends_at, f"{left} are not cut off"
            meanwhile()
            time.sleep(0.1)

    def close(self) -> None:
        """Close what is left."""
        for one in self._sockets:
            one.close()
