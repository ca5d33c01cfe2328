"""The gateway over HTTPS: mutual TLS, msgspec JSON, a limit on every wait and every answer."""

from __future__ import annotations

import abc
import asyncio
import ssl
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from events.wire.agent import (
    Hello,
    Intent,
    Orders,
    Renew,
    RenewAnswer,
    Report,
    ReportAck,
    Telemetry,
    Welcome,
)
from hostagent.gateway import (
    GatewayAwayError,
    GatewayError,
    GatewayRefusedError,
    SessionEndedError,
)

ANSWER_BYTES_MAX = 64 * 1024 * 1024
PROBLEM_CHARACTERS_MAX = 500
CONNECTIONS_MAX = 4
CONNECT_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 70.0
"""A little less than the gateway's own limit. httpx drops a connection after 5 s, and then each
batch of samples costs both sides a handshake: a thousand hosts keep an engine busy with them.
"""
RETRY_AFTER_S_MAX = 60.0
_AWAY = frozenset({408, 425, 429, 500, 502, 503, 504})
_STILL_AT_WORK = frozenset({408, 502, 504})
"""What somebody between us and the engine says that waited for its answer in vain."""
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_FORBIDDEN = 403
_ENDED = 409

Answer = TypeVar("Answer")
UnderWay = dict[asyncio.Timeout, asyncio.Future[None]]
"""Requests of one client that are under way: what can end each early, and its end."""


class AnyAnswer(msgspec.Struct):
    """An answer of which nothing is needed."""


class _Doubt(msgspec.Struct):
    doubt: str = ""


class Messages(abc.ABC):
    """What an agent posts to the gateway, whatever carries it there.

    `refused` is set whenever the engine does not take the certificate that was shown.
    """

    def __init__(self) -> None:
        self.refused = asyncio.Event()

    async def hello(self, hello: Hello) -> Welcome:
        """Open a session."""
        return await self._post("/agent/v1/hello", hello, Welcome)

    async def report(self, report: Report) -> ReportAck:
        """Tell what is."""
        return await self._post("/agent/v1/report", report, ReportAck)

    async def telemetry(self, telemetry: Telemetry) -> None:
        """Send samples."""
        await self._post("/agent/v1/telemetry", telemetry, AnyAnswer, AnyAnswer())

    async def renew(self, renew: Renew) -> RenewAnswer:
        """Ask for the certificate to use."""
        return await self._post("/agent/v1/renew", renew, RenewAnswer)

    @abc.abstractmethod
    async def _post(
        self, path: str, message: msgspec.Struct, answer: type[Answer], empty: Answer | None = None
    ) -> Answer:
        """Send a message, and return what its answer says; `empty` where it has no body."""

    def _problem(self, status: int, retry_after: str | None, body: bytes) -> GatewayError:
        if status == _FORBIDDEN:
            self.refused.set()
        return problem(status, retry_after, body)


class HttpsGateway(Messages):
    """One host's connections to the engine's gateway at `address`, an https:// address.

    `request_timeout_s` bounds every request; a poll for orders may take its wait besides.
    """

    def __init__(self, address: str, context: ssl.SSLContext, *, request_timeout_s: float) -> None:
        super().__init__()
        self._address = address.rstrip("/")
        self._timeout_s = request_timeout_s
        self._http = self._client(context)
        self._under_way: UnderWay = {}
        self._former: set[asyncio.Task[None]] = set()

    def _client(self, context: ssl.SSLContext) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._address,
            verify=context,
            trust_env=False,
            timeout=httpx.Timeout(self._timeout_s, connect=min(CONNECT_TIMEOUT_S, self._timeout_s)),
            limits=httpx.Limits(
                max_connections=CONNECTIONS_MAX,
                max_keepalive_connections=CONNECTIONS_MAX,
                keepalive_expiry=KEEP_ALIVE_S,
            ),
            follow_redirects=False,
        )

    async def orders(self, session: str, after: int, wait_s: float) -> Orders:
        """Wait for changes of the intent."""
        request = self._http.build_request(
            "GET",
            "/agent/v1/orders",
            params={"session": session, "after": str(after), "wait": f"{wait_s:g}"},
            timeout=httpx.Timeout(
                self._timeout_s + wait_s, connect=min(CONNECT_TIMEOUT_S, self._timeout_s)
            ),
        )
        # No content means no change.
        nothing = Orders(changes=Intent(position=after))
        return await self._send(request, Orders, nothing)

    def use(self, context: ssl.SSLContext) -> None:
        """Make all further connections with these TLS settings.

        What is under way on the old ones fails as if the engine were away, and is tried again.
        """
        former, self._http = self._http, self._client(context)
        under_way, self._under_way = self._under_way, {}
        closing = asyncio.create_task(_close(former, under_way))
        self._former.add(closing)
        closing.add_done_callback(self._former.discard)

    async def close(self) -> None:
        """Let go of all connections."""
        closing = _close(self._http, self._under_way)
        await asyncio.gather(closing, *self._former, return_exceptions=True)

    async def _post(
        self, path: str, message: msgspec.Struct, answer: type[Answer], empty: Answer | None = None
    ) -> Answer:
        request = self._http.build_request(
            "POST",
            path,
            content=msgspec.json.encode(message),
            headers={"content-type": "application/json"},
        )
        return await self._send(request, answer, empty)

    async def _send(
        self, request: httpx.Request, answer: type[Answer], empty: Answer | None = None
    ) -> Answer:
        http, under_way = self._http, self._under_way
        try:
            async with asyncio.timeout(None) as limit:
                under_way[limit] = asyncio.get_running_loop().create_future()
                try:
                    response = await http.send(request, stream=True)
                    try:
                        body = await _read(response)
                    finally:
                        await response.aclose()
                finally:
                    under_way.pop(limit).set_result(None)
        except TimeoutError as error:
            raise GatewayAwayError("the connection is given up") from error
        except httpx.HTTPError as error:
            words = f"{type(error).__name__}: {error}"
            raise GatewayAwayError(words, on_its_way=not isinstance(error, _NEVER_LEFT)) from error
        if not response.is_success:
            raise self._problem(response.status_code, response.headers.get("retry-after"), body)
        return understood(body, answer, empty)


async def _close(http: httpx.AsyncClient, under_way: UnderWay) -> None:
    """End what is under way, then the connections: closing lets go of none that is being made."""
    for limit in under_way:
        limit.reschedule(asyncio.get_running_loop().time())
    if under_way:
        await asyncio.wait(under_way.values())
    await http.aclose()


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise GatewayRefusedError(f"the engine's answer exceeds {ANSWER_BYTES_MAX} bytes")
    return bytes(body)


def understood(body: bytes, answer: type[Answer], empty: Answer | None = None) -> Answer:
    """Return what an answer's body says; `empty` where nothing came and nothing may come."""
    if not body and empty is not None:
        return empty
    try:
        return msgspec.json.decode(body, type=answer)
    except msgspec.DecodeError as error:
        raise GatewayRefusedError(f"the engine's answer makes no sense: {error}") from error


def problem(status: int, retry_after: str | None, body: bytes) -> GatewayError:
    """Return the error that an answer with this status means."""
    text = f"HTTP {status}: {_cause(body)}"
    if status == _ENDED:
        return SessionEndedError(text, _doubt(body))
    if status in _AWAY:
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
        return GatewayAwayError(
            text,
            retry_after_s=min(seconds, RETRY_AFTER_S_MAX),
            on_its_way=status in _STILL_AT_WORK,
        )
    return GatewayRefusedError(text)


def _cause(body: bytes) -> str:
    """Return what a problem document (RFC 9457) says, or the beginning of what came instead."""
    try:
        document: Any = msgspec.json.decode(body)
        said = [document[name] for name in ("title", "detail") if document.get(name)]
        text = ": ".join(str(part) for part in said)
    except (msgspec.DecodeError, AttributeError):
        text = ""
    return (text or body.decode(errors="replace"))[:PROBLEM_CHARACTERS_MAX]


def _doubt(body: bytes) -> str:
    """Return what the engine wants to hear again from whoever speaks now; empty if nothing."""
    try:
        return msgspec.json.decode(body, type=_Doubt).doubt
    except msgspec.DecodeError:
        return ""


def agent_context(certificate: Path, key: Path, trust: Path) -> ssl.SSLContext:
    """Return the TLS settings of an agent: its own certificate, and no CA but the engine's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=trust)
    context.load_cert_chain(certificate, key)
    return context
