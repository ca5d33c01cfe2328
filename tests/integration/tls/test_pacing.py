"""Clients that ask and do not read: over real TLS, with an agent's certificate and without one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from access.trust import ServerFiles
from commands.gateway import pacing
from commands.gateway.limits import Receive, Scope, Send
from tests.harness.deaf import Deaf
from tests.harness.processes import wait_until
from tests.integration.tls.test_tls import Host, admin_api, gateway, resident_bytes, serving
from tests.integration.tls.test_tls import authority as authority  # noqa: PLC0414 - a fixture
from tests.integration.tls.test_tls import files as files  # noqa: PLC0414
from tests.integration.tls.test_tls import host as host  # noqa: PLC0414

pytestmark = pytest.mark.integration
MIB = 1024**2
PAGE = bytes(range(256)) * 32 * 1024
"""8 MiB: more than the kernel keeps of a connection."""
DEAF = 60
ASKING = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
TIMEOUT_S = 1.5


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a page of known length, or in chunks if asked for /chunks."""
    while (await receive()).get("more_body"):
        pass
    headers = [] if scope["path"] == "/chunks" else [(b"content-length", b"%d" % len(PAGE))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE})


@contextlib.asynccontextmanager
async def deaf(port: int, context: ssl.SSLContext, count: int) -> AsyncIterator[Deaf]:
    clients = Deaf("127.0.0.1", port, context)
    try:
        await asyncio.to_thread(clients.join, count)
        yield clients
    finally:
        clients.close()


@pytest.mark.parametrize("path", ["/", "/chunks"])
async def test_whoever_reads_gets_all_of_it_and_asks_again(
    path: str, files: ServerFiles, host: Host
) -> None:
    async with serving(gateway(files, large)) as port:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=host.context(files.trust)
        )
        for _ in range(2):
            writer.write(ASKING.replace(b"/ ", path.encode() + b" ", 1))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200")
            if path == "/":
                assert await reader.readexactly(len(PAGE)) == PAGE
                continue
            assert b"transfer-encoding: chunked" in head
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
            assert body == PAGE
        writer.close()


async def test_whoever_reads_slowly_is_not_cut_off(files: ServerFiles, host: Host) -> None:
    """The time limit is for each piece that finds no room, not for the whole answer."""
    async with serving(gateway(files, large, answer_timeout_s=TIMEOUT_S)) as port:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=host.context(files.trust), limit=16 * 1024
        )
        writer.write(ASKING)
        began = time.monotonic()
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(TIMEOUT_S / 5)
            await reader.readexactly(MIB)
        assert time.monotonic() - began > TIMEOUT_S
        writer.close()


async def test_an_agent_that_does_not_read_is_cut_off_and_the_others_go_on(
    files: ServerFiles, host: Host
) -> None:
    config = gateway(files, large, answer_timeout_s=TIMEOUT_S)
    async with (
        serving(config) as port,
        deaf(port, host.context(files.trust), 5) as agents,
    ):
        await asyncio.to_thread(agents.ask, ASKING)
        await asyncio.sleep(TIMEOUT_S / 3)
        assert agents.left() == 5
        await asyncio.to_thread(agents.await_cut, 4 * TIMEOUT_S)
        assert config.peers == {}, "their connections are forgotten"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=host.context(files.trust)
        )
        writer.write(ASKING)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(PAGE)) == PAGE
        writer.close()


async def test_where_much_is_held_those_that_take_nothing_are_cut_off_at_once(
    files: ServerFiles, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far sooner than their time is over, but for those whose answers there is room for."""
    monkeypatch.setattr(pacing, "HELD_BYTES_MAX", 3 * len(PAGE))

    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(bytearray(PAGE))})

    async with (
        serving(gateway(files, own)) as port,
        deaf(port, host.context(files.trust), 8) as agents,
    ):
        await asyncio.to_thread(agents.ask, ASKING)
        await asyncio.to_thread(wait_until, lambda: agents.left() <= 3, 10, "most to be cut off")
        await asyncio.sleep(2)
        assert agents.left() == 3


async def test_one_that_asks_on_and_on_and_does_not_read_is_cut_off(
    files: ServerFiles, host: Host
) -> None:
    """Small answers fill a connection as well; what they fill is bounded."""

    async def small(scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"10000")],
            }
        )
        await send({"type": "http.response.body", "body": bytes(10_000)})

    config = admin_api(files, small, answer_timeout_s=TIMEOUT_S)
    context = ssl.create_default_context(cafile=str(files.trust))
    async with serving(config) as port, deaf(port, context, 3) as askers:
        await asyncio.to_thread(askers.ask, ASKING * 1_000)
        await asyncio.to_thread(askers.await_cut, 6 * TIMEOUT_S)


async def test_an_application_is_not_told_that_it_failed(
    files: ServerFiles, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    ended = asyncio.Event()

    async def in_parts(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": PAGE[:MIB], "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    async with (
        serving(gateway(files, in_parts, answer_timeout_s=TIMEOUT_S)) as port,
        deaf(port, host.context(files.trust), 1) as agents,
    ):
        await asyncio.to_thread(agents.ask, ASKING)
        await asyncio.to_thread(agents.await_cut, 4 * TIMEOUT_S)
        await asyncio.wait_for(ended.wait(), 5)
    assert not [one for one in caplog.records if one.name == "uvicorn.error"]


SERVING = """
import asyncio, sys
from pathlib import Path
from commands.gateway import reception, tls
from tests.integration.tls.test_pacing import large
import uvloop

async def main():
    certificate, key, trust = map(Path, sys.argv[1:])
    listener = reception.bind("127.0.0.1", 0)
    config = tls.server_config(
        large, host="127.0.0.1", port=0, certificate=certificate, key=key, ca_bundle=trust,
        answer_timeout_s=6.0,
    )
    say = lambda: print(listener.getsockname()[1], flush=True)
    await tls.serve((config, listener), stop=asyncio.Event(), on_started=say)

uvloop.run(main())
"""


@pytest.fixture
def server(files: ServerFiles) -> Iterator[tuple[int, int]]:
    """A server of its own, whose memory can be counted: its pid and port."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVING, files.certificate, files.key, files.trust],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_sixty_that_do_not_read_hold_next_to_nothing(
    server: tuple[int, int], files: ServerFiles, host: Host
) -> None:
    """Unpaced, 480 MiB lie encrypted in memory until the kernel gives up."""
    pid, port = server
    async with deaf(port, host.context(files.trust), DEAF) as agents:
        before = resident_bytes(pid)
        await asyncio.to_thread(agents.ask, ASKING)
        await asyncio.sleep(2)
        grown = resident_bytes(pid) - before
        assert agents.left() == DEAF
        assert grown < DEAF * MIB / 2, f"{grown / MIB:.0f} MiB"
        await asyncio.to_thread(agents.await_cut, 30)
