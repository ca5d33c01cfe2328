"""The Dockerfile: what it copies exists, what it installs is pinned, what it runs is not root."""

import re

import yaml

from tests.unit.repo.compose_file import COMPOSE, OURS, ROOT, mounts

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = [
    step.split(maxsplit=1)
    for step in re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", TEXT)).splitlines()
    if step
]


def stages() -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for word, rest in STEPS:
        if word == "FROM":
            found[rest.split(" AS ")[1]] = [[word, rest.split(" AS ")[0]]]
        elif found:
            next(reversed(found.values())).append([word, rest])
    return found


def values(stage: str, word: str) -> list[str]:
    return [rest for name, rest in stages()[stage] if name == word]


def test_everything_that_is_copied_exists() -> None:
    copied = [
        source
        for word, rest in STEPS
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]

    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_every_package_of_the_distribution_is_copied() -> None:
    include = re.findall(r'"(\w+)", "\1\.\*"', (ROOT / "pyproject.toml").read_text())

    assert include
    assert set(include) <= {rest.split()[0] for rest in values("wheels", "COPY")}


def test_what_is_fetched_from_an_index_is_checked_against_its_hash() -> None:
    pip = [
        command for command in re.split(r"&&|;|\n", TEXT.replace("\\\n", " ")) if "pip" in command
    ]
    fetching = [c for c in pip if re.search(r"pip\S* (install|download|wheel)", c)]

    assert fetching
    for command in fetching:
        assert "--require-hashes" in command or "--no-index" in command, command


def test_stages_are_made_of_known_ones() -> None:
    known = set(stages())
    for stage, steps in stages().items():
        assert steps[0][1] in known | {"${PYTHON_IMAGE}"}, stage
    sources = re.findall(r"--from=(\S+)", TEXT)

    assert set(sources) <= known
    assert {service["build"]["target"] for service in OURS.values()} == {"chronovisor"}
    assert "agent" in known


def test_the_python_is_the_one_that_the_pins_are_made_for() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11-slim-", TEXT, re.MULTILINE)
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


def test_processes_do_not_run_as_root() -> None:
    assert values("chronovisor", "USER") == ["10001:10001"]
    assert values("chronovisor", "ENTRYPOINT") == ['["chronovisor"]']


def test_packages_are_not_looked_for_in_the_working_folder() -> None:
    for stage in ("chronovisor", "agent"):
        assert any("PYTHONSAFEPATH=1" in line for line in values(stage, "ENV"))


def test_volumes_are_mounted_on_folders_that_belong_to_the_processes() -> None:
    making = " ".join(values("chronovisor", "RUN"))
    folders = {target for service in OURS.values() for target, _ in mounts(service).values()}
    temporary = {entry.split(":")[0] for service in OURS.values() for entry in service["tmpfs"]} - {
        "/tmp"
    }

    assert [one for one in folders | temporary if f"{one} " not in f"{making} "] == []


def test_no_secret_goes_into_the_image() -> None:
    assert re.findall(r"(?i)(?:ENV|ARG)\s.*(?:password|token|secret)", TEXT) == []
    assert "args" not in yaml.safe_dump([one["build"] for one in OURS.values()])
    assert COMPOSE["name"] == "chronovisor"
