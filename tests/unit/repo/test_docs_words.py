"""What is written by hand agrees with the code: links, settings, files, commands, problems."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from chronovisor.cli.main import build
from chronovisor.folder import Folder
from chronovisor.settings import NOT_SETTINGS, PREFIX
from commands.catalogue import COMMANDS
from docs.generator import problems, settings
from docs.generator.words import anchor
from events.types.catalogue import TYPES

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    path
    for path in {*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")}
    if ".venv" not in path.parts
)
OURS = [path for path in PAGES if path.parent in {ROOT, ROOT / "docs"}]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    return {anchor(title.strip()) for title in re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for link in LINK.findall(prose(path)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, fragment = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_pages_name_no_machine(path: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:root|home|work)/\S*", path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_settings_that_are_named_exist(path: Path) -> None:
    known = {one.key for one in settings.settings()}
    sections = {key.split(".")[0] for key in known if "." in key}
    named = set(re.findall(r"`([a-z]+(?:\.[a-z_]+)+)`", path.read_text(encoding="utf-8")))
    files = ("md", "py", "toml", "json", "crt", "key", "token", "secret", "yml", "sock", "conf")

    wrong = {
        one
        for one in named
        if one.split(".")[0] in sections
        and one not in known | set(COMMANDS) | set(TYPES)
        and not one.endswith(files)
    }

    assert wrong == set()


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_variables_that_are_named_exist(path: Path) -> None:
    known = {one.variable for one in settings.settings()} | {
        f"{PREFIX}{name}" for name in NOT_SETTINGS
    }

    assert set(re.findall(r"CHRONOVISOR_[A-Z_]+", path.read_text(encoding="utf-8"))) <= known


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_files_of_an_installation_that_are_named_exist(path: Path) -> None:
    folder = Folder(Path("/DIR"))
    known = {
        str(place.relative_to("/DIR")).split("/")[0]
        for place in (*vars(folder).values(), folder.sockets)
        if isinstance(place, Path) and place != folder.root
    } | {"chronovisor.toml", "chronovisor.lock", "log", "parts.json"}

    named = set(re.findall(r"`DIR/([\w.-]+)", path.read_text(encoding="utf-8")))

    assert named <= known


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_commands_that_are_named_exist(path: Path) -> None:
    command: Any = typer.main.get_command(build())
    verbs = {
        f"{group} {verb}"
        for group, inner in command.commands.items()
        for verb in getattr(inner, "commands", ())
    }
    groups = {verb.split()[0] for verb in verbs}

    named = re.findall(r"chronovisor ([a-z-]+) ([a-z-]+)", path.read_text(encoding="utf-8"))

    assert {f"{group} {verb}" for group, verb in named if group in groups} <= verbs


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_problems_that_are_linked_exist(path: Path) -> None:
    known = {line.removeprefix("### ") for line in problems.page() if line.startswith("### ")}
    named = re.findall(r"problems\.md#([\w-]+)", path.read_text(encoding="utf-8"))

    assert set(named) <= known
