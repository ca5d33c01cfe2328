"""The API over a log in memory, asked in the process."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from access.certificates import CertificateAuthority
from access.principals import BOOTSTRAP_ADMIN, host_principal
from access.secrets import EngineSecret
from access.ssh_key import SshKey
from access.succession import Authorities
from access.tokens import TokenVerifier, token_digest
from access.vault import MemoryVault
from commands.api.app import Api
from commands.api.application import Application
from commands.api.machines import Machines
from commands.gateway.enrolment import Enrolment
from commands.gateway.placement import Placement
from commands.gateway.view import GatewayView
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import Fold, World
from commands.kernel.handler import Handler
from commands.remote.source import AgentFile
from commands.state.host import HOST
from commands.state.operation import OPERATION
from commands.state.vm import VM
from events.codec import CODEC
from events.envelope import Recorded
from events.log.memory import MemoryLog
from events.log.port import Log
from events.types.base import Event

TOKEN = "t" * 43
HOST_TOKEN = "h" * 43
NOBODY = "00000000-0000-0000-0000-000000000000"
Json = dict[str, Any]
_FOLDS: dict[str, Fold[Any]] = {"vm": VM, "host": HOST, "operation": OPERATION}


class Asked:
    """The API and those who ask it."""

    def __init__(self, folder: Path, log: Log | None = None) -> None:
        self.log: Log = log or MemoryLog()
        self.handler = Handler(self.log)
        self.view = GatewayView()
        self.secret = EngineSecret(b"k" * 32)
        self.vault = MemoryVault()
        CertificateAuthority.load_or_create(folder / "ca", dt.datetime.now(dt.UTC))
        self.enrolment = Enrolment(
            self.handler,
            self.view,
            Authorities(folder / "ca"),
            self.secret,
            folder / "ca" / "trust.crt",
            "https://engine:8801",
        )
        self.behind = 0
        self.health: Mapping[str, object] = {"ok": True, "parts": [], "head": 0}
        self.agent = AgentFile(
            path=folder / "agent", sha256="a" * 64, architecture="x86_64", python="3.11"
        )
        self.api = Api(
            handler=self.handler,
            reader=self.log,
            tokens=TokenVerifier(
                {
                    token_digest(TOKEN): BOOTSTRAP_ADMIN,
                    token_digest(HOST_TOKEN): host_principal(NOBODY),
                }
            ),
            secret=self.secret,
            vault=self.vault,
            enrolment=self.enrolment,
            placement=Placement(self.view),
            machines=Machines(self, SshKey.load_or_create(folder / "ssh")),
            health=self._health,
            behind=lambda: self.behind,
        )
        self.application = Application(
            self.api.routes(b'{"openapi":"3.1.0"}', "<p>page</p>", "default-src 'none'")
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.application, raise_app_exceptions=False),
            base_url="http://engine",
            headers={"Authorization": f"Bearer {TOKEN}"},
        )

    async def bundle(self) -> AgentFile:
        """Give a bundle that is none, as a source of the agent."""
        self.agent.path.write_bytes(b"bundle")
        return self.agent

    async def _health(self) -> Mapping[str, object]:
        return self.health

    async def send(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> httpx.Response:
        """Send a request; header names are given with underscores."""
        content = body if isinstance(body, bytes) else None
        if body is not None and content is None:
            content = msgspec.json.encode(body)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.request(method, path, content=content, headers=given)

    async def post(self, path: str, body: object = None, **headers: str) -> httpx.Response:
        return await self.send("POST", path, body, **headers)

    async def made(self, path: str, body: Json) -> str:
        """Make an object; return its id."""
        answer = await self.post(path, body)
        assert answer.status_code in {201, 202}, answer.text
        return str(answer.json()["id"])

    async def cluster(self) -> str:
        """Make a data center with a cluster; return the cluster's id."""
        place = await self.made("/v1/data_centers", {"name": "Default"})
        return await self.made("/v1/clusters", {"name": "Default", "data_center": place})

    async def vm(self, **fields: object) -> str:
        """Make a VM in a cluster of its own; return its id."""
        body: Json = {"name": "web01", "cluster": await self.cluster(), **fields}
        return await self.made("/v1/vms", body)

    async def append(self, stream: str, *events: Event) -> int:
        """Append events, as if something had decided them; return the last position."""

        def decide(world: World, context: Context) -> Decision:
            kind, _, key = stream.partition("/")
            world.get(_FOLDS[kind], key)
            return Decision(id=key, events=on(stream, *events))

        source = lambda: self.api.context("test", 2, 0)  # noqa: E731
        accepted = await self.handler.handle(decide, source, principal="test")
        return accepted.position

    async def history(self) -> list[Recorded]:
        """Return the whole log."""
        return [CODEC.decode(stored) for stored in await self.log.read(0, 10_000)]

    async def catch_up(self) -> None:
        """Let the gateway's view see the whole log."""
        for recorded in (await self.history())[self.view.position :]:
            self.view.take(recorded)


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    """The API, with nothing in its log."""
    asked = Asked(tmp_path)
    async with asked.http:
        yield asked
    await asked.api.close()


def problem(answer: httpx.Response, status: int, kind: str) -> Json:
    """Return the problem that an answer is; fails if it is not this one, whole and readable."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: Json = answer.json()
    assert document["type"] == kind, document
    assert document["status"] == status
    assert document["title"]
    assert document["detail"].endswith((".", "?")), document["detail"]
    assert document["instance"] == answer.request.url.path
    assert document["request_id"] == answer.headers["x-request-id"]
    return document
