"""The line between two agents by which a VM moves: mutual TLS, a ticket, two channels and a word.

The source's libvirtd and QEMU connect to Unix sockets that its agent makes; each connection becomes
one TLS connection to the destination's agent, which begins with a line of JSON (ticket, channel)
and goes on to the destination's libvirtd or QEMU. libvirtd listens on no network. A ticket is good
for one connection of each channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pwd
import shutil
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from events.types.job import Sending
from events.types.run_spec import RunSpec
from events.wire.agent import IntentVm
from hostagent.migration_rpc import (
    HEADER_BYTES,
    MESSAGE_BYTES_MAX,
    RefusedMessageError,
    check,
)

HOST_URI_PREFIX = "chronovisor:host:"
HEADER_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 10.0
LINGER_S = 1.0
LINE_BYTES_MAX = 1024
CHUNK_BYTES = 1 << 16
CONNECTIONS_MAX = 64
TICKETS_KEPT_MAX = 1_000
QEMU_USERS = ("libvirt-qemu", "qemu")
LIBVIRT, QEMU, LANDED = "libvirt", "qemu", "landed"

_log = structlog.get_logger(__name__)


class Opening(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a connection."""

    ticket: str
    channel: str


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where the host's sockets are: libvirtd's own, and the folder of those for migrations."""

    libvirtd: Path = Path("/run/libvirt/libvirt-sock")
    folder: Path = Path("/run/libvirt/chronovisor")

    def of(self, migration: str) -> Path:
        """Return the folder of one migration."""
        return self.folder / migration

    def make(self, migration: str) -> Path:
        """Make that folder, in which QEMU may make its socket; raises OSError."""
        folder = self.of(migration)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o711)
        for user in QEMU_USERS:
            with contextlib.suppress(KeyError, PermissionError):
                os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        return folder

    def remove(self, migration: str) -> None:
        """Remove what is left of one migration."""
        shutil.rmtree(self.of(migration), ignore_errors=True)


def server_context(certificate: Path, key: Path, trust: Path) -> ssl.SSLContext:
    """Return the TLS settings of the taking side: who comes must show a host's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _settle(context, certificate, key, trust)
    return context


def client_context(certificate: Path, key: Path, trust: Path) -> ssl.SSLContext:
    """Return the TLS settings of the sending side; the name is checked by `peer_host`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _settle(context, certificate, key, trust)
    return context


def _settle(context: ssl.SSLContext, certificate: Path, key: Path, trust: Path) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cafile=trust)
    context.load_cert_chain(certificate, key)


def peer_host(writer: asyncio.StreamWriter) -> str:
    """Return the id of the host at the other end, "" if its certificate names none."""
    certificate = writer.get_extra_info("peercert") or {}
    names = [
        value.removeprefix(HOST_URI_PREFIX)
        for kind, value in certificate.get("subjectAltName", ())
        if kind == "URI" and value.startswith(HOST_URI_PREFIX)
    ]
    return names[0] if len(names) == 1 else ""


class Receiver:
    """Takes VMs in. `expected` finds who is expected by a ticket's SHA-256; `prepare` is awaited
    before libvirtd hears of it, `landed` when the source says that it has nothing of it any more.
    """

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        places: Places,
        storage_folder: Path,
        *,
        expected: Callable[[str], IntentVm | None],
        prepare: Callable[[IntentVm], Awaitable[None]],
        landed: Callable[[IntentVm], Awaitable[None]],
    ) -> None:
        self._context = context
        self._places = places
        self._storage_folder = str(storage_folder)
        self._expected = expected
        self._prepare = prepare
        self._landed = landed
        self._used: dict[tuple[str, str], None] = {}
        self._open = 0

    async def run(self, address: str) -> None:
        """Listen at ADDRESS:PORT until cancelled."""
        host, _, port = address.rpartition(":")
        server = await asyncio.start_server(
            self._accept, host.strip("[]"), int(port), ssl=self._context(), limit=CHUNK_BYTES
        )
        _log.info("taking VMs in", address=address)
        async with server:
            await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            _log.warning("a migration's connection ended", error=repr(error))
        except RefusedMessageError as error:
            _log.error("a migration was refused", source=peer_host(writer), reason=str(error))
        finally:
            self._open -= 1
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEADER_TIMEOUT_S):
            line = await reader.readuntil(b"\n")
        opening = msgspec.json.decode(line[:LINE_BYTES_MAX], type=Opening)
        digest = hashlib.sha256(opening.ticket.encode()).hexdigest()
        item = self._expected(digest)
        if item is None or item.receiving is None or item.receiving.source != peer_host(writer):
            raise RefusedMessageError("nobody is expected with this ticket from this host")
        if (
            opening.channel not in {LIBVIRT, QEMU, LANDED}
            or (digest, opening.channel) in self._used
        ):
            raise RefusedMessageError(f"the ticket was used already for {opening.channel!r}")
        self._used[digest, opening.channel] = None
        while len(self._used) > TICKETS_KEPT_MAX:
            self._used.pop(next(iter(self._used)))
        if opening.channel == LANDED:
            await self._landed(item)
            writer.write(b"ok\n")
            await writer.drain()
            return
        target = self._places.libvirtd
        if opening.channel == QEMU:
            target = self._places.of(item.receiving.migration) / "qemu.sock"
        else:
            await self._prepare(item)
        inner_reader, inner_writer = await _connect_unix(target)
        writer.write(b"ok\n")
        checked = item.spec if opening.channel == LIBVIRT else None
        await _pump_both(
            (reader, writer), (inner_reader, inner_writer), checked, self._storage_folder
        )


@contextlib.asynccontextmanager
async def sending(
    context: ssl.SSLContext, places: Places, migration: str, order: Sending
) -> AsyncIterator[Path]:
    """Make the source's two sockets for a migration; yields their folder."""

    async def forward(
        channel: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            outer = await dial(context, order, channel)
            await _pump_both((reader, writer), outer, None, "")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, RefusedMessageError) as error:
            _log.warning("no line to the destination", channel=channel, error=repr(error))
        finally:
            writer.close()

    folder = await asyncio.to_thread(places.make, migration)
    servers = []
    try:
        for channel in (LIBVIRT, QEMU):
            path = folder / f"{channel}.sock"
            path.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(
                lambda r, w, channel=channel: forward(channel, r, w),  # type: ignore[misc]
                path,
                limit=CHUNK_BYTES,
            )
            path.chmod(0o666)  # QEMU's user connects; the folder lets nobody else pass
            servers.append(server)
        yield folder
    finally:
        for server in servers:
            server.close()
        await asyncio.to_thread(places.remove, migration)


async def dial(
    context: ssl.SSLContext, order: Sending, channel: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a channel to the destination; raises OSError, TimeoutError or RefusedMessageError."""
    host, _, port = order.address.rpartition(":")
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(
            host.strip("[]"), int(port), ssl=context, limit=CHUNK_BYTES
        )
        try:
            await _introduce(reader, writer, order, channel)
        except BaseException:
            writer.close()
            raise
    return reader, writer


async def _introduce(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, order: Sending, channel: str
) -> None:
    if peer_host(writer) != order.destination:
        raise RefusedMessageError("another host answers at the destination's address")
    opening = Opening(ticket=order.ticket, channel=channel)
    writer.write(msgspec.json.encode(opening) + b"\n")
    if await reader.readuntil(b"\n") != b"ok\n":
        raise RefusedMessageError("the destination's agent makes no sense")


async def _connect_unix(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a socket that its server may be about to make."""
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        while True:
            try:
                return await asyncio.open_unix_connection(path, limit=CHUNK_BYTES)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.02)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _pump_both(
    outer: Streams, inner: Streams, checked: RunSpec | None, storage_folder: str
) -> None:
    """Carry bytes both ways until either end closes; `checked` messages come from the outer."""
    inward = (
        _pump(outer[0], inner[1])
        if checked is None
        else _pump_messages(outer[0], inner[1], checked, storage_folder)
    )
    tasks = [asyncio.ensure_future(inward), asyncio.ensure_future(_pump(inner[0], outer[1]))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1] not in done:
            # What the other side still has to say comes through; it ends by itself.
            await asyncio.wait(tasks, timeout=LINGER_S)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        inner[1].close()
        outer[1].close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _pump_messages(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, spec: RunSpec, storage_folder: str
) -> None:
    """Carry whole libvirt messages (a length that counts itself comes first), each checked."""
    while True:
        try:
            head = await reader.readexactly(4)
        except asyncio.IncompleteReadError:
            break
        (size,) = struct.unpack(">I", head)
        if not HEADER_BYTES <= size <= MESSAGE_BYTES_MAX:
            raise RefusedMessageError(f"a message of {size} bytes")
        message = head + await reader.readexactly(size - 4)
        check(message, spec, storage_folder)
        writer.write(message)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
