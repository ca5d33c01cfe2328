"""The line between two agents by which a VM moves: mutual TLS, a ticket, channels and a word.

Each channel is one TLS connection to the destination's agent, which begins with a line of JSON
(ticket, channel) that is answered by "ok". A ticket is good for one connection of each channel.
What a channel carries is the drivers' matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from events.types.job import Job, Sending
from events.wire.agent import IntentVm
from hostagent.driver import RefusedMessageError

HOST_URI_PREFIX = "chronovisor:host:"
HEADER_TIMEOUT_S = 10.0
EXPECTED_LOOKS_MAX = 20
EXPECTED_LOOK_S = 0.1
CONNECT_TIMEOUT_S = 10.0
LINE_BYTES_MAX = 1024
CHUNK_BYTES = 1 << 16
SILENCE_S, SILENCE_PROBE_S = 15, 5
CONNECTIONS_MAX = 64
TICKETS_KEPT_MAX = 1_000
LANDED = "landed"
OK = b"ok\n"

_log = structlog.get_logger(__name__)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[str], Awaitable[Streams]]
"""Opens a channel to the destination; raises OSError, TimeoutError or RefusedMessageError."""


class Opening(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a connection."""

    ticket: str
    channel: str


Accept = Callable[[str, Streams], Awaitable[None]]
"""Serves a connection of the host with this id ("" if it did not show one), until it ends."""


class Line(Protocol):
    """How a host reaches others, and is reached."""

    @property
    def address(self) -> str:
        """Where others reach it, as they are told."""
        ...

    async def listen(self, accept: Accept) -> None:
        """Take connections until cancelled; raises OSError."""
        ...

    async def connect(self, order: Sending) -> Streams:
        """Connect to the destination and no other host; raises OSError, TimeoutError or
        RefusedMessageError.
        """
        ...


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A host's files for TLS, which may be renewed at any time."""

    certificate: Path
    key: Path
    trust: Path

    def server_context(self) -> ssl.SSLContext:
        """Return the settings of the taking side: who comes must show a host's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._settle(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return the settings of the sending side; the name is checked by `peer_host`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        self._settle(context)
        return context

    def _settle(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cafile=self.trust)
        context.load_cert_chain(self.certificate, self.key)


def peer_host(writer: asyncio.StreamWriter) -> str:
    """Return the id of the host at the other end, "" if its certificate names none."""
    certificate = writer.get_extra_info("peercert") or {}
    names = [
        value.removeprefix(HOST_URI_PREFIX)
        for kind, value in certificate.get("subjectAltName", ())
        if kind == "URI" and value.startswith(HOST_URI_PREFIX)
    ]
    return names[0] if len(names) == 1 else ""


async def connect_tls(files: TlsFiles, order: Sending) -> Streams:
    """Connect to the destination's agent, and make sure that it is that host's.

    The name that is sent along lets an agent that stands for many hosts show the right certificate.
    """
    host, _, port = order.address.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host.strip("[]"),
        int(port),
        ssl=files.client_context(),
        server_hostname=order.destination,
        limit=CHUNK_BYTES,
    )
    notice_silence(writer)
    if peer_host(writer) != order.destination:
        writer.close()
        raise RefusedMessageError("another host answers at the destination's address")
    return reader, writer


def notice_silence(writer: asyncio.StreamWriter) -> None:
    """Have a connection break soon after the other host fell silent: a cut line says nothing."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is None or connection.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SILENCE_S // SILENCE_PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1_000 * SILENCE_S)


class TlsLine:
    """The line of a host that has an address of its own: ADDRESS:PORT."""

    def __init__(self, address: str, files: TlsFiles) -> None:
        self.address = address
        self._files = files

    async def listen(self, accept: Accept) -> None:
        """Listen until cancelled."""
        host, _, port = self.address.rpartition(":")
        server = await asyncio.start_server(
            lambda reader, writer: serve(accept, reader, writer),
            host.strip("[]"),
            int(port),
            ssl=self._files.server_context(),
            limit=CHUNK_BYTES,
        )
        _log.info("taking VMs in", address=self.address)
        async with server:
            await server.serve_forever()

    async def connect(self, order: Sending) -> Streams:
        """Connect to the destination."""
        return await connect_tls(self._files, order)


async def serve(accept: Accept, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection, whatever comes over it, and close it."""
    notice_silence(writer)
    try:
        await accept(peer_host(writer), (reader, writer))
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        _log.warning("a migration's connection ended", error=repr(error))
    except RefusedMessageError as error:
        _log.error("a migration was refused", source=peer_host(writer), reason=str(error))
    finally:
        writer.close()


async def dial(line: Line, order: Sending, channel: str) -> Streams:
    """Open a channel to the destination; raises OSError, TimeoutError or RefusedMessageError."""
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        streams = await line.connect(order)
        try:
            await _introduce(streams, Opening(ticket=order.ticket, channel=channel))
        except BaseException:
            streams[1].close()
            raise
    return streams


async def _introduce(streams: Streams, opening: Opening) -> None:
    reader, writer = streams
    writer.write(msgspec.json.encode(opening) + b"\n")
    if await reader.readuntil(b"\n") != OK:
        raise RefusedMessageError("the destination's agent makes no sense")


class Receiver:
    """Lets in what is expected. `expected` finds who that is by a ticket's SHA-256; `prepare` is
    awaited before the channel that opens a migration, `take_in` serves each channel, `landed` is
    awaited when the source says that it has nothing of the VM any more.

    A ticket is good for one connection of each channel. One of the `recovering_channel` ("" if
    there is none), of which there may be many, ends those and makes it good for one more of each:
    after post-copy broke off, the same source goes on with the same VM.
    """

    def __init__(
        self,
        channels: frozenset[str],
        opening_channel: str,
        recovering_channel: str = "",
        *,
        expected: Callable[[str], IntentVm | None],
        prepare: Callable[[IntentVm], Awaitable[None]],
        take_in: Callable[[str, IntentVm, Streams], Awaitable[None]],
        landed: Callable[[IntentVm], Awaitable[None]],
    ) -> None:
        self._channels = channels | {LANDED}
        self._opening_channel = opening_channel
        self._recovering_channel = recovering_channel
        self._expected = expected
        self._prepare = prepare
        self._take_in = take_in
        self._landed = landed
        self._used: dict[tuple[str, str], None] = {}
        self._served: dict[str, set[asyncio.Task[None]]] = {}
        self._open = 0

    async def accept(self, source: str, streams: Streams) -> None:
        """Serve a connection from the host `source`; raises RefusedMessageError and others."""
        if self._open >= CONNECTIONS_MAX:
            raise RefusedMessageError("too many connections at once")
        self._open += 1
        try:
            await self._serve(source, streams)
        finally:
            self._open -= 1

    async def _serve(self, source: str, streams: Streams) -> None:
        reader, writer = streams
        async with asyncio.timeout(HEADER_TIMEOUT_S):
            line = await reader.readuntil(b"\n")
        opening = msgspec.json.decode(line[:LINE_BYTES_MAX], type=Opening)
        digest = hashlib.sha256(opening.ticket.encode()).hexdigest()
        item = await self._found(digest)
        if item is None or item.receiving is None or item.receiving.source != source:
            raise RefusedMessageError("nobody is expected with this ticket from this host")
        if opening.channel and opening.channel == self._recovering_channel:
            await self._begin_again(digest)
        if opening.channel not in self._channels or (digest, opening.channel) in self._used:
            raise RefusedMessageError(f"the ticket was used already for {opening.channel!r}")
        self._used[digest, opening.channel] = None
        while len(self._used) > TICKETS_KEPT_MAX:
            self._used.pop(next(iter(self._used)))
        if opening.channel == LANDED:
            await self._landed(item)
            writer.write(OK)
            await writer.drain()
            return
        with self._noted(digest):
            if opening.channel == self._opening_channel:
                await self._prepare(item)
            await self._take_in(opening.channel, item, streams)

    async def _found(self, digest: str) -> IntentVm | None:
        """Return who is expected; the source may have heard of it sooner, from another engine."""
        for _look in range(EXPECTED_LOOKS_MAX):
            item = self._expected(digest)
            if item is not None:
                return item
            await asyncio.sleep(EXPECTED_LOOK_S)
        return self._expected(digest)

    @contextlib.contextmanager
    def _noted(self, digest: str) -> Iterator[None]:
        """Know who serves the connections of a ticket."""
        serving = self._served.setdefault(digest, set())
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it is awaited by one
        serving.add(task)
        try:
            yield
        finally:
            serving.discard(task)
            if not serving and self._served.get(digest) is serving:
                del self._served[digest]

    async def _begin_again(self, digest: str) -> None:
        """End all connections of a ticket, and let it be used once more."""
        serving = self._served.pop(digest, set())
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for used in [used for used in self._used if used[0] == digest]:
            del self._used[used]


def migration_of(job: Job) -> str:
    """Return the id of the migration that a job belongs to."""
    return job.id.partition("/")[0]
