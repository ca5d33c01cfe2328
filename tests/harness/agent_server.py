"""A gateway over real TLS whose engines are the agent tests' fake ones, and the join beside it."""

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from access.certificates import CertificateAuthority, fingerprint
from access.joining import JoinToken, format_join_token
from events.wire.agent import Hello, Join, JoinAnswer, Report, Telemetry
from hostagent.gateway import GatewayAwayError, SessionEndedError
from tests.harness.processes import free_port
from tests.unit.hostagent.fake_engine import FakeEngine

NOW = dt.datetime.now(dt.UTC)


class AgentServer:
    """Serves hosts, one fake engine for each, known by the hardware ids that they joined with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = CertificateAuthority.create(folder / "ca", NOW)
        self.engines: dict[str, FakeEngine] = {}
        self.joins: list[Join] = []
        self.pending = 0
        self.answer: Response | None = None
        """What is answered to everything but `/v1/ca`, if set."""
        self.hangs = False
        self.port = free_port()
        self.ca_file = folder / "ca" / "ca.crt"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def token(self) -> str:
        """A token's text, as an admin hands it over."""
        return format_join_token(
            JoinToken(
                token_id="t1",
                secret="s" * 43,
                ca_fingerprint=fingerprint_text(self.authority),
            )
        )

    @contextlib.asynccontextmanager
    async def serving(self, *, mutual: bool = False) -> AsyncIterator[None]:
        """Listen until the end of the block; with `mutual`, only to those with a certificate."""
        issued = self.authority.issue_server([], ["127.0.0.1"], NOW)
        (self.folder / "server.crt").write_bytes(issued.certificate)
        (self.folder / "server.key").write_bytes(issued.key)
        config = uvicorn.Config(
            self._app(),
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            lifespan="off",
            ssl_certfile=self.folder / "server.crt",
            ssl_keyfile=str(self.folder / "server.key"),
            ssl_ca_certs=str(self.ca_file) if mutual else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            server.should_exit = server.force_exit = True
            await task
            await _connections_end(server)

    def engine(self, hardware: str) -> FakeEngine:
        """The engine that the host with this hardware id talks to."""
        if hardware not in self.engines:
            self.engines[hardware] = FakeEngine(f"{hardware}/")
        return self.engines[hardware]

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/ca", self._ca),
                Route("/v1/join", self._join, methods=["POST"]),
                Route("/agent/v1/hello", self._hello, methods=["POST"]),
                Route("/agent/v1/orders", self._orders),
                Route("/agent/v1/report", self._report, methods=["POST"]),
                Route("/agent/v1/telemetry", self._telemetry, methods=["POST"]),
            ],
            exception_handlers={
                SessionEndedError: _problem(409, "SessionOver"),
                GatewayAwayError: _problem(503, "Overloaded"),
            },
        )

    async def _ca(self, request: Request) -> Response:
        return Response((self.folder / "ca" / "trust.crt").read_bytes())

    async def _join(self, request: Request) -> Response:
        join = msgspec.json.decode(await request.body(), type=Join)
        self.joins.append(join)
        if self.answer is not None:
            return self.answer
        waits = len(self.joins) <= self.pending
        certificate = self.authority.sign_host_request(
            join.signing_request.encode(), f"id-{join.hardware}", NOW
        )
        return _json(
            JoinAnswer(
                host=f"id-{join.hardware}",
                name=f"name-{join.hardware}",
                pending=waits,
                certificate=None if waits else certificate.decode(),
                trust=self.ca_file.read_text(),
                gateway=self.url,
            )
        )

    async def _hello(self, request: Request) -> Response:
        if (other := await self._otherwise()) is not None:
            return other
        hello = msgspec.json.decode(await request.body(), type=Hello)
        return _json(await self.engine(hello.hardware).hello(hello))

    async def _orders(self, request: Request) -> Response:
        if (other := await self._otherwise()) is not None:
            return other
        session, after = request.query_params["session"], int(request.query_params["after"])
        engine = self.engine(session.partition("/")[0])
        orders = await engine.orders(session, after, float(request.query_params["wait"]))
        if orders.changes.position == after:
            return Response(status_code=204)
        return _json(orders)

    async def _report(self, request: Request) -> Response:
        if (other := await self._otherwise()) is not None:
            return other
        report = msgspec.json.decode(await request.body(), type=Report)
        return _json(await self.engine(report.session.partition("/")[0]).report(report))

    async def _telemetry(self, request: Request) -> Response:
        batch = msgspec.json.decode(await request.body(), type=Telemetry)
        await self.engine(batch.host.removeprefix("id-")).telemetry_(batch)
        return Response(status_code=202)

    async def _otherwise(self) -> Response | None:
        if self.hangs:
            await asyncio.sleep(30)
        return self.answer


def fingerprint_text(authority: CertificateAuthority) -> str:
    """A CA's fingerprint as join texts carry it."""
    return fingerprint(authority.certificate)


def _json(message: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")


def _problem(status: int, title: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    async def answer(request: Request, error: Exception) -> Response:
        body = msgspec.json.encode({"title": title, "detail": str(error)})
        return Response(body, status_code=status, media_type="application/problem+json")

    return answer


async def _connections_end(server: uvicorn.Server, timeout_s: float = 0.5) -> None:
    """Wait for what uvicorn does not know of: connections that broke off in the handshake.

    `asyncio.Server.wait_closed` waits for them from Python 3.12 on.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while any(each._active_count for each in server.servers):  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
