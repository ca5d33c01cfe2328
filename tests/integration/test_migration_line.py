"""The line between agents over real TLS: who is let in, and who is reached."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from access.certificates import CertificateAuthority
from events.types.job import Sending
from hostagent.driver import RefusedMessageError
from hostagent.join import signing_request
from hostagent.migration_line import Accept, Line, Streams, TlsFiles, TlsLine
from hostagent.migration_port import PORT_NAME, SharedPort
from hostagent.tasks import end_tasks
from tests.harness.processes import free_port

NOW = dt.datetime.now(dt.UTC)


class Site:
    """Hosts with certificates of one authority."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.authority = CertificateAuthority.create(folder / name, NOW)
        self.trust = folder / name / "trust.crt"

    def files(self, host: str) -> TlsFiles:
        """Return the files of a host, made anew."""
        folder = self.folder / f"{host}-{self.trust.parent.name}"
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        encoding, secrecy = serialization.Encoding.PEM, serialization.NoEncryption()
        private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, secrecy)
        (folder / "host.key").write_bytes(private)
        request = signing_request(key, host).encode()
        (folder / "host.crt").write_bytes(self.authority.sign_host_request(request, host, NOW))
        return TlsFiles(certificate=folder / "host.crt", key=folder / "host.key", trust=self.trust)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def echo_as(host: str) -> Accept:
    """Return what answers with its own name and the peer's."""

    async def accept(source: str, streams: Streams) -> None:
        await streams[0].readuntil(b"\n")
        streams[1].write(f"{host} heard {source}\n".encode())
        await streams[1].drain()

    return accept


@contextlib.asynccontextmanager
async def listening(line: Line, accept: Accept) -> AsyncIterator[None]:
    task = asyncio.create_task(line.listen(accept))
    await asyncio.sleep(0.05)
    try:
        yield
    finally:
        await end_tasks({task})


@contextlib.asynccontextmanager
async def opened(folder: Path, trust: Path) -> AsyncIterator[SharedPort]:
    port = SharedPort(folder / PORT_NAME)
    await port.open(trust)
    task = asyncio.create_task(port.run())
    await asyncio.sleep(0.05)
    try:
        yield port
    finally:
        await end_tasks({task})


async def said(line: Line, host: str, address: str) -> str:
    """Connect to a host, and return what it answers."""
    async with asyncio.timeout(5):
        reader, writer = await line.connect(Sending(destination=host, address=address))
        try:
            writer.write(b"hello\n")
            return (await reader.readuntil(b"\n")).decode().strip()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_each_side_knows_the_other_by_its_certificate(site: Site) -> None:
    here = TlsLine(f"127.0.0.1:{free_port()}", site.files("one"))
    there = TlsLine(f"127.0.0.1:{free_port()}", site.files("two"))
    async with listening(there, echo_as("two")):
        assert await said(here, "two", there.address) == "two heard one"
        with pytest.raises(RefusedMessageError, match="another host"):
            await said(here, "three", there.address)


async def test_many_hosts_share_a_port_and_each_shows_its_own_certificate(
    site: Site, tmp_path: Path
) -> None:
    async with opened(tmp_path, site.trust) as port:
        lines = {host: port.line(host, site.files(host)) for host in ("one", "two", "three")}
        async with contextlib.AsyncExitStack() as stack:
            for host, line in lines.items():
                await stack.enter_async_context(listening(line, echo_as(host)))
            assert await said(lines["one"], "two", port.address) == "two heard one"
            assert await said(lines["two"], "three", port.address) == "three heard two"
            alone = TlsLine(f"127.0.0.1:{free_port()}", site.files("four"))
            assert await said(alone, "one", port.address) == "one heard four"


async def test_a_host_that_is_not_there_any_more_is_not_reached(site: Site, tmp_path: Path) -> None:
    async with opened(tmp_path, site.trust) as port:
        here, there = (port.line(host, site.files(host)) for host in ("one", "two"))
        async with listening(there, echo_as("two")):
            assert await said(here, "two", port.address)
        with pytest.raises(ConnectionError):
            await said(here, "two", port.address)


@pytest.mark.parametrize("shared", [False, True])
async def test_a_stranger_is_not_let_in(site: Site, tmp_path: Path, *, shared: bool) -> None:
    stranger = Site(tmp_path, "another").files("one")
    stranger = TlsFiles(certificate=stranger.certificate, key=stranger.key, trust=site.trust)
    async with opened(tmp_path, site.trust) as port:
        own = site.files("two")
        there: Line = port.line("two", own) if shared else TlsLine(f"127.0.0.1:{free_port()}", own)
        here = TlsLine("127.0.0.1:1", stranger)
        async with listening(there, echo_as("two")):
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await said(here, "two", there.address)


async def test_the_port_is_the_same_after_a_restart(site: Site, tmp_path: Path) -> None:
    async with opened(tmp_path, site.trust) as port:
        first = port.address
        async with opened(tmp_path / ".", site.trust) as another:
            assert another.address != first, "a port that is taken is no reason to fail"
    async with opened(tmp_path, site.trust) as port:
        assert port.address in {first, another.address}
