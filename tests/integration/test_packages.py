"""The steps of an installation that speak to apt, dnf and firewalld, with the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands.remote.scripts import script
from tests.conftest import require
from tests.harness.bare_machine import BareMachine
from tests.harness.package_repository import CONTENT, DRAWN_IN, NEEDED, OTHERS
from tests.harness.workspace import Workspace

FAMILIES = ("debian", "el")
INSTALL = {
    "debian": ["apt-get", "-q", "-y", "install"],
    "el": ["dnf", "-q", "-y", "install"],
}
FIREWALL = str(Path(__file__).parents[2] / "hostagent/launch/firewall.sh")
PORT = "54329"
NUMBER = "7"
Make = Callable[[str], BareMachine]


@pytest.fixture
def make(workspace: Workspace) -> Iterator[Make]:
    """A function that makes a bare machine of a family."""
    require("packages")
    made: list[BareMachine] = []

    def one(family: str) -> BareMachine:
        machine = BareMachine(workspace, family)
        made.append(machine)
        machine.start()
        return machine

    yield one
    for machine in made:
        machine.stop()


def step(machine: BareMachine, name: str, action: str) -> tuple[int, str]:
    """Run a step as the worker does; return how it ended, and what it said."""
    variables = {
        "ORDER": "order",
        "HOST": "host",
        "NUMBER": NUMBER,
        "LIMIT_S": "5",
        "FIRST": "yes" if name == "inspect" else "no",
        "ACTION": action,
        "ARCHITECTURE": "x86_64",
        "PYTHON": "3.11",
    }
    path = machine.folder / "step.sh"
    path.write_text(script(name, variables, {}))
    ended = machine.run(["sh", str(path)], check=False)
    return ended.returncode, ended.stdout + ended.stderr


def begun(make: Make, family: str) -> BareMachine:
    """Return a machine that was looked at, with nothing installed."""
    machine = make(family)
    status, said = step(machine, "inspect", "do")
    assert status == 0, said
    assert machine.installed() == set()
    if family == "debian":
        machine.run(["apt-get", "-q", "update"])
    return machine


def contents(machine: BareMachine) -> set[str]:
    """Return for which packages there is something in the machine's file system."""
    found = machine.run(["sh", "-c", f"ls -d {CONTENT}-* 2>/dev/null || true"]).stdout.split()
    return {path.removeprefix(f"{CONTENT}-") for path in found}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_missing_is_installed_and_all_of_it_removed_again(make: Make, family: str) -> None:
    machine = begun(make, family)
    machine.run([*INSTALL[family], NEEDED[family][-1]])  # one is there before

    status, said = step(machine, "packages", "do")

    assert status == 0, said
    assert f"Installed: {NEEDED[family][0]}" in said
    assert NEEDED[family][-1] not in said
    assert machine.installed() == {*NEEDED[family], DRAWN_IN} == contents(machine)
    status, said = step(machine, "packages", "do")
    assert (status, "Nothing is missing" in said) == (0, True), said

    status, said = step(machine, "packages", "undo")

    assert status == 0, said
    assert f"Removed: {'ca-certificates ' if family == 'debian' else ''}" in said
    assert machine.installed() == {NEEDED[family][-1]} == contents(machine)
    status, said = step(machine, "packages", "undo")
    assert (status, "No packages were installed" in said) == (0, True), said


@pytest.mark.parametrize("family", FAMILIES)
def test_packages_that_others_need_by_now_stay(make: Make, family: str) -> None:
    machine = begun(make, family)
    assert step(machine, "packages", "do")[0] == 0
    machine.run([*INSTALL[family], OTHERS])
    # Not counted among those that the step has added: somebody else has.
    work = "/var/lib/chronovisor-install/order"
    machine.run(["sh", "-c", f"cd {work}* && (cat before; echo {OTHERS}) | sort >b && mv b before"])

    status, said = step(machine, "packages", "undo")

    assert (status, "The packages stay: others need them." in said) == (0, True), said
    assert machine.installed() == {*NEEDED[family], DRAWN_IN, OTHERS}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_package_that_is_nowhere_is_told_with_the_managers_words(make: Make, family: str) -> None:
    machine = begun(make, family)
    repository = machine.folder / "repository"
    if family == "debian":
        (repository / "Packages").write_text("")
    else:
        (repository / "repodata/repomd.xml").unlink()

    status, said = step(machine, "packages", "do")

    assert status != 0
    (reason,) = [line for line in said.splitlines() if line.startswith("FAIL ")]
    assert reason.startswith(
        "FAIL apt-get failed: E: " if family == "debian" else "FAIL dnf failed: Error"
    )
    assert machine.installed() == set()


def test_firewalld_lets_the_migration_port_in_and_closes_it(make: Make) -> None:
    require("firewalld")
    machine = make("debian")
    machine.start_firewalld()

    assert machine.run(["sh", FIREWALL, "active"]).stdout == "firewalld\n"
    assert machine.run(["firewall-cmd", "--list-ports"]).stdout == "\n"
    for _ in range(2):
        assert machine.run(["sh", FIREWALL, "open", PORT]).stdout == "firewalld\n"
    for words in (["--list-ports"], ["--permanent", "--list-ports"]):
        assert machine.run(["firewall-cmd", *words]).stdout == f"{PORT}/tcp\n"
    assert f"tcp dport {PORT}" in machine.run(["nft", "list", "ruleset"]).stdout
    machine.run(["firewall-cmd", "--reload"])
    assert f"tcp dport {PORT}" in machine.run(["nft", "list", "ruleset"]).stdout

    for _ in range(2):
        assert machine.run(["sh", FIREWALL, "close", PORT]).stdout == "firewalld\n"
    assert f"tcp dport {PORT}" not in machine.run(["nft", "list", "ruleset"]).stdout
    assert machine.run(["firewall-cmd", "--permanent", "--list-ports"]).stdout == "\n"
