"""PostgreSQL and Kafka take what docker-compose.yml tells them; there is no container here.

Kafka's image turns its environment into a configuration by a class of Kafka's own, and PostgreSQL's
image runs the SQL that the set-up wrote: both can be done without an image.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from chronovisor.containers import INITIAL_SQL_NAME, make_database_secrets
from tests.conftest import require
from tests.harness.kafka import KafkaBroker, KafkaFiles
from tests.harness.postgres import PostgresServer, _as
from tests.harness.processes import free_port, run_command
from tests.harness.workspace import Workspace
from tests.unit.repo.compose_file import SERVICES

pytestmark = pytest.mark.integration
WRAPPER = "kafka.docker.KafkaDockerWrapper"


@pytest.fixture
def own_postgres(workspace: Workspace) -> Iterator[PostgresServer]:
    """A server of the test's own: roles are the whole server's."""
    server = PostgresServer(workspace)
    server.start()
    yield server
    server.kill()


def test_postgres_runs_the_sql_of_the_setup(own_postgres: PostgresServer, tmp_path: Path) -> None:
    dsn_file = tmp_path / "database" / "dsn"
    make_database_secrets(tmp_path, dsn_file, "127.0.0.1")
    psql: list[str | Path] = [own_postgres.binaries / "psql", "--no-psqlrc", "--quiet"]
    psql += ["--set=ON_ERROR_STOP=1", f"--dbname={own_postgres.database().url}"]

    run_command([*psql, f"--file={tmp_path / INITIAL_SQL_NAME}"])

    dsn = conninfo_to_dict(dsn_file.read_text().strip()) | {"port": str(own_postgres.port)}
    with psycopg.connect(**dsn) as connection:  # type: ignore[arg-type]
        connection.execute("create schema log; create table log.events (position bigint)")
        row = connection.execute(
            "select current_user, current_database(), rolsuper, rolcreaterole"
            " from pg_roles where rolname = current_user"
        ).fetchone()
    assert row == ("chronovisor", "chronovisor", False, False)


def test_postgres_takes_the_options_of_its_first_start(own_postgres: PostgresServer) -> None:
    service = SERVICES["postgres"]
    program, *options = service["command"]
    data = own_postgres.folder / "of-compose"
    binaries, account = own_postgres.binaries, _as(own_postgres._account)
    initdb: list[str | Path] = [*account, binaries / "initdb", "-D", data, "--no-sync"]
    server: list[str | Path] = [*account, binaries / program, "-D", data, *options]

    run_command([*initdb, *service["environment"]["POSTGRES_INITDB_ARGS"].split()], timeout_s=60)
    shown = run_command([*server, "-C", "max_connections"])

    assert shown.stdout.strip() == "100"


@pytest.fixture
def composed_kafka(workspace: Workspace) -> Iterator[KafkaBroker]:
    """The broker as the image would run it: on other ports, and in a folder of the test's."""
    require("kafka")
    broker = KafkaBroker(workspace)
    data = broker.folder / "composed"
    broker.configuration = broker.folder / "final" / "server.properties"
    for folder in (broker.folder / "default", broker.folder / "mounted", broker.folder / "final"):
        folder.mkdir()
    # The image's own file; whatever the environment says takes its place.
    (broker.folder / "default" / "server.properties").write_text("process.roles=broker\n")
    given = {name: str(v) for name, v in SERVICES["kafka"]["environment"].items()}
    controller = free_port()
    environment = {
        name: value.replace("kafka:9092", f"127.0.0.1:{broker.port}")
        .replace("//:9092", f"//127.0.0.1:{broker.port}")
        .replace("localhost:9093", f"127.0.0.1:{controller}")
        .replace("/var/lib/kafka/data", str(data))
        for name, value in given.items()
    }
    done = subprocess.run(
        [
            *(*KafkaFiles().java(), WRAPPER, "setup"),
            *("--default-configs-dir", broker.folder / "default"),
            *("--mounted-configs-dir", broker.folder / "mounted"),
            *("--final-configs-dir", broker.folder / "final"),
        ],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield broker
    broker.kill()


def test_kafka_starts_as_its_environment_says(composed_kafka: KafkaBroker) -> None:
    composed_kafka.start()
    composed_kafka.create_topic("chronovisor.events.test")
    before = composed_kafka.topics()
    composed_kafka.restart()

    assert before == {"chronovisor.events.test"}
    assert composed_kafka.topics() == before
    text = composed_kafka.configuration.read_text()
    assert "auto.create.topics.enable=false" in text
    assert "transaction.state.log.replication.factor=1" in text
