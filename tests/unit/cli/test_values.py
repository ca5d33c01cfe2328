"""Values as people type them; and the CLI as a whole: help, start, completion."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from chronovisor.cli.values import (
    BadValue,
    parse_boolean,
    parse_duration,
    parse_pairs,
    parse_size,
    show_size,
)
from commands.catalogue import COMMANDS
from tests.unit.cli.conftest import URL, Cli, FakeEngine


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1 << 20),
        ("1GiB", 1 << 30),
        ("1 gib", 1 << 30),
        ("512M", 512 << 20),
        ("1.5TiB", 3 << 39),
        ("10GB", 10**10),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("7d", 604_800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "much", "-1", "1.0001B", "1 2", "1e9", "5 lightyears"])
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(BadValue):
        parse_size(text)
    with pytest.raises(BadValue):
        parse_duration(text if text != "1.0001B" else "x")


@given(st.text(max_size=20))
def test_any_text_is_a_value_or_refused_as_none(text: str) -> None:
    for parse in (parse_size, parse_duration, parse_pairs, parse_boolean):
        try:
            parse(text)
        except BadValue as refusal:
            assert str(refusal)  # noqa: PT017 - or it was understood


def test_pairs() -> None:
    assert parse_pairs("size=1GiB, read-only ,name=a=b") == {
        "size": "1GiB",
        "read_only": "true",
        "name": "a=b",
    }
    with pytest.raises(BadValue, match="twice"):
        parse_pairs("size=1,size=2")


@pytest.mark.parametrize(
    ("size", "text"), [(7, "7 B"), (1 << 30, "1 GiB"), (3 << 39, "1.5 TiB"), (1 << 51, "2048 TiB")]
)
def test_sizes_are_shown_for_people(size: int, text: str) -> None:
    assert show_size(size) == text


@pytest.mark.parametrize("verb", [declaration.verb for declaration in COMMANDS.values()])
def test_every_verb_has_help(cli: Cli, verb: str) -> None:
    shown = cli(*verb.split(), "--help").stdout
    for option in ("--output", "--url", "--token-file", "--ca-file", "--idempotency-key"):
        assert option in shown


@pytest.mark.parametrize("words", ["", "vm", "host", "operation", "event"])
def test_groups_show_what_they_have(cli: Cli, words: str) -> None:
    assert "list" in cli(*words.split(), "--help").stdout or not words


def test_completion_can_be_installed(cli: Cli) -> None:
    assert "--install-completion" in cli("--help").stdout


def test_asking_over_http_needs_no_part_of_the_product() -> None:
    """The CLI starts quickly, and could be installed on a machine of its own."""
    program = (
        "import sys; from chronovisor.cli.main import build; import chronovisor.cli.client;"
        " build(); print(*sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(ran.stdout.split())
    for heavy in ("starlette", "psycopg", "duckdb", "pyarrow", "uvicorn", "kafka", "cryptography"):
        assert heavy not in loaded
    assert not {name for name in loaded if name.startswith("commands.kernel.handler")}


def _completed(cli: Cli, *words: str) -> list[str]:
    environment = {
        "_CHRONOVISOR_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("chronovisor", *words)),
        "COMP_CWORD": str(len(words)),
        "CHRONOVISOR_URL": URL,
        "CHRONOVISOR_TOKEN_FILE": str(cli.token),
    }
    result = CliRunner(env=environment).invoke(cli._app, [], prog_name="chronovisor")
    return result.stdout.split()


def test_names_are_completed_by_the_engine(cli: Cli, engine: FakeEngine) -> None:
    engine.objects["vms"] = [{"name": "web01"}, {"name": "web02"}]
    assert _completed(cli, "vm", "start", "w") == ["web01", "web02"]
    assert engine.asked[-1].url.params["name"] == "w*"
    assert _completed(cli, "vm", "sta") == ["start", "start-with-host"]


@pytest.mark.parametrize("typed", ["a*", "a/b", "ä"])
def test_what_is_no_part_of_a_name_is_not_asked_for(
    cli: Cli, engine: FakeEngine, typed: str
) -> None:
    assert _completed(cli, "vm", "start", typed) == []
    assert not engine.asked


def test_nothing_is_completed_where_nobody_answers(cli: Cli, engine: FakeEngine) -> None:
    engine.away = True
    assert _completed(cli, "vm", "start", "w") == []
