"""Connections that come all at once, say nothing, stop in the midst or have gone."""

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from access.certificates import CertificateAuthority
from access.trust import ensure_server_files
from commands.gateway import reception
from commands.gateway.reception import Reception, bind

pytestmark = pytest.mark.integration
PLACES = 4


class Greeter(asyncio.Protocol):
    """Says a word to whoever came through the handshake."""

    begun = 0
    met = 0

    def __init__(self) -> None:
        type(self).begun += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).met += 1
        stream = cast("asyncio.WriteTransport", transport)  # which uvloop's is not by its type
        stream.write(b"welcome")
        stream.close()


class Site:
    """A port that is served, and what a client needs."""

    def __init__(self, port: int, client: ssl.SSLContext) -> None:
        self.address = ("127.0.0.1", port)
        self.client = client
        self.protocol = Greeter

    async def talk(self) -> bytes:
        reader, writer = await asyncio.open_connection(*self.address, ssl=self.client)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def begin(self, *, beginning: int | None = None) -> socket.socket:
        """Connect and send a ClientHello, or so many bytes of it; then be silent."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.client.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        connection = socket.create_connection(self.address)
        connection.sendall(outgoing.read()[:beginning])
        return connection


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    now = dt.datetime.now(dt.UTC)
    CertificateAuthority.create(tmp_path / "ca", now)
    files = ensure_server_files(
        tmp_path / "ca", tmp_path / "tls", "engine", ["x"], ["127.0.0.1"], now
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    listener = bind("127.0.0.1", 0)
    site = Site(listener.getsockname()[1], ssl.create_default_context(cafile=str(files.trust)))

    class Counted(Greeter):
        begun = met = 0

    site.protocol = Counted
    served = Reception(listener, context, site.protocol, waiting_max=1000, at_once_max=PLACES)
    task = asyncio.create_task(served.run())
    yield site
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    listener.close()


async def test_many_at_once_are_all_served(site: Site) -> None:
    answers = await asyncio.gather(*(site.talk() for _ in range(200)))
    assert answers == [b"welcome"] * 200


async def test_a_handshake_begins_only_where_another_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "PLACE_KEPT_S", 60.0)
    stalled = [await site.begin() for _ in range(PLACES + 3)]
    while site.protocol.begun < PLACES:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert site.protocol.begun == PLACES
    for connection in stalled[:2]:
        connection.close()
    while site.protocol.begun < PLACES + 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert site.protocol.begun == PLACES + 2
    for connection in stalled[2:]:
        connection.close()


async def test_whoever_stops_in_the_midst_loses_the_place(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "PLACE_KEPT_S", 0.05)
    stalled = [await site.begin(beginning=None if n % 2 else 40) for n in range(3 * PLACES)]
    async with asyncio.timeout(5):
        assert await site.talk() == b"welcome"
    for connection in stalled:
        connection.close()


async def test_whoever_has_gone_costs_no_handshake(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "PLACE_KEPT_S", 60.0)
    holders = [await site.begin() for _ in range(PLACES)]
    while site.protocol.begun < PLACES:
        await asyncio.sleep(0.01)
    for _ in range(20):
        (await site.begin()).close()
    async with asyncio.timeout(5):
        served = asyncio.create_task(site.talk())
        await asyncio.sleep(0.1)
        for connection in holders:
            connection.close()
        assert await served == b"welcome"
    assert site.protocol.begun == PLACES + 1


async def test_whoever_waited_too_long_is_let_go(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "PLACE_KEPT_S", 0.3)
    monkeypatch.setattr(reception, "WAIT_S_MAX", 0.1)
    stalled = [await site.begin() for _ in range(PLACES)]
    while site.protocol.begun < PLACES:
        await asyncio.sleep(0.01)
    with pytest.raises(OSError, match=r"reset|EOF|closed|aborted|lost"):
        await site.talk()
    assert site.protocol.begun == PLACES
    for connection in stalled:
        connection.close()


async def test_whoever_says_nothing_is_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "HANDSHAKE_TIMEOUT_S", 0.2)
    reader, writer = await asyncio.open_connection(*site.address)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    assert site.protocol.begun == 0


async def test_what_is_no_tls_is_let_go_and_others_are_served(site: Site) -> None:
    reader, writer = await asyncio.open_connection(*site.address)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            await reader.read()
    writer.close()
    assert await site.talk() == b"welcome"
