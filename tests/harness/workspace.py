"""The folder of one test run, its ledger of what it started, and the clean-up of runs that died.

Every server of the harness lives in a workspace: a short path under the system's temporary folder
(Unix socket names are at most 107 bytes) that names its owner, the process of the test run. What is
started is written to the ledger at once; so if the run itself is killed with -9, the next run finds
a workspace without an owner and ends what it left: processes by pid and start time, network links
by name.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.processes import (
    HarnessError,
    ProcessIdentity,
    kill_tree,
    run_command,
    wait_until,
)

PREFIX = "cvt-"
OWNER_FILE = "owner.json"
LEDGER_FOLDER = "ledger"
LOCK_TIMEOUT_S = 300.0
PROJECT_ROOT = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """Where things that take long to make are kept between runs (CHRONOVISOR_CACHE, default
    `.cache`).
    """
    configured = os.environ.get("CHRONOVISOR_CACHE")
    folder = Path(configured) if configured else PROJECT_ROOT / ".cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Hold a lock against other processes; the kernel releases it if the holder dies."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as handle:
        wait_until(lambda: _try_lock(handle.fileno()), LOCK_TIMEOUT_S, f"the lock {lock_file.name}")
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Workspace:
    """A folder that belongs to this process, and the ledger of what was started from it."""

    def __init__(self) -> None:
        clean_leftovers()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Others may pass through (PostgreSQL runs as another user), not look around.
        self.folder.chmod(0o711)
        _write_owner(self.folder)
        (self.folder / LEDGER_FOLDER).mkdir(mode=0o700)
        self._names: dict[str, int] = {}
        self._mounts: list[Path] = []

    def make_folder(self, name: str, mode: int = 0o755) -> Path:
        """A new folder; a name that was given before gets a number."""
        count = self._names.get(name, 0) + 1
        self._names[name] = count
        folder = self.folder / (name if count == 1 else f"{name}{count}")
        folder.mkdir()
        folder.chmod(mode)
        return folder

    def note_process(self, pid: int) -> None:
        """Write a started process into the ledger; with it goes everything below it."""
        identity = ProcessIdentity.of(pid)
        if identity is not None:
            entry = {"kind": "process", "pid": pid, "start_ticks": identity.start_ticks}
            self._note(f"process-{pid}-{identity.start_ticks}", entry)

    def note_link(self, name: str) -> None:
        """Write a network link of the outer namespace into the ledger."""
        self._note(f"link-{name}", {"kind": "link", "name": name})

    def note_mount(self, folder: Path) -> None:
        """Write a mounted file system into the ledger."""
        self._note(f"mount-{len(self._mounts)}", {"kind": "mount", "folder": str(folder)})
        self._mounts.append(folder)

    def forget_link(self, name: str) -> None:
        """Strike a network link that was removed from the ledger."""
        (self.folder / LEDGER_FOLDER / f"link-{name}").unlink(missing_ok=True)

    def _note(self, name: str, entry: dict[str, object]) -> None:
        (self.folder / LEDGER_FOLDER / name).write_text(json.dumps(entry))

    def close(self) -> None:
        """End whatever still runs, and remove the folder."""
        _clear(self.folder)


def _write_owner(folder: Path) -> None:
    identity = ProcessIdentity.of(os.getpid())
    if identity is None:
        message = "this process is not in the process table"
        raise HarnessError(message)
    owner = {"pid": identity.pid, "start_ticks": identity.start_ticks}
    draft = folder / f"{OWNER_FILE}.draft"
    draft.write_text(json.dumps(owner))
    draft.rename(folder / OWNER_FILE)


def clean_leftovers() -> list[Path]:
    """Clear the workspaces whose owner is dead; returns what was cleared.

    A folder without an owner file is being made at this moment, or is none of ours: left alone.
    """
    base = Path(tempfile.gettempdir())
    cleared: list[Path] = []
    with exclusive(base / f"{PREFIX}leftovers.lock"):
        for owner_file in base.glob(f"{PREFIX}*/{OWNER_FILE}"):
            owner = ProcessIdentity(**json.loads(owner_file.read_text()))
            if not owner.alive:
                _clear(owner_file.parent)
                cleared.append(owner_file.parent)
    return cleared


def _clear(folder: Path) -> None:
    entries = [json.loads(path.read_text()) for path in (folder / LEDGER_FOLDER).glob("*")]
    for entry in entries:
        if entry["kind"] == "process":
            identity = ProcessIdentity(pid=entry["pid"], start_ticks=entry["start_ticks"])
            if identity.alive:
                kill_tree(identity.pid)
    for entry in entries:
        if entry["kind"] == "mount":
            run_command(["umount", "--lazy", entry["folder"]], check=False)
        if entry["kind"] == "link":
            run_command(["ip", "link", "delete", entry["name"]], check=False)
    shutil.rmtree(folder, ignore_errors=True)
