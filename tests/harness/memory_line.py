"""A network in memory between agents that move VMs: no sockets, and lines that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from events.types.job import Sending
from hostagent.driver import RefusedMessageError
from hostagent.migration_line import CHUNK_BYTES, Accept, Streams


class _End(asyncio.Transport):
    """One end of a connection: what is written here is read there."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = asyncio.StreamReader(limit=CHUNK_BYTES)
        self.protocol = asyncio.StreamReaderProtocol(self.reader)
        self.writer = asyncio.StreamWriter(
            self, self.protocol, self.reader, asyncio.get_running_loop()
        )
        self.other: _End | None = None
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Let the other end read this."""
        if self.other is not None and not self._closing and not self.other.is_closing():
            self.other.reader.feed_data(bytes(data))

    def is_closing(self) -> bool:
        """Whether this end was closed."""
        return self._closing

    def close(self) -> None:
        """Close this end; the other one reads to the end, and cannot write any more."""
        self.lose(None)

    def lose(self, error: Exception | None) -> None:
        """Let the connection be over at both ends."""
        for end in (self, self.other):
            if end is not None and not end._closing:
                end._closing = end is self or error is not None
                if error is None:
                    end.reader.feed_eof()
                else:
                    end.reader.set_exception(error)
                end.protocol.connection_lost(error)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Know nothing."""
        del name
        return default


Start = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]


def _start(_host: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.ensure_future(work)


class MemoryNetwork:
    """All hosts that can reach one another, by id; `cut` names those that nobody reaches.

    `start` starts what serves a host's connection (a simulation has a process for each host).
    """

    def __init__(self, start: Start | None = None) -> None:
        self._start = start or _start
        self.cut: set[str] = set()
        self._hosts: dict[str, Accept] = {}
        self._open: list[tuple[str, str, _End]] = []
        self._serving: set[asyncio.Task[None]] = set()

    def line(self, host: str) -> MemoryLine:
        """Return a host's line."""
        return MemoryLine(self, host)

    def break_lines(self, host: str) -> None:
        """Break all connections from and to a host."""
        for one, other, end in self._open:
            if host in {one, other}:
                end.lose(ConnectionResetError("the line was cut"))
        self._open = [entry for entry in self._open if not entry[2].is_closing()]

    def serve(self, host: str, accept: Accept) -> None:
        """Take connections for a host from now on."""
        self._hosts[host] = accept

    async def listen(self, host: str, accept: Accept) -> None:
        """Take connections for a host until cancelled."""
        self.serve(host, accept)
        try:
            await asyncio.Event().wait()
        finally:
            if self._hosts.get(host) == accept:
                del self._hosts[host]
                self.break_lines(host)

    def connect(self, source: str, order: Sending) -> Streams:
        """Connect two hosts."""
        accept = self._hosts.get(order.destination)
        if accept is None or self.cut & {source, order.destination}:
            raise ConnectionRefusedError("nobody answers")
        here, there = _End(), _End()
        here.other, there.other = there, here
        self._open.append((source, order.destination, here))
        task = self._start(order.destination, _serve(accept, source, there))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        return here.reader, here.writer


class MemoryLine:
    """One host's line."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self.address = f"memory:{host}"
        self._network = network
        self._host = host

    async def listen(self, accept: Accept) -> None:
        """Take connections until cancelled."""
        await self._network.listen(self._host, accept)

    async def connect(self, order: Sending) -> Streams:
        """Connect to the destination."""
        return self._network.connect(self._host, order)


async def _serve(accept: Accept, source: str, end: _End) -> None:
    try:
        await accept(source, (end.reader, end.writer))
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, RefusedMessageError):
        pass
    finally:
        end.close()
