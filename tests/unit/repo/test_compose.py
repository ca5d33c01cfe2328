"""docker-compose.yml: it is a Compose file, and says what the code understands."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from chronovisor import containers
from chronovisor.cli.processes import register
from chronovisor.parts.__main__ import PARTS
from chronovisor.postgres_account import MAJOR_VERSION
from chronovisor.settings import PREFIX, SettingsError, load
from tests.unit.repo.compose_file import COMPOSE, FILE, OURS, ROOT, SERVICES, THEIRS, mounts

SCHEMA = ROOT / "tests" / "data" / "compose-spec" / "compose-spec.json"
DIR = "/var/lib/chronovisor"
PROCESSES = {"serve", "policies", "projector", "relay", "dwh", "notifier", "fleet"}
ONE_SHOTS = {"setup", "enrol"}


def errors(document: Any) -> list[str]:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    return [error.message for error in validator(schema).iter_errors(document)]


def test_it_is_what_the_compose_specification_allows() -> None:
    assert errors(COMPOSE) == []


def test_the_schema_refuses_what_it_does_not_allow() -> None:
    assert errors({"services": {"engine": {"image": "x", "comand": "serve"}}})
    assert errors({"services": {"engine": {"image": "x", "restart": 7}}})


def test_no_variable_is_required_or_left_unset() -> None:
    text = re.sub(r"(?m)^\s*#.*$", "", FILE.read_text(encoding="utf-8"))

    used = set(re.findall(r"\$\{?(\w+)", text))

    assert used == {"ENGINE_NAME", "PUBLISH_ADDRESS"}
    assert "$" not in yaml.safe_dump(COMPOSE)
    told = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name in used if f"`{name}`" not in told] == []


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_variables_of_our_containers_are_settings(name: str, tmp_path: Path) -> None:
    environment: dict[str, str] = OURS[name]["environment"]

    assert all(variable.startswith(PREFIX) for variable in environment)
    settings = load(tmp_path, environment)

    assert str(settings.database.dsn_file) == "/run/secrets/chronovisor/database/dsn"
    assert settings.kafka.bootstrap == "kafka:9092"
    assert settings.gateway.address == settings.api.names[0] == "engine"


def test_a_variable_that_is_no_setting_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="dsn_fiel"):
        load(tmp_path, {"CHRONOVISOR_DATABASE__DSN_FIEL": "x"})


def parse(argv: list[str], entrypoint: list[str]) -> str:
    """What a container runs, by the parser that will read it; fails if it will not."""
    if entrypoint == ["python", "-m", "chronovisor.containers"]:
        arguments = containers.parser().parse_args(argv)
        assert str(arguments.dir) == DIR
        return str(arguments.action)
    if entrypoint == ["python", "-m", "chronovisor.parts"]:
        assert argv[1:] == [f"--dir={DIR}"]
        assert argv[0] in PARTS
        return argv[0]
    assert entrypoint == ["chronovisor"]
    app = typer.Typer()
    register(app)
    command = typer.main.get_command(app)
    with command.make_context("chronovisor", list(argv)) as context:
        name, chosen, rest = command.resolve_command(  # type: ignore[attr-defined]
            context, [*context._protected_args, *context.args]
        )
        with chosen.make_context(name, list(rest), parent=context) as inner:
            assert str(inner.params["folder"]) == DIR
    return str(name)


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_our_containers_run_exists(name: str) -> None:
    service = OURS[name]

    ran = parse(service["command"], service.get("entrypoint", ["chronovisor"]))

    assert ran == {"engine": "serve", "agent": "fleet"}.get(name, name)


def test_every_process_is_a_service_of_its_own() -> None:
    running = [
        parse(service["command"], service.get("entrypoint", ["chronovisor"]))
        for service in OURS.values()
    ]

    assert sorted(running) == sorted(PROCESSES | ONE_SHOTS)
    # `agent` is a real host's; every other part has its service.
    assert set(PARTS) - {"agent"} == {"engine" if p == "serve" else p for p in PROCESSES}
    assert set(THEIRS) == {"postgres", "kafka", "grafana"}


@pytest.mark.parametrize("name", sorted(set(OURS) - ONE_SHOTS))
def test_the_health_check_of_our_process_asks_for_that_process(name: str) -> None:
    program, *argv = OURS[name]["healthcheck"]["test"]

    assert program == "CMD"
    if name == "agent":
        assert argv[:3] == ["python", "-m", "chronovisor.containers"]
        assert parse(argv[3:], argv[:3]) == "agent-health"
    else:
        assert argv == ["chronovisor", "check", name, f"--dir={DIR}"]
        assert parse(argv[1:], argv[:1]) == "check"


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOTS))
def test_every_service_that_lasts_has_a_health_check_and_starts_again(name: str) -> None:
    service = SERVICES[name]

    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    for limit in ("interval", "timeout", "retries", "start_period"):
        assert limit in service["healthcheck"]


def test_services_wait_for_services_that_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            awaited = SERVICES[other]
            if condition["condition"] == "service_completed_successfully":
                assert awaited["restart"] != "unless-stopped", (name, other)
            else:
                assert condition["condition"] == "service_healthy", (name, other)
                assert "healthcheck" in awaited, (name, other)


def test_every_volume_is_declared_and_used() -> None:
    used = {source for service in SERVICES.values() for source in mounts(service)}

    assert used == set(COMPOSE["volumes"])


def test_every_network_is_declared_and_used() -> None:
    used = {network for service in SERVICES.values() for network in service.get("networks", ())}

    assert used == set(COMPOSE["networks"])


def test_images_are_pinned_to_a_release() -> None:
    tags = {name: service["image"].partition(":")[2] for name, service in SERVICES.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert {tags[name] for name in OURS} == {project["version"]}
    assert all(re.fullmatch(r"\d+(\.\d+)*", tag) for tag in tags.values())


def test_kafka_is_the_release_that_the_tests_run_against() -> None:
    pom = (ROOT / "tests" / "install" / "kafka-pom.xml").read_text(encoding="utf-8")

    assert f"<version>{SERVICES['kafka']['image'].partition(':')[2]}</version>" in pom


def test_postgres_is_the_release_that_the_embedded_one_is() -> None:
    assert SERVICES["postgres"]["image"] == f"postgres:{MAJOR_VERSION}"
    # From 18 on the image keeps its data in a folder of the release below this one.
    assert mounts(SERVICES["postgres"])["postgres"] == ("/var/lib/postgresql", True)
