"""HTTPS for the admin API and, with client certificates, for the agents' gateway.

uvicorn does the work. What is added here:

- The gateway's port asks every client for a certificate of our CA, and hands the application what
  uvicorn does not: `scope["extensions"]["chronovisor.peer_certificate"]`, the certificate in DER.
- A host whose certificate has ended reaches the renewal alone: OpenSSL is told to leave the dates
  to us, who know what was asked for.
- A host's connections can be cut.
- Bounds that uvicorn lacks: connections, the time and the size of a request's head. Handshakes are
  bounded by `reception`, what an answer takes of time and memory by `pacing`.
- Idle connections are cheap, since thousands of agents wait on one each.
"""

import asyncio
import asyncio.sslproto
import contextlib
import datetime as dt
import functools
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import uvicorn
from cryptography import x509
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from access.certificates import NotAHostCertificate, host_id_of
from commands.gateway.limits import (
    AsgiApplication,
    CertificateExpired,
    Receive,
    Scope,
    Send,
    TooManyConnections,
    send_refusal,
)
from commands.gateway.pacing import ANSWER_TIMEOUT_S, WRITE_BUFFER_BYTES, paced
from commands.gateway.reception import Reception

PEER_CERTIFICATE = "chronovisor.peer_certificate"
CONNECTIONS_MAX = 20_000
CONNECTIONS_OVER_MAX = 64
HEAD_BYTES_MAX = 64 * 1024
HEAD_TIMEOUT_S = 10.0
KEEP_ALIVE_TIMEOUT_S = 75
GRACEFUL_TIMEOUT_S = 5
# One TLS record. asyncio's own 256 KiB are reserved for each connection from its first instant.
TLS_BUFFER_BYTES = 16 * 1024
_HOST_IDS_CACHED_MAX = 20_000
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python's ssl has no name for.
_NO_CHECK_TIME = 0x200000
# So that a request which waits is told that its host was removed, before its connection is gone.
CUT_AFTER_S = 1.0


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a port is served. Without `certificate` and `key` it is plain HTTP, without `ca_bundle`
    clients need no certificate. `expired_paths` are what an expired certificate is good for; `now`
    is the clock that certificates are held against.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca_bundle: Path | None = None
    connections_max: int = CONNECTIONS_MAX
    head_bytes_max: int = HEAD_BYTES_MAX
    head_timeout_s: float = HEAD_TIMEOUT_S
    answer_timeout_s: float = ANSWER_TIMEOUT_S
    keep_alive_timeout_s: int = KEEP_ALIVE_TIMEOUT_S
    graceful_timeout_s: int = GRACEFUL_TIMEOUT_S
    expired_paths: frozenset[str] = frozenset()
    now: Callable[[], dt.datetime] = _utc_now


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration with ours beside it, where the protocol finds it."""

    def __init__(
        self,
        app: AsgiApplication,
        settings: ServerSettings,
        **others: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(cast("Any", app), **others)
        self.settings = settings
        self.peers: dict[str, set[BoundedProtocol]] = {}
        """The open connections of each host."""

    def cut_soon(self, host_id: str) -> None:
        """Close all connections of a host, idle ones too, once waiting requests are answered."""
        asyncio.get_running_loop().call_later(CUT_AFTER_S, self.cut, host_id)

    def cut(self, host_id: str) -> None:
        """Close all connections of a host."""
        for protocol in tuple(self.peers.get(host_id, ())):
            protocol.transport.abort()

    def reload_certificates(self) -> None:
        """Use the certificate files as they are now: for connections made from now on."""
        if self.ssl is not None:
            _load_certificates(self.ssl, self.settings)


def server_config(  # noqa: PLR0913  one keyword per fact about the port
    app: AsgiApplication,
    *,
    host: str,
    port: int,
    certificate: Path | None,
    key: Path | None,
    ca_bundle: Path | None = None,
    connections_max: int = CONNECTIONS_MAX,
    head_timeout_s: float = HEAD_TIMEOUT_S,
    answer_timeout_s: float = ANSWER_TIMEOUT_S,
    keep_alive_timeout_s: int = KEEP_ALIVE_TIMEOUT_S,
    graceful_timeout_s: int = GRACEFUL_TIMEOUT_S,
    expired_paths: frozenset[str] = frozenset(),
    now: Callable[[], dt.datetime] = _utc_now,
) -> ServerConfig:
    """How to serve `app` on a port.

    With `ca_bundle` it is the gateway: no connection without a certificate of one of its CAs.
    Without it, it is the admin API: TLS, and whoever asks shows a token. Without `certificate`,
    plain HTTP, which is refused (ValueError) on any address but loopback.
    """
    settings = ServerSettings(
        certificate=certificate,
        key=key,
        ca_bundle=ca_bundle,
        connections_max=connections_max,
        head_timeout_s=head_timeout_s,
        answer_timeout_s=answer_timeout_s,
        keep_alive_timeout_s=keep_alive_timeout_s,
        graceful_timeout_s=graceful_timeout_s,
        expired_paths=expired_paths,
        now=now,
    )
    if certificate is None:
        if ca_bundle is not None:
            raise ValueError("client certificates need TLS, thus a certificate and a key")
        if host not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError(f"plain HTTP is served on loopback only, not on {host}")
    _tame_tls_connections()
    context = None if certificate is None else server_context(settings)
    return ServerConfig(
        app,
        settings,
        host=host,
        port=port,
        http=BoundedProtocol,
        ws="none",
        interface="asgi3",
        lifespan="auto",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=keep_alive_timeout_s,
        timeout_graceful_shutdown=graceful_timeout_s,
        ssl_context_factory=None if context is None else (lambda *_: context),
    )


def server_context(settings: ServerSettings) -> ssl.SSLContext:
    """The TLS side: 1.2 at least and 1.3 by preference, client certificates if there is a CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if settings.ca_bundle is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        # The dates are checked for each request (`_with_certificate`), not once in the handshake.
        context.verify_flags |= ssl.VERIFY_X509_STRICT | _NO_CHECK_TIME
        # A resumed session would not show its certificate again.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    _load_certificates(context, settings)
    return context


async def serve(
    *ports: tuple[ServerConfig, socket.socket],
    stop: asyncio.Event,
    on_started: Callable[[], None] | None = None,
) -> None:
    """Serve all ports in this event loop until `stop`, then end gracefully within the limit.

    Signals are left to the caller. Should one server end by itself, the others are ended too.
    """
    servers = [_Server(config, listener) for config, listener in ports]
    tasks = [asyncio.create_task(server.serve(sockets=[])) for server in servers]
    stopping = asyncio.create_task(stop.wait())
    try:
        started = asyncio.create_task(_all_started(servers))
        await asyncio.wait([started, stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if started.done() and on_started is not None:
            on_started()
        started.cancel()
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


def peer_host_id(scope: Mapping[str, Any]) -> str | None:
    """The id of the host whose certificate this request's connection showed; None if no host's."""
    certificate = (scope.get("extensions") or {}).get(PEER_CERTIFICATE)
    return None if certificate is None else _host_id(certificate)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds, and with the client's certificate in each scope."""

    config: ServerConfig
    _peer: str | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        if self._peer is not None:
            others = self.config.peers.get(self._peer, set())
            others.discard(self)
            if not others:
                self.config.peers.pop(self._peer, None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Bound the number of connections, and keep the certificate for their requests."""
        super().connection_made(transport)
        settings = self.config.settings
        surplus = len(self.connections) - settings.connections_max
        if surplus > CONNECTIONS_OVER_MAX:
            transport.abort()
            return
        if surplus > 0:
            self.app = cast("Any", _too_many_connections)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and settings.ca_bundle is not None:
            certificate = tls.getpeercert(binary_form=True)
            wrapped = functools.partial(_with_certificate, self.app, certificate, settings)
            self.app = cast("Any", wrapped)
            self._peer = _host_id(certificate)
            if self._peer is not None:
                self.config.peers.setdefault(self._peer, set()).add(self)
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        whole = functools.partial(paced, self.app, transport, settings.answer_timeout_s)
        self.app = cast("Any", whole)
        self._head_bytes = 0
        self._head_deadline = self.loop.time() + settings.head_timeout_s
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Bound the size of a request's head, and the time until it is whole."""
        settings = self.config.settings
        if self._between_requests() and self._head_bytes == 0:
            self._head_deadline = self.loop.time() + settings.head_timeout_s
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._between_requests():
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > settings.head_bytes_max:
            self.send_400_response("The request's head is too large.")
            return
        self._await_head()

    def _between_requests(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None at first, whatever uvicorn declares
        return cycle is None or cycle.response_complete

    def _await_head(self) -> None:
        """Close the connection unless a whole request head is here by its deadline.

        In uvicorn's own timer, which it cancels whenever something arrives.
        """
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_at(
            self._head_deadline, self.timeout_keep_alive_handler
        )


class _Server(uvicorn.Server):
    """A server that leaves the process's signals alone, and takes up connections in our way."""

    def __init__(self, config: ServerConfig, listener: socket.socket) -> None:
        super().__init__(config)
        self._ours = config
        self._listener = listener
        self._reception: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, once the application is ready."""
        await super().startup(sockets)
        reception = Reception(
            self._listener,
            self._ours.ssl,
            self._new_protocol,
            waiting_max=self._ours.settings.connections_max,
        )
        self._reception = asyncio.create_task(reception.run())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, then end what is under way."""
        if self._reception is not None:
            self._reception.cancel()
            await asyncio.gather(self._reception, return_exceptions=True)
        self._listener.close()
        await super().shutdown(sockets)

    def _new_protocol(self) -> "BoundedProtocol":
        protocol = cast("type[BoundedProtocol]", self._ours.http_protocol_class)
        return protocol(
            config=self._ours, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _all_started(servers: list["_Server"]) -> None:
    # uvicorn offers a flag and no event; whoever waits for this bounds it.
    while not all(server.started for server in servers):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def _with_certificate(
    app: AsgiApplication,
    certificate: bytes,
    settings: ServerSettings,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    begin, end = _validity(certificate)
    now = settings.now()
    if now < begin or (now > end and scope.get("path") not in settings.expired_paths):
        detail = f"The certificate is valid from {begin:%F %T} to {end:%F %T} UTC."
        await send_refusal(send, CertificateExpired(detail))
        return
    scope.setdefault("extensions", {})[PEER_CERTIFICATE] = certificate
    await app(scope, receive, send)


async def _too_many_connections(scope: Scope, receive: Receive, send: Send) -> None:
    refusal = TooManyConnections("Try again in a moment.")
    await send_refusal(send, refusal, headers=((b"retry-after", b"1"),))


@functools.lru_cache(maxsize=_HOST_IDS_CACHED_MAX)
def _host_id(certificate: bytes) -> str | None:
    try:
        return host_id_of(certificate)
    except NotAHostCertificate:
        return None


@functools.lru_cache(maxsize=_HOST_IDS_CACHED_MAX)
def _validity(certificate: bytes) -> tuple[dt.datetime, dt.datetime]:
    parsed = x509.load_der_x509_certificate(certificate)
    return parsed.not_valid_before_utc, parsed.not_valid_after_utc


def _load_certificates(context: ssl.SSLContext, settings: ServerSettings) -> None:
    if settings.certificate is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    if settings.ca_bundle is not None:
        context.load_verify_locations(settings.ca_bundle)


def _tame_tls_connections() -> None:
    """Set what asyncio offers no argument for, for all TLS connections of this process."""
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
