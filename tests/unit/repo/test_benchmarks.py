"""Every benchmark is found by `make bench` and told of in the folder's README."""

import importlib
import re

import pytest

from benchmarks.__main__ import names
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
