"""The README's tour can be read as the test that runs it reads it, and its commands exist."""

import re
from typing import Any

import pytest
import typer

from chronovisor.cli.main import build
from tests.system.test_readme_tour import README, steps
from tests.unit.repo.compose_file import ROOT

TEXT = README.read_text(encoding="utf-8")
TOUR = steps(TEXT)


def test_the_tour_begins_with_a_vm_and_ends_with_its_history() -> None:
    commands = [step.command for step in TOUR]

    assert len(commands) >= 12
    assert any(command.startswith("chronovisor vm create web01") for command in commands)
    assert commands[-1].startswith("chronovisor history ")
    assert [step.status for step in TOUR].count(3) == 1


def test_every_console_block_is_part_of_the_tour() -> None:
    assert len(re.findall(r"^```console$", TEXT, re.MULTILINE)) == len(
        re.findall(r"^<!-- tour", TEXT, re.MULTILINE)
    )


def test_the_steps_are_read_as_they_stand() -> None:
    first = "<!-- tour: exit 3 -->\n```console\n$ a b\nx\ny\n$ c\n```\n"
    text = f"{first}\n<!-- tour -->\n```console\n$ d\n```\n"

    found = [(step.command, step.printed, step.status) for step in steps(text)]

    assert found == [("a b", "x\ny\n", 0), ("c", "", 3), ("d", "", 0)]


@pytest.mark.parametrize(
    "words",
    sorted({tuple(found.split()) for found in re.findall(r"chronovisor ([a-z-]+ [a-z-]+)", TEXT)}),
)
def test_the_verbs_exist(words: tuple[str, str]) -> None:
    command: Any = typer.main.get_command(build())
    for word in words[: 1 if words[0] in {"history", "up"} else 2]:
        command = command.commands[word]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make ([a-z]+)", TEXT))))
def test_the_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
