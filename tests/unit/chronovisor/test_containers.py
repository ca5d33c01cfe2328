"""The set-up of containers: made once, by whoever needs it readable, and whole after a break."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from chronovisor import containers
from chronovisor.settings import SettingsError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHRONOVISOR_DATABASE__DSN_FILE", str(tmp_path / "database" / "dsn"))
    return tmp_path


def set_up(place: Path) -> dict[str, bytes]:
    """Set up, and return all files."""
    containers.setup(place / "engine", place / "postgres", place / "grafana", "postgres")
    return {
        str(file.relative_to(place)): file.read_bytes()
        for file in sorted(place.rglob("*"))
        if file.is_file()
    }


def test_everything_is_made_for_whom_it_is_for(place: Path) -> None:
    files = set_up(place)

    dsn = conninfo_to_dict(files["database/dsn"].decode().strip())
    sql = files["postgres/10-chronovisor.sql"].decode()
    assert dsn["host"] == "postgres"
    assert dsn["user"] == dsn["dbname"] == "chronovisor"
    assert f"create role chronovisor login password '{dsn['password']}';" in sql
    assert "superuser" not in sql
    assert {"engine/admin.token", "engine/engine.secret", "engine/ca/ca.key"} <= files.keys()


def test_no_two_passwords_are_the_same(place: Path) -> None:
    files = set_up(place)

    passwords = {
        files["postgres/superuser_password"],
        files["database/application_password"],
        files["grafana/grafana_password"],
    }

    assert len(passwords) == 3
    assert all(len(password.strip()) == 64 for password in passwords)


def test_the_application_does_not_see_the_superusers_password(place: Path) -> None:
    files = set_up(place)

    secret = files["postgres/superuser_password"].strip()
    assert [
        name for name, text in files.items() if secret in text and not name.startswith("postgres/")
    ] == []


def test_our_own_files_are_private_and_those_for_others_readable(place: Path) -> None:
    set_up(place)

    for name in ("database/dsn", "database/application_password", "engine/admin.token"):
        assert (place / name).stat().st_mode & 0o777 == 0o600
    for name in ("postgres/superuser_password", "postgres/10-chronovisor.sql"):
        assert (place / name).stat().st_mode & 0o777 == 0o444


def test_done_again_it_changes_nothing(place: Path) -> None:
    first = set_up(place)

    assert set_up(place) == first


@pytest.mark.parametrize("lost", ["database/dsn", "postgres/10-chronovisor.sql"])
def test_a_set_up_that_was_cut_off_goes_on_with_the_same_passwords(place: Path, lost: str) -> None:
    first = set_up(place)
    (place / lost).unlink()

    assert set_up(place) == first


def test_without_the_dsn_file_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"database\.dsn_file"):
        containers.setup(tmp_path / "a", tmp_path / "b", tmp_path / "c", "postgres")

    assert list(tmp_path.iterdir()) == []
