"""The product under test: `chronovisor up` as a process of its own, asked over HTTP as users do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg

from chronovisor.folder import Folder
from chronovisor.installation import Installation
from chronovisor.supervisor import read_status
from dwh.client import ask
from dwh.queries import Query
from projections.reads.context import MIN_POSITION_HEADER, POSITION_HEADER
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace

PROJECT = Path(__file__).resolve().parents[2]
OVERLOADED_MAX = 5
OWN_POLICY = "without-cpu-load"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0
Json = dict[str, Any]


class Product:
    """One installation and its processes.

    `settings` is the text of its `chronovisor.toml`. `environment` comes on top of ours.
    """

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        settings: str = "",
        *,
        hosts: int = 1,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.root = workspace.make_folder(name)
        self.folder = Folder(self.root)
        (self.root / "chronovisor.toml").write_text(settings)
        self._workspace = workspace
        self._arguments = ("--hosts", str(hosts), *arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._http: httpx.Client | None = None
        self._written = 0
        self.output = self.root / "up.log"

    def run_hosts(self, hosts: int) -> None:
        """Have another number of simulated hosts from the next start on."""
        self._arguments = ("--hosts", str(hosts))

    def start(self, port: int = 0) -> None:
        """Start everything and wait until it says that it is up."""
        self._written = 0  # what starts may be another log: one that was restored
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "chronovisor.cli.main", "up"),
                    *("--dir", str(self.root), "--port", str(port), *self._arguments),
                ],
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._workspace.note_process(self._process.pid)
        begun = self.output.read_text().count("Chronovisor is up")
        wait_until(
            lambda: self._ended() or self.output.read_text().count("Chronovisor is up") > begun,
            timeout_s=START_TIMEOUT_S,
            what="chronovisor up",
            detail=self.last_words,
        )
        assert self._process.poll() is None, self.last_words()

    def stop(self) -> int:
        """Press Ctrl-C and return the exit code."""
        if self._process is None:
            return 0
        if self._http is not None:
            self._http.close()
            self._http = None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        finally:
            self._process.kill()
            self._process.wait()

    @property
    def supervisor_pid(self) -> int:
        """The process id of `up` itself."""
        assert self._process is not None
        return self._process.pid

    def kill_everything(self) -> None:
        """Kill the supervisor with -9: the parts end with it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def last_words(self) -> str:
        """Return the end of what the processes said, for a failed test's message."""
        logs = sorted((self.root / "log").glob("*.log")) if (self.root / "log").exists() else []
        texts = [f"--- up\n{self.output.read_text()[-2_000:]}"]
        texts += [f"--- {log.name}\n{log.read_text(errors='replace')[-1_500:]}" for log in logs]
        return "\n".join(texts)

    def pid(self, part: str) -> int:
        """Return the process id of a part that runs."""
        status = read_status(self.root)
        assert status is not None
        pid = next(one.pid for one in status.parts if one.name == part)
        assert pid is not None, f"{part} does not run"
        return pid

    def kill(self, part: str) -> int:
        """Kill a part with -9; the supervisor starts it again."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGKILL)
        return pid

    def pause(self, part: str, seconds: float) -> None:
        """Freeze a part for a while."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    @property
    def url(self) -> str:
        """Where the API is."""
        return str(json.loads(self.folder.addresses.read_text())["api"])

    @property
    def http(self) -> httpx.Client:
        """A client with the admin's token that trusts the product's CA."""
        if self._http is None:
            context = ssl.create_default_context(cafile=str(self.folder.authority / "trust.crt"))
            token = self.folder.admin_token.read_text().strip()
            self._http = httpx.Client(
                base_url=self.url,
                verify=context,
                headers={"Authorization": f"Bearer {token}"},
                timeout=90,
                event_hooks={"response": [self._note_position]},
            )
        return self._http

    def _note_position(self, response: httpx.Response) -> None:
        """Keep the position of what was written last, for reads to wait for it."""
        if response.request.method != "GET":
            self._written = max(self._written, int(response.headers.get(POSITION_HEADER, "0")))

    def post(self, path: str, body: Json | None = None, **headers: str) -> Json:
        """Send a command; return the answer. Fails the test on a problem.

        As the CLI does, it asks again where the engine is overloaded: where a busy disk keeps the
        log waiting, say.
        """
        once = {"Idempotency-Key": str(uuid.uuid4())} | headers
        response = self.http.post(path, json=body or {}, headers=once)
        for _ in range(OVERLOADED_MAX):
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(float(response.headers["Retry-After"]))
            response = self.http.post(path, json=body or {}, headers=once)
        assert response.is_success, f"POST {path}: {response.status_code} {response.text}"
        answer: Json = response.json()
        return answer

    def insist(
        self, method: str, path: str, body: Json | None, key: str, timeout_s: float = 60
    ) -> httpx.Response:
        """Send a command until it is answered, under one Idempotency-Key, whatever dies meanwhile.

        Only outages are repeated: refusals are answers.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                response = self.http.request(
                    method, path, json=body, headers={"Idempotency-Key": key}, timeout=5
                )
                if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return response
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"{method} {path} was never answered"
            time.sleep(0.2)

    def get(self, path: str, **parameters: str) -> Json:
        """Read what was written; fails the test on a problem.

        An inventory that stands still answers as it is, a little later.
        """
        own = {MIN_POSITION_HEADER: str(self._written)} if self._written else {}
        response = self.http.get(path, params=parameters, headers=own)
        if own and response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            response = self.http.get(path, params=parameters)
        assert response.is_success, f"GET {path}: {response.status_code} {response.text}"
        answer: Json = response.json()
        return answer

    def items(self, path: str, **parameters: str) -> list[Json]:
        """Return a list's items."""
        found: list[Json] = self.get(path, **parameters)["items"]
        return found

    def history(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the warehouse; an outage is an empty answer."""
        try:
            answer, body = asyncio.run(ask(self.folder.query_socket, Query(sql=sql)))
        except OSError:
            return [(0,)]
        assert answer.failure is None, answer
        return [tuple(row) for row in json.loads(body)]

    def count_secrets(self) -> int:
        """Return how many secrets lie in the vault."""
        with psycopg.connect(Installation.open(self.root).dsn()) as connection:
            row = connection.execute("select count(*) from vault.secrets").fetchone()
        return int(row[0]) if row is not None else 0

    def cluster(self) -> str:
        """Return the id of the cluster Default."""
        return str(self.items("/v1/clusters", name="Default")[0]["id"])

    def ignore_cpu_load(self) -> None:
        """Let the cluster Default place VMs by everything but the load of hosts' CPUs.

        Real hosts are namespaces of one machine: what they measure is that of all tests together.
        """
        if self.items("/v1/scheduling_policies", name=OWN_POLICY):
            return
        policy = self.post("/v1/scheduling_policies", {"name": OWN_POLICY, "like": "none"})["id"]
        basic = self.get(f"/v1/scheduling_policies/{policy}")
        own = {
            "filters": [each for each in basic["filters"] if each != "CPUOverloaded"],
            "weights": [
                each for each in basic["weights"] if each["unit"] != "OptimalForCpuEvenDistribution"
            ],
        }
        assert len(own["filters"]) < len(basic["filters"]), basic
        assert len(own["weights"]) < len(basic["weights"]), basic
        answer = self.http.patch(f"/v1/scheduling_policies/{policy}", json=own)
        assert answer.is_success, answer.text
        self.post(f"/v1/clusters/{self.cluster()}/scheduling", {"scheduling_policy": policy})

    def await_status(self, path: str, status: str, timeout_s: float = 30) -> Json:
        """Wait until an object has a status; return it."""
        seen: Json = {}

        def reached() -> bool:
            nonlocal seen
            try:
                seen = self.get(path)
            except (httpx.TransportError, AssertionError):
                return False
            return bool(seen.get("status") == status)

        wait_until(
            reached,
            timeout_s=timeout_s,
            what=f"{path} to be {status}",
            detail=lambda: f"{json.dumps(seen)[:3_000]}\n{self.last_words()}",
        )
        return seen

    def finish(self, answer: Json, timeout_s: float = 60) -> Json:
        """Wait for the end of the operation that an answer names; return it."""
        operation = answer["operation"]["id"]
        seen: Json = {}

        def ended() -> bool:
            nonlocal seen
            try:
                seen = self.get(f"/v1/operations/{operation}")
            except (httpx.TransportError, AssertionError):
                return False
            return seen["status"] in {"succeeded", "failed", "cancelled"}

        wait_until(
            ended,
            timeout_s=timeout_s,
            what=f"operation {operation} to end",
            detail=lambda: f"{json.dumps(seen)[:3_000]}\n{self.last_words()}",
        )
        return seen

    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


def running(workspace: Workspace, name: str, settings: str = "", **more: Any) -> Iterator[Product]:
    """Start a product for a fixture, and stop it afterwards."""
    product = Product(workspace, name, settings, **more)
    product.start()
    try:
        yield product
    finally:
        product.stop()


Check = Callable[[], bool]
