import asyncio
import contextlib
import datetime as dt
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from access.certificates import CertificateAuthority, host_id_of
from access.host_keys import make_host_key_and_request
from access.trust import ServerFiles, add_to_trust_bundle, ensure_server_files
from commands.gateway import tls
from commands.gateway.limits import BodyLimit, Receive, Scope, Send
from commands.gateway.reception import PortInUse, bind
from commands.gateway.tls import PEER_CERTIFICATE, ServerConfig, peer_host_id

pytestmark = pytest.mark.integration

NOW = dt.datetime.now(dt.UTC)


class Host:
    """A host that has joined a CA: its key and certificate, and the engine's CA that it trusts."""

    def __init__(self, folder: Path, authority: CertificateAuthority, host_id: str) -> None:
        request = make_host_key_and_request(folder, host_id)
        certificate = authority.sign_host_request(request, host_id, NOW)
        (folder / "host.crt").write_bytes(certificate)
        self.folder = folder
        self.certificate = x509.load_pem_x509_certificate(certificate)

    def context(self, trust: Path) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(trust))
        context.load_cert_chain(self.folder / "host.crt", self.folder / "host.key")
        return context


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", NOW)


@pytest.fixture
def files(tmp_path: Path, authority: CertificateAuthority) -> ServerFiles:
    folder = tmp_path / "tls"
    return ensure_server_files(tmp_path / "ca", folder, "engine", ["x"], ["127.0.0.1"], NOW)


@pytest.fixture
def host(tmp_path: Path, authority: CertificateAuthority) -> Host:
    return Host(tmp_path / "host", authority, "host-1")


async def tell_who(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that says which host is asking, and what it has sent."""
    if scope["type"] != "http":
        raise NotImplementedError
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client has gone")
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    certificate = (scope.get("extensions") or {}).get(PEER_CERTIFICATE)
    told = f"{peer_host_id(scope)} {certificate is not None} {len(body)} {scope['scheme']}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told.encode()})


@contextlib.asynccontextmanager
async def serving(config: ServerConfig) -> AsyncIterator[int]:
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    stop, started = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(tls.serve((config, listener), stop=stop, on_started=started.set))
    await asyncio.wait_for(started.wait(), 5)
    try:
        yield port
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


def gateway(files: ServerFiles, app: Any = tell_who, **others: Any) -> ServerConfig:
    return tls.server_config(
        app,
        host="127.0.0.1",
        port=0,
        certificate=files.certificate,
        key=files.key,
        ca_bundle=files.trust,
        **others,
    )


def admin_api(files: ServerFiles, app: Any = tell_who, **others: Any) -> ServerConfig:
    return tls.server_config(
        app, host="127.0.0.1", port=0, certificate=files.certificate, key=files.key, **others
    )


async def get(port: int, context: ssl.SSLContext, **others: Any) -> httpx.Response:
    async with httpx.AsyncClient(verify=context, timeout=5) as client:
        return await client.request("GET", f"https://127.0.0.1:{port}/", **others)


async def test_the_application_sees_which_host_is_asking(files: ServerFiles, host: Host) -> None:
    async with serving(gateway(files)) as port:
        answer = await get(port, host.context(files.trust))

    assert answer.text == "host-1 True 0 https"


async def test_it_sees_the_very_certificate_on_each_request_of_a_connection(
    files: ServerFiles, host: Host
) -> None:
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["extensions"][PEER_CERTIFICATE])
        await tell_who(scope, receive, send)

    async with (
        serving(gateway(files, app)) as port,
        httpx.AsyncClient(verify=host.context(files.trust)) as client,
    ):
        for _ in range(2):
            await client.get(f"https://127.0.0.1:{port}/")

    expected = host.certificate.public_bytes(serialization.Encoding.DER)
    assert seen == [expected, expected]
    assert host_id_of(seen[0]) == "host-1"


async def test_two_hosts_are_told_apart(
    files: ServerFiles, host: Host, authority: CertificateAuthority, tmp_path: Path
) -> None:
    other = Host(tmp_path / "other", authority, "host-2")

    async with serving(gateway(files)) as port:
        answers = await asyncio.gather(
            *(get(port, one.context(files.trust)) for one in (host, other) * 5)
        )

    assert [answer.text.split()[0] for answer in answers] == ["host-1", "host-2"] * 5


def anonymous(tmp_path: Path, files: ServerFiles) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(files.trust))


def of_another_ca(tmp_path: Path, files: ServerFiles) -> ssl.SSLContext:
    other = CertificateAuthority.create(tmp_path / "other-ca", NOW)
    return Host(tmp_path / "other-host", other, "host-1").context(files.trust)


def a_server_certificate(tmp_path: Path, files: ServerFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.trust))
    context.load_cert_chain(files.certificate, files.key)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("who", [anonymous, of_another_ca, a_server_certificate])
async def test_nobody_else_gets_through_the_gateway(
    files: ServerFiles,
    tmp_path: Path,
    who: Callable[[Path, ServerFiles], ssl.SSLContext],
    version: ssl.TLSVersion,
) -> None:
    asked: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)

    context = who(tmp_path, files)
    context.maximum_version = version
    async with serving(gateway(files, app)) as port:
        with pytest.raises(httpx.TransportError):
            await get(port, context)

    assert [scope for scope in asked if scope["type"] == "http"] == []


async def test_the_right_host_gets_through_by_tls_1_2_too(files: ServerFiles, host: Host) -> None:
    context = host.context(files.trust)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async with serving(gateway(files)) as port:
        answer = await get(port, context)

    assert answer.text.startswith("host-1 ")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_old_tls_is_refused(files: ServerFiles, host: Host) -> None:
    context = host.context(files.trust)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1

    async with serving(gateway(files)) as port:
        with pytest.raises(httpx.TransportError):
            await get(port, context)


async def test_hosts_of_two_authorities_are_served_after_a_reload(
    files: ServerFiles, host: Host, tmp_path: Path
) -> None:
    successor = CertificateAuthority.create(tmp_path / "successor", NOW)
    newer = Host(tmp_path / "newer", successor, "host-9")
    config = gateway(files)
    add_to_trust_bundle(files.trust, successor.certificate)

    async with serving(config) as port:
        with pytest.raises(httpx.TransportError):
            await get(port, newer.context(files.trust))
        config.reload_certificates()
        answers = [await get(port, one.context(files.trust)) for one in (host, newer)]

    assert [answer.text.split()[0] for answer in answers] == ["host-1", "host-9"]


async def test_the_admin_api_asks_for_no_certificate_and_names_no_host(
    files: ServerFiles, host: Host
) -> None:
    async with serving(admin_api(files)) as port:
        plain = await get(port, ssl.create_default_context(cafile=str(files.trust)))
        with_certificate = await get(port, host.context(files.trust))
        with pytest.raises(httpx.TransportError):
            await get(port, ssl.create_default_context())

    assert plain.text == "None False 0 https"
    assert with_certificate.text == "None False 0 https"


async def test_plain_http_is_for_loopback_only() -> None:
    def plain(host: str) -> ServerConfig:
        return tls.server_config(tell_who, host=host, port=0, certificate=None, key=None)

    async with serving(plain("127.0.0.1")) as port, httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).text == "None False 0 http"

    with pytest.raises(ValueError, match="loopback only"):
        plain("0.0.0.0")


def test_a_port_in_use_is_told_by_name() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} of 127.0.0.1 is in use"):
            bind("127.0.0.1", port)


async def test_one_loop_serves_both_ports_and_ends_both(files: ServerFiles, host: Host) -> None:
    listeners = [bind("127.0.0.1", 0) for _ in range(2)]
    ports = [listener.getsockname()[1] for listener in listeners]
    stop, started = asyncio.Event(), asyncio.Event()
    configs = [admin_api(files), gateway(files)]
    task = asyncio.create_task(
        tls.serve(*zip(configs, listeners, strict=True), stop=stop, on_started=started.set)
    )
    await asyncio.wait_for(started.wait(), 5)

    context = host.context(files.trust)
    answers = [(await get(port, context)).text.split()[0] for port in ports]
    stop.set()
    await asyncio.wait_for(task, 5)

    assert answers == ["None", "host-1"]
    for port in ports:
        with pytest.raises(httpx.ConnectError):
            await get(port, context)


async def test_the_end_is_graceful_within_a_limit(files: ServerFiles, host: Host) -> None:
    entered, finished = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        entered.set()
        await asyncio.sleep(0.5 if scope["path"] == "/soon" else 60)
        finished.set()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with httpx.AsyncClient(verify=host.context(files.trust), timeout=20) as client:
        # Given a request that needs half a second, and one that never ends
        for path in ("/soon", "/never"):
            entered.clear()
            finished.clear()
            async with serving(gateway(files, app, graceful_timeout_s=1)) as port:
                asking = asyncio.create_task(client.get(f"https://127.0.0.1:{port}{path}"))
                await asyncio.wait_for(entered.wait(), 5)
                # When the server is told to stop
                began = asyncio.get_running_loop().time()
            took_s = asyncio.get_running_loop().time() - began

            # Then the one is answered, and the other given up after the limit
            if path == "/soon":
                assert (await asking).status_code == 204
            else:
                assert not finished.is_set()
                with contextlib.suppress(httpx.TransportError):
                    assert (await asking).status_code == 500
            assert took_s < 5


async def test_one_connection_too_many_is_refused_and_the_others_go_on(
    files: ServerFiles, host: Host
) -> None:
    context = host.context(files.trust)
    async with (
        serving(gateway(files, connections_max=2)) as port,
        httpx.AsyncClient(verify=context) as first,
        httpx.AsyncClient(verify=context) as second,
    ):
        url = f"https://127.0.0.1:{port}/"
        assert (await first.get(url)).status_code == 200
        assert (await second.get(url)).status_code == 200

        third = await get(port, context)

        assert third.status_code == 503
        assert third.headers["retry-after"] == "1"
        assert third.headers["content-type"] == "application/problem+json"
        assert third.json()["type"] == "too-many-connections"
        assert (await first.get(url)).status_code == 200


async def test_a_head_that_dawdles_or_never_ends_is_cut_off(files: ServerFiles) -> None:
    config = admin_api(files, head_timeout_s=0.4)
    context = ssl.create_default_context(cafile=str(files.trust))
    async with serving(config) as port:
        # Given a client that says nothing, and one that sends a byte now and then
        for piece in (b"", b"y"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(b"GET / HTTP/1.1\r\nx: " if piece else b"")
            began = asyncio.get_running_loop().time()
            with contextlib.suppress(ConnectionError):
                for _ in range(20):
                    if reader.at_eof():
                        break
                    writer.write(piece)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1), 0.1)
            took_s = asyncio.get_running_loop().time() - began
            assert reader.at_eof()
            assert took_s < 1.5
            writer.close()

        # And one whose headers are larger than any honest one's
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000)
        # (the answer may be lost with the connection, since the rest is not read)
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer.startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_kept_connection_outlives_the_head_timeout(files: ServerFiles) -> None:
    context = ssl.create_default_context(cafile=str(files.trust))
    async with serving(admin_api(files, head_timeout_s=0.3)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.6)
        writer.close()


async def pieces(count: int, pause_s: float = 0) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 100
        await asyncio.sleep(pause_s)


async def test_a_body_within_the_limit_arrives_whole(files: ServerFiles) -> None:
    app = BodyLimit(tell_who, bytes_max=1000)
    context = ssl.create_default_context(cafile=str(files.trust))
    async with serving(admin_api(files, app)) as port:
        declared = await get(port, context, content=b"x" * 1000)
        streamed = await get(port, context, content=pieces(10))

    assert declared.text.split()[2] == "1000"
    assert streamed.text.split()[2] == "1000"


async def test_a_body_beyond_the_limit_is_a_problem(files: ServerFiles) -> None:
    app = BodyLimit(tell_who, bytes_max=1000)
    context = ssl.create_default_context(cafile=str(files.trust))
    async with serving(admin_api(files, app)) as port:
        declared = await get(port, context, content=b"x" * 1001)
        streamed = await get(port, context, content=pieces(11))

    for answer in (declared, streamed):
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "body-too-large"
        assert "1000 bytes" in answer.json()["detail"]


async def test_a_body_that_dawdles_is_a_problem(files: ServerFiles) -> None:
    app = BodyLimit(tell_who, timeout_s=0.3)
    context = ssl.create_default_context(cafile=str(files.trust))
    async with serving(admin_api(files, app)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nxyz")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"type":"body-too-slow"' in answer


async def test_an_error_of_the_application_is_not_swallowed() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("a bug")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    with pytest.raises(LookupError):
        await BodyLimit(broken)({"type": "http", "headers": []}, receive, send)


SERVING = """
import asyncio, sys
from pathlib import Path
from commands.gateway import reception, tls
from tests.integration.tls.test_tls import tell_who
import uvloop

async def main():
    certificate, key, trust = map(Path, sys.argv[1:])
    listener = reception.bind("127.0.0.1", 0)
    config = tls.server_config(
        tell_who, host="127.0.0.1", port=0, certificate=certificate, key=key, ca_bundle=trust
    )
    say = lambda: print(listener.getsockname()[1], flush=True)
    await tls.serve((config, listener), stop=asyncio.Event(), on_started=say)

uvloop.run(main())
"""


def resident_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_an_idle_connection_is_cheap(files: ServerFiles, host: Host) -> None:
    """Ten thousand agents wait on one each: the memory of a process of its own is counted."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVING, files.certificate, files.key, files.trust),
        stdout=asyncio.subprocess.PIPE,
        # As `chronovisor up` has it: what is large and was touched in part is given back whole.
        env=os.environ | {"MALLOC_TRIM_THRESHOLD_": "131072"},
    )
    assert server.stdout is not None
    try:
        port = int(await server.stdout.readline())
        context = host.context(files.trust)

        async def connect(count: int) -> list[asyncio.StreamWriter]:
            opened = [
                await asyncio.open_connection("127.0.0.1", port, ssl=context) for _ in range(count)
            ]
            await asyncio.sleep(0.1)
            return [writer for _, writer in opened]

        writers = await connect(20)
        before = resident_bytes(server.pid)
        writers += await connect(200)
        each = (resident_bytes(server.pid) - before) / 200
        for writer in writers:
            writer.close()
    finally:
        server.kill()
        await server.wait()

    assert 0 < each < 96 * 1024


async def test_a_silent_host_is_noticed_by_the_kernel(files: ServerFiles) -> None:
    seen: list[tuple[int, int]] = []

    class Looking(tls.BoundedProtocol):
        def connection_made(self, transport: Any) -> None:
            accepted = transport.get_extra_info("socket")
            seen.append(
                (
                    accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
                )
            )
            super().connection_made(transport)

    config = admin_api(files)
    config.http = Looking
    async with serving(config) as port:
        await get(port, ssl.create_default_context(cafile=str(files.trust)))

    assert seen == [(1, 60_000)]
