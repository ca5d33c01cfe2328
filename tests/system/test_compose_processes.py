"""docker-compose.yml without containers: its commands as processes, its volumes as folders.

Each service of ours runs what the file says, with the environment, volumes and health check that
it says; only paths, addresses and ports are put in their place here. So it shows that each process
finds what it needs in the volumes that it mounts, and nothing else: the agent sees no key of the
engine, and what follows from a VM's start goes through Kafka.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from chronovisor.containers import INITIAL_SQL_NAME
from tests.conftest import require
from tests.harness.kafka import KafkaBroker
from tests.harness.postgres import PostgresServer
from tests.harness.processes import free_port, kill_tree, start_process, tail, wait_until
from tests.harness.workspace import Workspace
from tests.unit.repo.compose_file import OURS, mounts, read_compose

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
DIR, SECRETS = "/var/lib/chronovisor", "/run/secrets/chronovisor"
HEALTH_TIMEOUT_S = 90
RUN_TIMEOUT_S = 60
ORDER = ("engine", "policies", "projector", "relay", "dwh", "notifier")
Json = dict[str, Any]


class Composed:
    """The services of ours, each in a folder of its own with its volumes linked in."""

    def __init__(self, workspace: Workspace, postgres: PostgresServer, kafka: KafkaBroker) -> None:
        self.root = workspace.make_folder("compose", mode=0o700)
        self.api_port, self.gateway_port = free_port(), free_port()
        self._workspace = workspace
        self._processes: list[subprocess.Popen[bytes]] = []
        self._places = {
            "kafka:9092": kafka.bootstrap,
            "--database-host=postgres": "--database-host=127.0.0.1",
            "0.0.0.0": "127.0.0.1",
        }
        self._more = {
            "CHRONOVISOR_API__PORT": str(self.api_port),
            "CHRONOVISOR_GATEWAY__PORT": str(self.gateway_port),
            "PGPORT": str(postgres.port),
            "PYTHONSAFEPATH": "1",  # as in the image
        }
        self._services = read_compose({"ENGINE_NAME": "localhost"})["services"]
        for name, service in OURS.items():
            self._make_container(name, service)

    def volume(self, name: str) -> Path:
        """The folder of a volume."""
        return self.root / "volumes" / name

    def _make_container(self, name: str, service: Json) -> None:
        inside = self.root / name
        for path in (DIR, SECRETS):
            (inside / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        # Outer mounts before those inside of them.
        for source, (target, _) in sorted(mounts(service).items(), key=lambda one: one[1][0]):
            self.volume(source).mkdir(mode=0o700, parents=True, exist_ok=True)
            place = inside / target[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.symlink_to(self.volume(source))
        (inside / DIR[1:] / "run").mkdir(mode=0o700, parents=True, exist_ok=True)

    def _command(self, name: str, words: list[str]) -> list[str]:
        inside = self.root / name
        found = []
        for word in words:
            placed = self._places.get(word, word)
            for path in (DIR, SECRETS):
                placed = placed.replace(path, str(inside / path[1:]))
            found.append(placed)
        if found[0] == "chronovisor":
            return [sys.executable, "-m", "chronovisor.cli.main", *found[1:]]
        assert found[0] == "python"
        return [sys.executable, *found[1:]]

    def _environment(self, name: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith(("CHRONOVISOR_", "PG"))}
        for variable, value in self._services[name]["environment"].items():
            placed = self._places.get(value, value)
            own[variable] = placed.replace(SECRETS, str(self.root / name / SECRETS[1:]))
        return own | self._more

    def _whole_command(self, name: str) -> list[str]:
        service = self._services[name]
        return self._command(
            name, [*service.get("entrypoint", ["chronovisor"]), *service["command"]]
        )

    def complete(self, name: str) -> None:
        """Run a service that ends."""
        done = subprocess.run(
            self._whole_command(name),
            env=self._environment(name),
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_TIMEOUT_S,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    def start(self, name: str) -> None:
        """Start a service that lasts, and wait until it is healthy."""
        log = self.root / f"{name}.log"
        process = start_process(
            self._whole_command(name), log, folder=self.root, environment=self._environment(name)
        )
        self._workspace.note_process(process.pid)
        self._processes.append(process)
        wait_until(
            lambda: process.poll() is not None or self.healthy(name),
            HEALTH_TIMEOUT_S,
            f"{name} to be healthy",
            interval_s=0.5,
            detail=lambda: tail(log),
        )
        assert process.poll() is None, tail(log)

    def healthy(self, name: str) -> bool:
        """What the service's health check says."""
        words = self._services[name]["healthcheck"]["test"][1:]
        done = subprocess.run(
            self._command(name, words),
            env=self._environment(name),
            capture_output=True,
            check=False,
            timeout=RUN_TIMEOUT_S,
        )
        return done.returncode == 0

    def client(self) -> httpx.Client:
        """A client with the token that the set-up made."""
        engine = self.volume("engine")
        return httpx.Client(
            base_url=f"https://localhost:{self.api_port}",
            verify=ssl.create_default_context(cafile=str(engine / "ca" / "trust.crt")),
            headers={"Authorization": f"Bearer {(engine / 'admin.token').read_text().strip()}"},
            timeout=60,
        )

    def stop(self) -> None:
        """Stop everything, the last one first."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(30)
            finally:
                kill_tree(process.pid)


@pytest.fixture
def composed(workspace: Workspace) -> Iterator[Composed]:
    """Everything of the file but Grafana, started in its order."""
    require("kafka")
    postgres, kafka = PostgresServer(workspace), KafkaBroker(workspace)
    composed = Composed(workspace, postgres, kafka)
    try:
        postgres.start()
        kafka.start()
        composed.complete("setup")
        sql = (composed.volume("postgres-secret") / INITIAL_SQL_NAME).read_text()
        with psycopg.connect(postgres.database().url, autocommit=True) as connection:
            for statement in sql.splitlines():
                connection.execute(statement.encode())
        for name in ORDER:
            composed.start(name)
        yield composed
    finally:
        composed.stop()
        kafka.kill()
        postgres.kill()


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_every_process_finds_what_it_needs_in_its_volumes(composed: Composed) -> None:
    keys = files(composed.volume("engine"))
    composed.complete("enrol")
    composed.start("agent")
    # `enrol` mounts the engine's folder read only.
    assert files(composed.volume("engine")) == keys

    with composed.client() as http:
        wait_until(
            lambda: http.get("/v1/hosts", params={"status": "up"}).json()["items"],
            60,
            "the simulated host to be up",
        )
        cluster = http.get("/v1/clusters").json()["items"][0]["id"]
        made = http.post("/v1/vms", json={"name": "boxed01", "cluster": cluster})
        assert made.status_code == 201, made.text
        started = http.post(
            f"/v1/vms/{made.json()['id']}/start", json={}, headers={"Prefer": "wait=60"}
        )
        assert started.json()["operation"]["outcome"] == "succeeded", started.text
        position = int(started.headers["Chronovisor-Position"])
        wait_until(
            lambda: all(
                (part["position"] or 0) >= position and part["state"] == "up"
                for part in http.get("/v1/health").json()["parts"]
            ),
            60,
            "every part to have seen the start",
        )
        parts = {part["part"] for part in http.get("/v1/health").json()["parts"]}

    assert set(ORDER) <= parts
    told = (composed.volume("notifier") / "notifications.log").read_text()
    assert "VM boxed01 started on host host-01." in told
    assert "ca.key" not in " ".join(files(composed.volume("hosts")))

    # Done again, as at every `up`, the one-shots change nothing.
    composed.complete("setup")
    composed.complete("enrol")
    assert files(composed.volume("engine")) == keys
    assert all(composed.healthy(name) for name in (*ORDER, "agent"))
