"""Health and metrics of the agent's process over HTTP, on loopback or a Unix socket only."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

from hostagent.fleet import Fleet

HEAD_BYTES_MAX = 8 * 1024
READ_TIMEOUT_S = 5.0
HOSTS_SHOWN_MAX = 100

_log = structlog.get_logger(__name__)


class BadStatusAddressError(ValueError):
    """The address for health and metrics is not one that only this machine can reach."""


@contextlib.asynccontextmanager
async def serve_status(fleet: Fleet, address: str | None) -> AsyncIterator[str | None]:
    """Serve `GET /health` and `GET /metrics` of a fleet; yields the address in use.

    `address` is a path for a Unix socket, or "127.0.0.1:PORT"; nothing is served for None.
    """
    if address is None:
        yield None
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _answer(fleet, reader, writer)

    if "/" in address:
        server = await asyncio.start_unix_server(
            answer, sock=_unix_socket(Path(address)), limit=HEAD_BYTES_MAX
        )
        used = address
    else:
        host, _, port = address.rpartition(":")
        _require_loopback(host)
        server = await asyncio.start_server(answer, host, int(port), limit=HEAD_BYTES_MAX)
        used = f"{host}:{server.sockets[0].getsockname()[1]}"
    _log.info("status served", address=used)
    try:
        yield used
    finally:
        server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READ_TIMEOUT_S):
                await server.wait_closed()


def health_document(fleet: Fleet) -> dict[str, Any]:
    """Return the health of a fleet; of many hosts the first that are not well are named."""
    hosts = fleet.health()
    well = [host for host in hosts if host.connected and host.hypervisor_known]
    shown = sorted(hosts, key=lambda host: (host.connected and host.hypervisor_known, host.name))
    return {
        "status": "ok" if len(well) == len(hosts) else "degraded",
        "hosts": len(hosts),
        "hosts_ok": len(well),
        "domains": sum(host.domains for host in hosts),
        "named": shown[:HOSTS_SHOWN_MAX],
    }


def _unix_socket(path: Path) -> socket.socket:
    """Return a socket at `path` that only this user may open, instead of an old one there."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(str(path))
        path.chmod(0o600)
    except OSError:
        listening.close()
        raise
    return listening


def _require_loopback(host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadStatusAddressError(f"{host!r} is not a loopback address")


async def _answer(fleet: Fleet, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_response(fleet, head.split(b"\r\n", 1)[0]))
            await writer.drain()
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # whoever asked went away or asked nonsense
    finally:
        writer.close()


def _response(fleet: Fleet, request_line: bytes) -> bytes:
    method, _, rest = request_line.partition(b" ")
    path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
    kind, status = b"application/json", b"200 OK"
    if method != b"GET":
        status, body = b"405 Method Not Allowed", b'{"title":"only GET"}'
    elif path in {b"/health", b"/v1/health"}:
        body = msgspec.json.encode(health_document(fleet))
    elif path == b"/metrics":
        kind, body = b"text/plain; version=0.0.4; charset=utf-8", fleet.measure()
    else:
        status, body = b"404 Not Found", b'{"title":"only /health and /metrics"}'
    return (
        b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        % (status, kind, len(body))
    ) + body
