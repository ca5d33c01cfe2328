"""The scripts of the steps: what is put into them stays what it is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from commands.remote.scripts import script, source
from commands.remote.steps import PLANS
from tests.conftest import require

NAMES = sorted(path.stem for path in Path("commands/remote/shell").glob("*.sh"))
STEPS = [name for name in NAMES if name != "common"]
Ended = tuple[int, str, list[str]]
COMMON = {
    "ORDER": "o1",
    "HOST": "h1",
    "NUMBER": "7",
    "LIMIT_S": "5",
    "FIRST": "yes",
    "ACTION": "do",
}


def run(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-s"], input=text, text=True, capture_output=True, check=False, timeout=10
    )


@pytest.mark.parametrize("name", STEPS)
def test_a_shell_reads_each_of_them_to_its_end(name: str) -> None:
    text = script(name, COMMON, {"TRUST": "PEM", "TOKEN": "cvj1"})
    checked = subprocess.run(
        ["sh", "-n"], input=text, text=True, capture_output=True, check=False, timeout=10
    )
    assert checked.returncode == 0, checked.stderr
    assert "@TRUST@" not in text
    assert "@TOKEN@" not in text


@pytest.mark.parametrize("name", STEPS)
def test_no_line_of_them_is_what_shellcheck_warns_of(name: str) -> None:
    require("shellcheck")
    text = "#!/bin/sh\n" + source("common") + source(name)
    # Variables come from the worker, and those of `common` are for all.
    command = ["shellcheck", "--exclude=SC2034,SC2153,SC2154", "-"]
    checked = subprocess.run(
        command, input=text, text=True, capture_output=True, check=False, timeout=30
    )
    assert checked.returncode == 0, checked.stdout


def test_whatever_a_value_holds_the_shell_sees_that_value(monkeypatch: pytest.MonkeyPatch) -> None:
    value = 'a\'b "c" $(touch /tmp/never) `id`\nMARK; exit 9'
    monkeypatch.setattr("commands.remote.scripts.source", lambda name: PRINTING[name])
    printed = run(script("step", {"VALUE": value}, {"DOCUMENT": value}))
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == f"{value}\n{value}\n"


PRINTING = {
    "common": "set -eu",
    "step": """printf '%s\\n' "$VALUE"
cat <<'DOCUMENT_END'
@DOCUMENT@
DOCUMENT_END""",
}


def test_a_command_that_reads_its_input_does_not_eat_the_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = {"common": "set -eu", "step": "cat\necho 'TEXT it went on'"}
    monkeypatch.setattr("commands.remote.scripts.source", lambda name: sources[name])
    assert run(script("step", {}, {})).stdout == "TEXT it went on\n"


def test_a_document_cannot_end_itself_and_names_are_names() -> None:
    with pytest.raises(ValueError, match="end itself"):
        script("bundle", COMMON, {"TRUST": "x\nTRUST_END\nrm -rf /"})
    with pytest.raises(ValueError, match="no name"):
        script("bundle", {"a b": ""}, {})


@pytest.fixture
def firewall_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Ended]:
    """A function that runs the firewall's step: the cluster's choice, what is active there."""
    script_of_agent = tmp_path / "current/firewall.sh"
    script_of_agent.parent.mkdir()
    places = f"agent={tmp_path} state={tmp_path} work={tmp_path}"
    common = f'set -eu\n{places}\nsay() {{ echo "$*"; }}\nfail() {{ say "$*"; exit 1; }}'
    sources = {"common": common, "firewall": source("firewall")}
    monkeypatch.setattr("commands.remote.scripts.source", lambda name: sources[name])

    def run_it(chosen: str, active: str) -> Ended:
        script_of_agent.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/told\necho {active}\n')
        script_of_agent.chmod(0o755)
        variables = {**COMMON, "FIREWALL": chosen, "PORT": "54329"}
        ended = run(script("firewall", variables, {}))
        told = tmp_path / "told"
        said = told.read_text().splitlines() if told.exists() else []
        told.unlink(missing_ok=True)
        return ended.returncode, ended.stdout + ended.stderr, said

    return run_it


@pytest.mark.parametrize(
    ("chosen", "active", "words"),
    [
        ("auto", "firewalld", "firewalld lets TCP port 54329 in"),
        ("auto", "none", "No firewall is active."),
        ("firewalld", "firewalld", "firewalld lets TCP port 54329 in"),
        ("nftables", "nftables", "nftables lets TCP port 54329 in"),
    ],
)
def test_the_port_is_opened_in_the_firewall_that_the_cluster_chose(
    firewall_step: Callable[[str, str], Ended], chosen: str, active: str, words: str
) -> None:
    status, said, told = firewall_step(chosen, active)
    assert (status, words in said) == (0, True), said
    assert told == ["active", "open 54329"]


@pytest.mark.parametrize(
    ("chosen", "active", "words"),
    [
        ("firewalld", "nftables", "is firewalld, but nftables is active on the machine"),
        ("nftables", "firewalld", "is nftables, but firewalld is active on the machine"),
        ("firewalld", "none", "is firewalld, but no firewall is active on the machine"),
    ],
)
def test_a_machine_with_another_firewall_than_the_cluster_chose_is_refused_untouched(
    firewall_step: Callable[[str, str], Ended],
    tmp_path: Path,
    chosen: str,
    active: str,
    words: str,
) -> None:
    status, said, told = firewall_step(chosen, active)
    assert (status != 0, words in said) == (True, True), said
    assert told == ["active"]
    assert not (tmp_path / "firewall").exists()


@pytest.mark.parametrize("chosen", ["none", "no"])
def test_a_firewall_that_is_to_be_left_alone_is_not_looked_at(
    firewall_step: Callable[[str, str], Ended], chosen: str
) -> None:
    status, said, told = firewall_step(chosen, "firewalld")
    assert (status, "left alone" in said, told) == (0, True, [])


def test_every_step_of_an_installation_that_changes_something_is_undone() -> None:
    changing = {"packages", "libvirt", "bundle", "authorize", "join", "firewall", "start"}
    for plan in PLANS.values():
        undone = {step.name for step in plan.steps if step.undo is not None}
        assert undone == (changing if plan.undoes else set())
