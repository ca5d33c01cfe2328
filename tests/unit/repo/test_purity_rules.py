"""The rules that keep decisions pure bite: ruff finds a forbidden call in each pure module."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 30
CALLS = [
    "import time\nx = time.time()\n",
    "from time import monotonic\nx = monotonic()\n",
    "import datetime\nx = datetime.datetime.now(datetime.UTC)\n",
    "from datetime import datetime\nx = datetime.utcnow()\n",
    "import uuid\nx = uuid.uuid4()\n",
    "from uuid_utils import uuid7\nx = uuid7()\n",
    "from uuid_utils.compat import uuid7\nx = uuid7()\n",
    "import random\nx = random.random()\n",
    "import os\nx = os.environ\n",
]
PURE = [
    "commands/cluster/a.py",
    "commands/data_center/a.py",
    "commands/host/a.py",
    "commands/operation/a.py",
    "commands/kernel/command.py",
    "commands/kernel/fold.py",
    "commands/orders/a.py",
    "commands/scheduler/a.py",
    "commands/state/a.py",
    "commands/vm/a.py",
    "events/audit.py",
    "events/claims.py",
    "events/types/a.py",
]
# Folders that hold both; what is not named here must be pure.
MIXED = {"commands/kernel": {"handler", "snapshots"}, "commands/policies": {"office", "runner"}}
IMPURE = [
    "commands/api/a.py",
    "commands/gateway/a.py",
    "commands/kernel/handler.py",
    "events/log/a.py",
    "hostagent/a.py",
]


def banned(path: str, text: str) -> bool:
    ruff = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet"),
            *("--select", "TID251", "--stdin-filename", path, "-"),
        ],
        cwd=ROOT,
        input=text,
        text=True,
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert ruff.returncode in {0, 1}, ruff.stderr
    return "TID251" in ruff.stdout


@pytest.mark.parametrize("text", CALLS)
def test_a_pure_module_may_not_ask_the_machine(text: str) -> None:
    assert banned("commands/state/a.py", text)


@pytest.mark.parametrize("path", PURE)
def test_the_rule_holds_in(path: str) -> None:
    assert banned(path, CALLS[0])


@pytest.mark.parametrize("path", IMPURE)
def test_the_rule_spares(path: str) -> None:
    assert not banned(path, CALLS[0])


def test_a_derived_id_is_no_new_id() -> None:
    assert not banned("commands/vm/a.py", "import uuid\nx = uuid.uuid5(uuid.NAMESPACE_URL, 'a')\n")


def pure_files_of_mixed_folders() -> list[str]:
    return sorted(
        f"{folder}/{file.name}"
        for folder, impure in MIXED.items()
        for file in (ROOT / folder).glob("*.py")
        if file.stem not in {"__init__", *impure}
    )


@pytest.mark.parametrize("path", pure_files_of_mixed_folders())
def test_a_new_module_beside_impure_ones_is_pure_unless_named(path: str) -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    rule = next(one for one in linter["contracts"] if one["name"].startswith("Decisions, folds"))

    assert path.removesuffix(".py").replace("/", ".") in rule["source_modules"]
    assert banned(path, CALLS[0])
