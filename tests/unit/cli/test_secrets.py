"""Secrets on the command line: from a prompt or a file, never from an argument."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import HOST, Cli, FakeEngine

SECRET = "plug-and-pray"
ADD = ("host", "power", "update-agent", "kvm01", "--agent", "bmc")


def _sent(engine: FakeEngine) -> dict[str, object]:
    (request,) = engine.commands
    body: dict[str, object] = json.loads(request.content)
    return body


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\nand a second line that does not count\n")
    return file


def test_a_secret_is_read_from_the_first_line_of_a_file(
    cli: Cli, engine: FakeEngine, secret: Path
) -> None:
    engine.tell(200, {"id": HOST})
    result = cli(*ADD, "--password-file", str(secret))
    assert _sent(engine) == {"agent": "bmc", "password": SECRET}
    assert SECRET not in result.output


def test_a_secret_is_asked_for_without_being_shown(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(200, {"id": HOST})
    result = cli(*ADD, "--ask-password", given=f"{SECRET}\n")
    assert _sent(engine) == {"agent": "bmc", "password": SECRET}
    assert SECRET not in result.output


def test_a_secret_comes_from_the_input(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(200, {"id": HOST})
    cli(*ADD, "--password-file", "-", given=f"{SECRET}\n")
    assert _sent(engine) == {"agent": "bmc", "password": SECRET}


def test_without_a_word_of_it_no_secret_is_sent(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(200, {"id": HOST})
    cli(*ADD, "--order", "2")
    assert _sent(engine) == {"agent": "bmc", "order": 2}


@pytest.mark.parametrize("option", [f"--password {SECRET}", f"--password={SECRET}"])
def test_there_is_no_option_that_takes_the_secret_itself(
    cli: Cli, engine: FakeEngine, option: str
) -> None:
    cli(*ADD, *option.split(), code=2)
    assert engine.commands == []


def test_a_file_that_is_not_there_or_empty_is_told(
    cli: Cli, engine: FakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty"):
        cli(*ADD, "--password-file", str(tmp_path / name), code=2)
    assert engine.commands == []
