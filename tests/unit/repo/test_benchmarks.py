"""Every benchmark is found by `make bench` and told of in the folder's README."""

import importlib
import re
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks import __main__ as bench
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


def test_a_benchmark_that_fails_makes_the_run_fail_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    monkeypatch.setattr(bench, "names", lambda: ["that_is_not_there"])
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--json", str(found)])
    with pytest.raises(SystemExit, match="that_is_not_there"):
        bench.main()
    assert "FAILED" in capfd.readouterr().out
    told = msgspec.json.decode(found.read_bytes())
    assert told["failed"] == ["that_is_not_there"]
    assert told["figures"] == []
    assert set(told["took_s"]) == {"that_is_not_there"}
