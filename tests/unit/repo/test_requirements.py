"""The pinned requirements: they agree with pyproject.toml and name no place."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RUN_TIME_HEADING = "# --- at run time"
DEVELOPMENT_HEADING = "# --- for development and tests"
PINNED = ["requirements.txt", "requirements-host.txt"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(lines: list[str]) -> set[str]:
    words = (line.split("#")[0].strip() for line in lines)
    return {word for word in words if word}


def pins(text: str) -> dict[str, str]:
    return {
        canonical(name): version
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE)
    }


def test_pyproject_and_requirements_ask_for_the_same_at_run_time() -> None:
    lines = (ROOT / "requirements.in").read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith(RUN_TIME_HEADING))
    end = next(n for n, line in enumerate(lines) if line.startswith(DEVELOPMENT_HEADING))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert wanted(lines[first:end]) == set(project["dependencies"])
    assert wanted((ROOT / "requirements-host.in").read_text().splitlines()) == set(
        project["optional-dependencies"]["host"]
    )


@pytest.mark.parametrize("name", PINNED)
def test_everything_asked_for_is_pinned(name: str) -> None:
    asked = wanted((ROOT / name.replace(".txt", ".in")).read_text().splitlines())
    pinned = pins((ROOT / name).read_text())

    assert {canonical(word.split("[")[0]) for word in asked} <= pinned.keys()


@pytest.mark.parametrize("name", PINNED)
def test_every_pin_has_a_hash(name: str) -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", (ROOT / name).read_text(), flags=re.MULTILINE)[1:]

    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("name", PINNED)
def test_pins_name_no_index_and_no_folder(name: str) -> None:
    text = (ROOT / name).read_text()

    assert (
        re.findall(r".*(?:://|^-|--index|--find-links|--trusted-host).*", text, re.MULTILINE) == []
    )
