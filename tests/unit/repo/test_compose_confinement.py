"""docker-compose.yml: who reaches what. Secrets, networks, ports and rights of each container."""

import pytest
import yaml

from chronovisor.containers import (
    GRAFANA_PASSWORD_NAME,
    SUPERUSER_PASSWORD_NAME,
)
from chronovisor.folder import Folder
from tests.unit.repo.compose_file import (
    COMPOSE,
    OURS,
    ROOT,
    SERVICES,
    mounts,
    networks,
    read_compose,
)

SECRETS = "/run/secrets/chronovisor"
DIR = "/var/lib/chronovisor"
WITH_DATABASE = {"engine", "policies", "projector", "relay", "dwh", "notifier"}


def who_mounts(volume: str) -> dict[str, bool]:
    """The services that mount a volume, and whether they can write to it."""
    return {
        name: mounts(service)[volume][1]
        for name, service in SERVICES.items()
        if volume in mounts(service)
    }


def test_secrets_are_mounted_by_who_needs_them_and_written_by_the_setup_alone() -> None:
    readers = dict.fromkeys(WITH_DATABASE, False)

    assert who_mounts("database-secret") == {"setup": True, **readers}
    assert who_mounts("postgres-secret") == {"setup": True, "postgres": False}
    assert who_mounts("grafana-secret") == {"setup": True, "grafana": False}


def test_the_keys_of_the_engine_are_seen_by_the_engine_and_by_what_ends() -> None:
    assert who_mounts("engine") == {"setup": True, "engine": True, "enrol": False}


def test_the_setup_puts_each_secret_into_the_volume_of_those_who_read_it() -> None:
    seen = {source: target for source, (target, _) in mounts(SERVICES["setup"]).items()}
    command = SERVICES["setup"]["command"]

    assert f"--postgres={seen['postgres-secret']}" in command
    assert f"--grafana={seen['grafana-secret']}" in command
    assert f"--dir={seen['engine']}" in command
    assert "--database-host=postgres" in command
    for name in WITH_DATABASE:
        dsn = OURS[name]["environment"]["CHRONOVISOR_DATABASE__DSN_FILE"]
        assert dsn.startswith(mounts(OURS[name])["database-secret"][0])


def test_passwords_are_read_from_the_files_that_the_setup_makes() -> None:
    postgres, grafana = SERVICES["postgres"], SERVICES["grafana"]
    folder, _ = mounts(postgres)["postgres-secret"]

    assert folder == "/docker-entrypoint-initdb.d"  # which the image runs *.sql of
    assert postgres["environment"]["POSTGRES_PASSWORD_FILE"] == (
        f"{folder}/{SUPERUSER_PASSWORD_NAME}"
    )
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == (
        f"{mounts(grafana)['grafana-secret'][0]}/{GRAFANA_PASSWORD_NAME}"
    )


def test_no_secret_is_in_the_file() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if any(word in variable for word in ("PASSWORD", "TOKEN", "SECRET", "DSN")):
                assert variable.endswith("_FILE"), name
                assert str(value).startswith(("/run/secrets/", "/docker-entrypoint")), name
    assert "password:" not in yaml.safe_dump(COMPOSE).lower()


def test_state_that_must_last_lies_in_volumes() -> None:
    folder = Folder(ROOT)
    expected = {
        "engine": {"engine": DIR},
        "dwh": {"warehouse": f"{DIR}/{folder.warehouse.name}"},
        "notifier": {"notifier": f"{DIR}/{folder.notifier.name}"},
        "agent": {"hosts": f"{DIR}/{folder.hosts.name}"},
        "kafka": {"kafka": "/var/lib/kafka/data"},
        "grafana": {"grafana": "/var/lib/grafana"},
    }
    for name, volumes in expected.items():
        for volume, target in volumes.items():
            assert mounts(SERVICES[name])[volume] == (target, True)
    assert SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"] == "/var/lib/kafka/data"


def test_ports_are_published_on_loopback_unless_the_admin_says_otherwise() -> None:
    def published(variables: dict[str, str]) -> set[str]:
        services = read_compose(variables)["services"].values()
        return {port for service in services for port in service.get("ports", ())}

    assert published({}) == {
        "127.0.0.1:8800:8800",
        "127.0.0.1:8801:8801",
        "127.0.0.1:3000:3000",
    }
    assert published({"PUBLISH_ADDRESS": "192.0.2.1"}) == {
        "192.0.2.1:8800:8800",
        "192.0.2.1:8801:8801",
        "127.0.0.1:3000:3000",
    }


def test_only_who_must_reach_the_world_is_on_a_network_that_does() -> None:
    open_ones = {name for name, it in COMPOSE["networks"].items() if not (it or {}).get("internal")}
    reaching = {name for name, one in SERVICES.items() if networks(one) & open_ones}

    assert reaching == {"engine", "notifier", "grafana"}


def test_the_agent_reaches_the_engine_alone() -> None:
    beside = {
        name
        for name, service in SERVICES.items()
        if networks(service) & networks(SERVICES["agent"])
    }

    assert beside == {"agent", "enrol", "engine"}
    assert set(mounts(SERVICES["agent"])) == {"hosts"}


def test_who_uses_the_database_or_kafka_reaches_it() -> None:
    assert {n for n, s in SERVICES.items() if "database" in networks(s)} == {
        "postgres",
        *WITH_DATABASE,
    }
    assert {n for n, s in SERVICES.items() if "stream" in networks(s)} == {
        *("kafka", "engine", "relay", "dwh", "notifier"),
    }
    assert SERVICES["setup"]["network_mode"] == "none"


def test_the_engine_answers_to_the_name_that_its_certificate_bears() -> None:
    engine = read_compose({"ENGINE_NAME": "engine.example.org"})["services"]["engine"]

    assert engine["networks"]["agents"]["aliases"] == ["engine.example.org"]
    assert engine["environment"]["CHRONOVISOR_GATEWAY__ADDRESS"] == "engine.example.org"
    assert engine["environment"]["CHRONOVISOR_API__NAMES"] == "engine.example.org,engine"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_containers_have_no_more_rights_than_they_use(name: str) -> None:
    service = SERVICES[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    # PostgreSQL's image begins as root, hands its folder over, and goes on as a user of its own.
    added = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"] if name == "postgres" else []
    assert service.get("cap_add", []) == added
    if name in OURS:
        assert service["read_only"] is True
        assert "/var/lib/chronovisor/run:uid=10001,gid=10001,mode=0700" in service["tmpfs"]
