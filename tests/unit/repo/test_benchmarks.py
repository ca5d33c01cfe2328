"""Every benchmark is found by `make bench` and told of in the folder's README."""

import importlib
import platform
import re
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import __main__ as bench
from benchmarks import _machine
from benchmarks.__main__ import names
from benchmarks._report import COLLECTED
from chronovisor.settings import PREFIX
from tests.unit.repo.compose_file import ROOT

TEXT = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", names())
def test_a_benchmark_can_be_run_and_says_what_it_measures(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")

    assert module.__doc__
    assert callable(module.main)
    assert f"| `{name}` |" in TEXT


def test_the_table_names_no_benchmark_that_is_gone() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == set(names())


def test_what_a_benchmark_is_told_is_no_setting_of_the_product() -> None:
    """The product refuses settings that it does not know, and a benchmark starts it."""
    assert not COLLECTED.startswith(PREFIX)


FOUND = """
from benchmarks._report import compare
compare(1, "found by {name}", 3.0, 2.0, "s")
"""
GOALLESS = """
from benchmarks._report import compare
compare(None, "found by {name}", 3.0, 2.0, "s")
"""
FAILS = (
    FOUND
    + """
raise SystemExit(7)
"""
)
HANGS = (
    FOUND
    + """
import pathlib, time
try:
    time.sleep(60)
finally:
    pathlib.Path("{folder}", "cleared").touch()
"""
)
DEAF = (
    FOUND
    + """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
time.sleep(60)
"""
)
KILLED = (
    FOUND
    + """
import os, signal
with open(os.environ["BENCH_COLLECTED"], "a") as file:
    file.write('{{"goal": 1, "wh')
os.kill(os.getpid(), signal.SIGKILL)
"""
)


class Bench:
    """`python -m benchmarks` with benchmarks made up here, each a text of Python."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(bench, "command", self._command)
        monkeypatch.setattr(bench, "machine", lambda: {"cpus": 2})
        monkeypatch.setattr(bench, "END_TIMEOUT_S", 1.0)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        self.told: dict[str, Any] = {}
        self.refusal: object = None

    def _command(self, name: str) -> list[str]:
        return [sys.executable, str(self._folder / f"{name}.py")]

    def run(self, *arguments: str, **texts: str) -> None:
        """Run them all, in this order."""
        for name, text in texts.items():
            (self._folder / f"{name}.py").write_text(text.format(name=name, folder=self._folder))
        file = self._folder / "found.json"
        self._monkeypatch.setattr(bench, "names", lambda: list(texts))
        self._monkeypatch.setattr(sys, "argv", ["benchmarks", "--json", str(file), *arguments])
        try:
            bench.main()
        except SystemExit as ended:
            self.refusal = ended.code
        self.told = msgspec.json.decode(file.read_bytes())


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_each_benchmark_and_the_whole_run_say_how_long_they_took(
    made_up: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    made_up.run(one=FOUND, two=FOUND)

    assert made_up.refusal is None
    table = capfd.readouterr().out.partition("goal  what")[2]
    assert re.search(r"^one +[0-9.]+ s$", table, re.MULTILINE)
    assert re.search(r"^all +[0-9.]+ s$", table, re.MULTILINE)
    assert "found by two" in table
    assert made_up.told["whole_s"] >= max(made_up.told["took_s"].values()) > 0
    assert made_up.told["machine"] == {"cpus": 2}
    assert [figure["benchmark"] for figure in made_up.told["figures"]] == ["one", "two"]


def test_figures_that_belong_to_no_goal_stand_behind_those_that_do(
    made_up: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    made_up.run(none=GOALLESS, one=FOUND)

    table = capfd.readouterr().out.partition("goal  what")[2]
    assert re.findall(r"^(.{4})  found by (\w+)", table, re.MULTILINE) == [
        ("   1", "one"),
        ("    ", "none"),
    ]
    assert [figure["goal"] for figure in made_up.told["figures"]] == [None, 1]


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (FAILS, "exit status 7"),
        (KILLED, "ended by signal 9"),
        (HANGS, "not done after 1.5 s"),
        (DEAF, "not done after 1.5 s"),
    ],
    ids=["fails", "killed", "hangs", "deaf"],
)
def test_one_that_fails_or_hangs_is_a_row_that_says_so_and_loses_no_other(
    text: str, failure: str, made_up: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    made_up.run("--timeout", "1.5", before=FOUND, bad=text, after=FOUND)

    assert made_up.refusal == "failed: bad"
    table = capfd.readouterr().out.partition("goal  what")[2]
    assert re.search(rf"^bad +[0-9.]+ s  FAILED: {failure}$", table, re.MULTILINE)
    told = made_up.told
    assert told["failed"] == ["bad"]
    assert {run["name"]: run["failure"] for run in told["runs"]} == {
        "before": "",
        "bad": failure,
        "after": "",
    }
    # What it had found before is not lost either.
    assert [figure["what"] for figure in told["figures"]] == [
        "found by before",
        "found by bad",
        "found by after",
    ]


@pytest.mark.parametrize("where", ["in front", "in the background"])
def test_one_that_takes_too_long_is_let_to_clear_away_what_it_started(
    where: str, made_up: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the background a shell has it ignore SIGINT, and so would whatever it starts."""
    monkeypatch.setattr(bench, "END_TIMEOUT_S", 30.0)
    before = signal.SIG_IGN if where == "in the background" else signal.default_int_handler
    former = signal.signal(signal.SIGINT, before)
    try:
        made_up.run("--timeout", "8", bad=HANGS)  # it must have begun, on a busy machine, too
    finally:
        signal.signal(signal.SIGINT, former)

    assert (tmp_path / "cleared").exists()


def test_a_benchmark_that_is_not_there_is_told_of_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that is really used."""
    found = tmp_path / "found.json"
    monkeypatch.setattr(bench, "names", lambda: ["that_is_not_there"])
    monkeypatch.setattr(bench, "machine", dict)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--json", str(found)])
    with pytest.raises(SystemExit, match="that_is_not_there"):
        bench.main()
    assert msgspec.json.decode(found.read_bytes())["failed"] == ["that_is_not_there"]


def test_the_machine_s_facts_tell_python_revision_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> dict[str, object]:
        raise OSError("no server here")

    monkeypatch.setattr(_machine, "postgres", away)
    facts: dict[str, Any] = _machine.machine()

    assert facts["python"] == platform.python_version()
    assert facts["fdatasync"]["per_s"] > 0
    assert facts["postgres"] == {"error": "OSError: no server here"}
    assert len(facts["load"]) == 3
    revision = facts["revision"]
    assert "error" in revision or (
        re.fullmatch(r"[0-9a-f]{40}", revision["commit"]) and isinstance(revision["dirty"], bool)
    )
