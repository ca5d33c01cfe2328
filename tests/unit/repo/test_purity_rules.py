"""The rules that keep decisions pure bite: ruff finds a forbidden call in each pure module."""

import subprocess
import sys
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
