"""The README's tour: its commands are run as they stand there, and answer what it shows.

Blocks marked `<!-- tour -->` hold commands behind `$ ` and what they print below; `...` stands for
whatever differs from run to run, and white space counts as in words. `<!-- tour: exit N -->` says
what the block's last command ends with.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.harness.workspace import Workspace
from tests.system.product import PROJECT, Product

pytestmark = pytest.mark.timeout(240)
README = PROJECT / "README.md"
BLOCK = re.compile(
    r"^<!-- tour(?:: exit (\d+))? -->\n```console\n(.*?)^```", re.MULTILINE | re.DOTALL
)
DEFAULT_URL = "https://127.0.0.1:8800"
SESSION_TIMEOUT_S = 180
END = "==> ended with"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Step(msgspec.Struct, frozen=True):
    """A command, what it is to print, and what it is to end with."""

    command: str
    printed: str
    status: int


def steps(text: str) -> list[Step]:
    """The tour's steps."""
    found: list[Step] = []
    for status, block in BLOCK.findall(text):
        parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
        commands, printed = parts[::2], parts[1::2]
        found += [Step(c, p, 0) for c, p in zip(commands, printed, strict=True)]
        found[-1] = msgspec.structs.replace(found[-1], status=int(status or 0))
    return found


def run(given: list[str], home: Path) -> list[tuple[str, int]]:
    """What each command printed and ended with, all typed into one shell."""
    # Not each command ends its last line itself.
    script = "".join(f'{command}\nprintf "\\n{END} %s\\n" $?\n' for command in given)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CHRONOVISOR_")
    }
    done = subprocess.run(
        ["bash", "--norc", "-s"],
        input=script,
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SESSION_TIMEOUT_S,
        check=True,
    )
    parts = re.split(rf"\n{END} (\d+)\n", done.stdout, flags=re.MULTILINE)
    return [(parts[n], int(parts[n + 1])) for n in range(0, len(parts) - 1, 2)]


@pytest.fixture
def product(workspace: Workspace) -> Iterator[Product]:
    """What `make up` runs, on another port."""
    product = Product(workspace, "tour")
    product.start()
    try:
        yield product
    finally:
        assert product.stop() == 0


def test_the_tour_answers_what_the_readme_shows(product: Product, workspace: Workspace) -> None:
    home = workspace.make_folder("reader")
    (home / "var").symlink_to(product.root)
    (home / ".venv").symlink_to(sys.prefix)
    tour = steps(README.read_text(encoding="utf-8"))

    try:
        answers = run([step.command.replace(DEFAULT_URL, product.url) for step in tour], home)
    except subprocess.TimeoutExpired as error:
        typed = (error.stdout or b"").decode(errors="replace")
        pytest.fail(f"the tour did not end:\n{typed}\n{product.last_words()}")

    assert len(answers) == len(tour), answers
    checker = doctest.OutputChecker()
    for step, (printed, status) in zip(tour, answers, strict=True):
        example = doctest.Example(step.command, step.printed)
        difference = checker.output_difference(example, printed, FLAGS)
        assert checker.check_output(step.printed, printed, FLAGS), f"{step.command}\n{difference}"
        assert status == step.status, f"{step.command}\n{printed}"
