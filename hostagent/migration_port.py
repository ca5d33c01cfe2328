"""One port for all hosts of a process: who connects names the host, which shows its certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec
import structlog

from events.types.job import Sending
from hostagent.driver import RefusedMessageError
from hostagent.files import read_bounded, write_atomically
from hostagent.migration_line import (
    CHUNK_BYTES,
    Accept,
    Streams,
    TlsFiles,
    connect_tls,
    serve,
)

PORT_NAME = "migration-port"
LISTEN_ON = "127.0.0.1"

_log = structlog.get_logger(__name__)


class _Served(msgspec.Struct, frozen=True, kw_only=True):
    files: TlsFiles
    accept: Accept


class SharedPort:
    """The port; the number is kept in a file, so that it is the same after a restart if it can."""

    def __init__(self, number_file: Path) -> None:
        self.address = ""
        self._number_file = number_file
        self._hosts: dict[str, _Served] = {}
        self._named: WeakKeyDictionary[ssl.SSLObject, str] = WeakKeyDictionary()
        self._server: asyncio.Server | None = None

    async def open(self, trust: Path) -> None:
        """Bind the port; raises OSError. `trust` has the authority of all hosts."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cafile=trust)
        context.sni_callback = self._choose
        kept = self._kept()
        try:
            self._server = await self._bind(context, kept)
        except OSError:
            self._server = await self._bind(context, 0)
        number = self._server.sockets[0].getsockname()[1]
        if number != kept:
            write_atomically(self._number_file, f"{number}\n".encode(), durable=False)
        self.address = f"{LISTEN_ON}:{number}"

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._server is None:
            raise RuntimeError("the port is not open")
        async with self._server:
            await self._server.serve_forever()

    def line(self, host: str, files: TlsFiles) -> PortLine:
        """Return a host's line."""
        return PortLine(self, host, files)

    async def listen(self, host: str, files: TlsFiles, accept: Accept) -> None:
        """Take connections for a host until cancelled."""
        served = _Served(files=files, accept=accept)
        self._hosts[host] = served
        try:
            await asyncio.Event().wait()
        finally:
            if self._hosts.get(host) is served:
                del self._hosts[host]

    async def _bind(self, context: ssl.SSLContext, number: int) -> asyncio.Server:
        return await asyncio.start_server(
            lambda reader, writer: serve(self._accept, reader, writer),
            LISTEN_ON,
            number,
            ssl=context,
            limit=CHUNK_BYTES,
        )

    async def _accept(self, source: str, streams: Streams) -> None:
        named = self._named.get(streams[1].get_extra_info("ssl_object"), "")
        served = self._hosts.get(named)
        if served is None:
            raise RefusedMessageError("that host is not here any more")
        await served.accept(source, streams)

    def _choose(self, tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        """Show the certificate of the host that is asked for."""
        served = self._hosts.get(name or "")
        if served is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        self._named[tls] = name or ""
        tls.context = served.files.server_context()
        return None

    def _kept(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            number = int(read_bounded(self._number_file))
            return number if 0 < number < 1 << 16 else 0
        return 0


class PortLine:
    """One host's line by the shared port."""

    def __init__(self, port: SharedPort, host: str, files: TlsFiles) -> None:
        self._port = port
        self._host = host
        self._files = files

    @property
    def address(self) -> str:
        """Where others reach the port."""
        return self._port.address

    async def listen(self, accept: Accept) -> None:
        """Take connections until cancelled."""
        await self._port.listen(self._host, self._files, accept)

    async def connect(self, order: Sending) -> Streams:
        """Connect to the destination."""
        return await connect_tls(self._files, order)
