"""The CLI in the process, and an engine that answers what the test tells it to."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from chronovisor.cli import client
from chronovisor.cli.main import build

URL = "https://engine:8800"
TOKEN = "t" * 43
VM, CLUSTER, HOST, OPERATION, POOL = (
    f"00000000-0000-0000-0000-00000000000{number}" for number in range(1, 6)
)
Json = dict[str, Any]
Answer = httpx.Response | Exception


class FakeEngine:
    """Knows objects by name, notes what it is asked, and answers what it was told."""

    def __init__(self) -> None:
        self.objects: dict[str, list[Json]] = {
            "vms": [{"id": VM, "name": "web01", "status": "up", "memory_bytes": 1 << 30}],
            "clusters": [{"id": CLUSTER, "name": "Default"}],
            "hosts": [{"id": HOST, "name": "kvm01"}],
            "data_centers": [],
            "mac_pools": [{"id": POOL, "name": "west"}],
            "operations": [],
            "events": [],
        }
        self.asked: list[httpx.Request] = []
        self.answers: list[Answer] = []
        self.away = False

    @property
    def commands(self) -> list[httpx.Request]:
        """The requests that were commands."""
        return [request for request in self.asked if request.method != "GET"]

    def tell(self, status: int, body: object, **headers: str) -> None:
        """Answer the next command (or the next request for one object) so."""
        self.answers.append(httpx.Response(status, json=body, headers=headers))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self.away:
            raise httpx.ConnectError("refused")
        listed = re.fullmatch(r"/v1/([a-z_]+)", request.url.path)
        if request.method == "GET" and listed and listed[1] in self.objects:
            return self._list(listed[1], request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _list(self, collection: str, request: httpx.Request) -> httpx.Response:
        found = self.objects[collection]
        name = request.url.params.get("name")
        if name is not None:
            found = [item for item in found if fnmatch.fnmatchcase(item["name"], name)]
        limit = int(request.url.params.get("limit", "100"))
        start = int(request.url.params.get("cursor", "0"))
        page = found[start : start + limit]
        more = start + limit < len(found)
        following = f"/v1/{collection}?limit={limit}&cursor={start + limit}" if more else None
        return httpx.Response(200, json={"items": page, "next": following, "position": 7})


class Cli:
    """Runs the CLI."""

    def __init__(self, engine: FakeEngine, folder: Path) -> None:
        self.engine = engine
        self.token = folder / "token"
        self.token.write_text(TOKEN + "\n")
        self._app = build()

    def __call__(self, *words: str, code: int = 0, given: str | None = None) -> Result:
        """Run a command; fails if it ends with another exit code."""
        environment = {"CHRONOVISOR_URL": URL, "CHRONOVISOR_TOKEN_FILE": str(self.token)}
        result = CliRunner(env=environment).invoke(self._app, list(words), input=given)
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result

    def json(self, *words: str) -> Any:
        """Run a command with JSON as its output; return that."""
        return json.loads(self(*words, "-o", "json").stdout)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What the CLI's requests reach."""
    engine = FakeEngine()
    real: Callable[..., httpx.Client] = httpx.Client

    def make(**settings: Any) -> httpx.Client:
        return real(**settings, transport=httpx.MockTransport(engine))

    monkeypatch.setattr(httpx, "Client", make)
    monkeypatch.setattr(client, "RETRY_S", 0.0)
    return engine


@pytest.fixture
def cli(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The CLI, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return Cli(engine, tmp_path)
