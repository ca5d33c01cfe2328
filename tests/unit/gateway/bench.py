"""A gateway on a log in memory, and agents that speak to it through its ASGI application.

Certificates are real, the TLS around them is not: each request's scope carries what it would have
shown. The clock is the test's.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from access.certificates import CertificateAuthority
from access.host_keys import make_host_key_and_request
from access.secrets import EngineSecret
from access.succession import Authorities
from access.vault import MemoryVault
from commands.cluster.create import CreateCluster
from commands.data_center.create import CreateDataCenter
from commands.gateway.app import Gateway, Intervals
from commands.gateway.contacts import MemoryContacts
from commands.gateway.enrolment import Enrolment
from commands.gateway.limits import Message, Receive, Scope, Send
from commands.gateway.loads import Averages
from commands.gateway.monitor import Monitor, Patience
from commands.gateway.renewal import Renewals
from commands.gateway.tls import PEER_CERTIFICATE
from commands.gateway.view import GatewayView
from commands.host.add import AddHost
from commands.host.token import IssueEnrolmentToken
from commands.kernel.command import Command, Context
from commands.kernel.handler import Handler
from commands.policies.runner import Runner
from commands.policies.saga import Timeouts
from events.codec import CODEC
from events.envelope import Recorded
from events.log.memory import MemoryLog
from events.wire.agent import (
    PROTOCOL,
    Hello,
    Item,
    Join,
    JoinAnswer,
    Orders,
    Report,
    ReportAck,
    Telemetry,
    Welcome,
)
from tests.unit.policies.stage import CAPABILITIES

PATIENCE = Patience(timeout_s=60.0, grace_s=300.0, interval_s=2.0)


class Clock:
    """Both clocks of a machine; a test moves them together or apart."""

    def __init__(self) -> None:
        self.now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        self.monotonic_s = 1_000.0

    def seconds(self) -> float:
        return self.now.timestamp()

    def pass_time(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)
        self.monotonic_s += seconds


class Samples:
    """A telemetry sink that keeps all."""

    def __init__(self) -> None:
        self.batches: list[Telemetry] = []

    def send(self, telemetry: Telemetry) -> None:
        self.batches.append(telemetry)

    async def run(self) -> None:
        return


class Engine:
    """One engine's gateway; several may share a log and contacts."""

    def __init__(
        self,
        log: MemoryLog,
        clock: Clock,
        contacts: MemoryContacts,
        source_for: Any,
        make_enrolment: Callable[[Handler, GatewayView], Enrolment],
        vault: MemoryVault,
        name: str,
    ) -> None:
        self.handler = Handler(log)
        self.view = GatewayView()
        self.enrolment = make_enrolment(self.handler, self.view)
        self.samples = Samples()
        self.averages = Averages(clock=clock.seconds)
        self.monitor = Monitor(
            self.handler,
            self.view,
            contacts,
            PATIENCE,
            source_for("gateway"),
            lambda: clock.monotonic_s,
            name=name,
        )
        self.gateway = Gateway(
            self.handler,
            log,
            self.view,
            self.monitor,
            self.samples,
            source_for,
            Intervals(),
            Renewals(self.handler, self.enrolment),
            vault=vault,
            loads=self.averages,
        )
        self._log = log

    async def follow(self) -> None:
        """Keep the view at the log's head, as the engine's process does."""
        while True:
            for stored in await self._log.read(self.view.position):
                self.view.take(CODEC.decode(stored))
            await self._log.wait(self.view.position, 1.0)


class Answer:
    """An HTTP answer."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.body: Any = msgspec.json.decode(response.content) if response.content else None

    @property
    def problem(self) -> str:
        assert self.status >= 400
        return str(self.body["type"])


class Agent:
    """A host's agent, as far as it speaks."""

    def __init__(self, host: str, name: str, certificate: bytes, engine: Engine) -> None:
        self.host = host
        self.name = name
        self.certificate = certificate
        self.engine = engine
        self.boot = f"boot-of-{name}"
        self.hardware = f"hardware-of-{name}"
        self.welcome: Welcome | None = None
        self.sequence = 0

    @property
    def session(self) -> str:
        assert self.welcome is not None
        return self.welcome.session

    @property
    def position(self) -> int:
        assert self.welcome is not None
        return self.welcome.intent.position

    async def ask(self, method: str, path: str, **more: Any) -> Answer:
        """Send a request with the agent's certificate."""
        app = self.engine.gateway.app()

        async def with_certificate(scope: Scope, receive: Receive, send: Send) -> None:
            async def sent(message: Message) -> None:
                await send(message)

            scope.setdefault("extensions", {})[PEER_CERTIFICATE] = self.certificate
            await app(scope, receive, sent)

        transport = httpx.ASGITransport(app=with_certificate)
        async with httpx.AsyncClient(transport=transport, base_url="https://engine") as client:
            return Answer(await client.request(method, path, **more))

    async def say_hello(self, **changes: Any) -> Answer:
        """Say hello; the session is taken up if there is one."""
        hello = Hello(
            boot=self.boot,
            hardware=self.hardware,
            protocols=(PROTOCOL,),
            agent_version="1",
            time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            capabilities=CAPABILITIES,
        )
        hello = msgspec.structs.replace(hello, **changes)
        answer = await self.ask("POST", "/agent/v1/hello", content=msgspec.json.encode(hello))
        if answer.status == 200:
            self.welcome = msgspec.convert(answer.body, Welcome)
            self.sequence = 0
        return answer

    async def poll(
        self, wait_s: float = 0, *, after: int | None = None, session: str | None = None
    ) -> Answer:
        """Ask for orders."""
        params = {
            "session": self.session if session is None else session,
            "after": str(self.position if after is None else after),
            "wait": str(wait_s),
        }
        return await self.ask("GET", "/agent/v1/orders", params=params)

    async def changes(self, after: int | None = None) -> Orders | None:
        """Return the orders that are there now."""
        answer = await self.poll(after=after)
        return msgspec.convert(answer.body, Orders) if answer.status == 200 else None

    def next_report(self, *items: Item, time: dt.datetime | None = None) -> Report:
        """Return the session's next report."""
        self.sequence += 1
        return Report(
            session=self.session,
            sequence=self.sequence,
            applied_position=self.position,
            time=time or dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            items=items,
        )

    async def send(self, report: Report) -> Answer:
        """Send a report."""
        return await self.ask("POST", "/agent/v1/report", content=msgspec.json.encode(report))

    async def report(self, *items: Item) -> ReportAck:
        """Send the next report, which must be taken."""
        answer = await self.send(self.next_report(*items))
        assert answer.status == 200, answer.body
        return msgspec.convert(answer.body, ReportAck)


class Bench:
    """Everything around the gateway."""

    def __init__(self, folder: Path, now: dt.datetime | None = None) -> None:
        self.folder = folder
        self.log = MemoryLog()
        self.clock = Clock()
        self.clock.now = now or self.clock.now
        self.contacts = MemoryContacts()
        self.vault = MemoryVault()
        self.engines = 0
        self._ids = 0
        self.authority = CertificateAuthority.create(folder / "ca", self.clock.now)
        self.authorities = Authorities(folder / "ca")
        self.secret = EngineSecret.load_or_create(folder / "engine.secret")
        self.engine = self.new_engine()
        self.handler = self.engine.handler
        self.enrolment = self.engine.enrolment
        self.runner = Runner(self.log, self.context, Timeouts(launch_s=60, retry_s=30), "policies")
        self.cluster = ""
        self.operation: str | None = None

    def new_engine(self) -> Engine:
        """Return another engine on the same log."""
        self.engines += 1
        return Engine(
            self.log,
            self.clock,
            self.contacts,
            self.source_for,
            self._make_enrolment,
            self.vault,
            f"engine-{self.engines}",
        )

    def _make_enrolment(self, handler: Handler, view: GatewayView) -> Enrolment:
        trust = self.folder / "ca" / "trust.crt"
        return Enrolment(handler, view, self.authorities, self.secret, trust, "https://gateway")

    def context(self, actor: str) -> Context:
        """Return a context with counted ids."""
        return Context(
            command=self._id(),
            time=self.clock.now,
            actor=actor,
            ids=tuple(str(self._id()) for _ in range(4)),
            randoms=tuple(self._ids * 100 + n for n in range(16)),
            secret_sha256=self._digest,
        )

    def _digest(self, token_id: str) -> str:
        return self.secret.enrolment_digest(token_id)

    def source_for(self, actor: str) -> Callable[[], Context]:
        """Return a source of contexts for an actor."""
        return lambda: self.context(actor)

    def _id(self) -> uuid.UUID:
        self._ids += 1
        return uuid.UUID(int=self._ids)

    async def do(self, command: Command) -> str:
        """Run an admin's command; return the object's id."""
        accepted = await self.handler.handle(
            command.decide, self.source_for("admin"), principal="admin"
        )
        answer = msgspec.json.decode(accepted.answer)
        self.operation = answer.get("operation")
        return str(answer["id"])

    async def settle(self) -> None:
        """Let the policies make their moves, and the gateway see them."""
        for _ in range(2):
            await self.runner.turn()
        await self.seen()

    async def seen(self) -> None:
        """Wait until the gateway has seen the whole log."""
        async with asyncio.timeout(5):
            while self.engine.view.position < await self.log.head():
                await asyncio.sleep(0)

    async def token(self, host: str, valid_s: int = 3_600) -> str:
        """Give out an enrolment token's text."""
        await self.do(IssueEnrolmentToken(id=host, valid_s=valid_s))
        await self.seen()
        state = self.engine.view.hosts[host]
        assert state.token is not None
        return self.enrolment.token_text(state.token.id)

    async def join(self, token: str, machine: str, key: str | None = None) -> JoinAnswer:
        """Have a machine ask for its certificate."""
        request = make_host_key_and_request(self.folder / f"key-{key or machine}", machine)
        join = Join(
            token=token, signing_request=request.decode(), hardware=f"hardware-of-{machine}"
        )
        answer = await self.enrolment.join(join, self.source_for("machine"))
        await self.seen()
        return answer

    async def agent(self, name: str = "host1") -> Agent:
        """Return the agent of a new host, which has said hello."""
        host = await self.do(AddHost(name=name, cluster=self.cluster, approved=True))
        answer = await self.join(await self.token(host), name)
        assert answer.certificate is not None
        agent = Agent(host, name, der(answer.certificate), self.engine)
        assert (await agent.say_hello()).status == 200
        return agent

    async def history(self) -> list[Recorded]:
        """Return the whole log."""
        return [CODEC.decode(stored) for stored in await self.log.read(0, 100_000)]

    async def show(self, engine: Engine) -> None:
        """Have another engine take in the log up to now."""
        for recorded in (await self.history())[engine.view.position :]:
            engine.view.take(recorded)

    async def names(self, after: int = 0) -> list[str]:
        """Return the names of the events after a position."""
        return [recorded.name for recorded in (await self.history())[after:]]


def der(pem: str) -> bytes:
    """Return a certificate as TLS shows it."""
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


@asynccontextmanager
async def opened(folder: Path, now: dt.datetime | None = None) -> AsyncIterator[Bench]:
    """A bench with a cluster, followed by its engine."""
    bench = Bench(folder, now)
    following = asyncio.create_task(bench.engine.follow())
    try:
        data_center = await bench.do(CreateDataCenter(name="Default"))
        bench.cluster = await bench.do(CreateCluster(name="Default", data_center=data_center))
        await bench.runner.begin()
        yield bench
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
