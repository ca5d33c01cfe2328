"""The agent's bundle: whole, the same each time, and with nothing of this machine in it."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from chronovisor import agent_bundle
from chronovisor.settings import Fencing
from commands.remote.machine import COMMAND_TIMEOUT_S
from tests.harness.processes import ProcessIdentity, wait_until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return agent_bundle.build(tmp_path_factory.mktemp("bundle")).path


def test_the_same_files_make_the_same_bytes_in_whatever_order() -> None:
    files = {"b": (0o644, b"2"), "a": (0o755, b"1")}
    first = agent_bundle.pack(files)
    assert agent_bundle.pack(dict(reversed(files.items()))) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        members = archive.getmembers()
    assert [(one.name, one.mode, one.mtime, one.uid, one.uname) for one in members] == [
        ("a", 0o755, 0, 0, ""),
        ("b", 0o644, 0, 0, ""),
    ]


def test_it_runs_where_nothing_else_of_ours_is(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(bundle) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "python").write_text(f"{sys.executable}\n")
    program = (
        "import sys, hostagent.join, hostagent.process, hostagent.__main__;"
        "print(*{m.__file__ for n, m in sys.modules.items()"
        " if n.split('.')[0] in {'hostagent', 'events', 'msgspec', 'cryptography'}"
        " and getattr(m, '__file__', None)}, sep='\\n')"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-P", "-c", program],
        env={"PYTHONPATH": str(tmp_path / "lib"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
    )
    assert ran.returncode == 0, ran.stderr
    files = ran.stdout.split()
    assert files
    assert all(file.startswith(str(tmp_path)) for file in files)


def test_it_names_no_place_of_this_machine_and_holds_no_bytecode(bundle: Path) -> None:
    with tarfile.open(bundle) as archive:
        members = archive.getmembers()
        names = [one.name for one in members]
        assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
        assert not [name for name in names if name.startswith("/") or ".." in name]
        assert not [name for name in names if name.endswith(("RECORD", "direct_url.json"))]
        ours = [one for one in members if one.name.startswith(("lib/hostagent", "lib/events"))]
        texts = [archive.extractfile(one) for one in ours]
        assert all(text is not None and str(ROOT).encode() not in text.read() for text in texts)
    assert {"agent.sh", "service.sh", "supervise.sh", "chronovisor-agent.service"} <= set(names)
    assert not [name for name in names if name.startswith(("lib/events/log", "lib/commands"))]


def test_licences_come_along(bundle: Path) -> None:
    with tarfile.open(bundle) as archive:
        names = archive.getnames()
    for library in ("cryptography", "httpx", "msgspec"):
        (found,) = {name.split("/")[1] for name in names if name.startswith(f"lib/{library}-")}
        assert any("licen" in name.lower() for name in names if name.startswith(f"lib/{found}"))


async def test_an_older_one_makes_room(tmp_path: Path) -> None:
    (tmp_path / "agent-0123456789abcdef.tar.gz").write_bytes(b"old")
    keeper = agent_bundle.BundleKeeper(tmp_path)
    made = await keeper.bundle()
    assert [path.name for path in tmp_path.iterdir()] == [made.path.name]
    assert await keeper.bundle() is made


def test_an_agent_that_hangs_is_killed_while_soft_fencing_waits_for_it() -> None:
    """given an agent that does not end when it is told to, then there is time to start another"""
    launch = ROOT / "hostagent" / "launch"
    unit = (launch / "chronovisor-agent.service").read_text()
    shell = (launch / "supervise.sh").read_text()
    for text, name in ((unit, "TimeoutStopSec"), (shell, "stop_timeout_s")):
        (found,) = re.findall(rf"^{name}=(\d+)$", text, flags=re.MULTILINE)
        assert int(found) < COMMAND_TIMEOUT_S, "the restart over SSH would be given up"
        assert int(found) <= Fencing().soft_timeout_s / 2


HANGS = """#!/bin/sh
echo "$$" >>{folder}/begun
exec sleep 60
"""


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_nothing_is_left_of_an_agent_that_hangs(shell: str, tmp_path: Path) -> None:
    """given an agent that is held still, when it is stopped, then it is killed with its keeper"""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell}")
    text = (ROOT / "hostagent" / "launch" / "supervise.sh").read_text()
    for old, new in (
        ("#!/bin/sh", f"#!{found}"),
        ("state=/var/lib/chronovisor-agent", f"state={tmp_path}"),
        ("pid_file=/run/chronovisor-agent.pid", f"pid_file={tmp_path}/pid"),
        ("stop_timeout_s=20", "stop_timeout_s=1"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    for name, content in (("supervise.sh", text), ("agent.sh", HANGS.format(folder=tmp_path))):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    supervise, begun = tmp_path / "supervise.sh", tmp_path / "begun"
    subprocess.run([supervise, "start"], check=True, timeout=30)
    try:
        wait_until(lambda: begun.exists() and begun.read_text(), 20, "the agent to run")
        agent = ProcessIdentity.of(int(begun.read_text()))
        keeper = ProcessIdentity.of(int((tmp_path / "pid").read_text()))
        assert agent is not None
        assert keeper is not None
        os.kill(agent.pid, signal.SIGSTOP)
    finally:
        subprocess.run([supervise, "stop"], check=True, timeout=30)
    wait_until(lambda: not (agent.alive or keeper.alive), 10, "both to be gone")
    assert len(begun.read_text().split()) == 1
    assert subprocess.run([supervise, "status"], check=False, timeout=30).returncode != 0
