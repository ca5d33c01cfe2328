"""What a killed start of the embedded PostgreSQL left behind, and how it is cleared away.

PostgreSQL's own check trusts the pid in its lock file, which may be another process's by now:
then it would refuse to start for ever. This one knows better: a `postgres` works on a data folder
if and only if that is its current folder.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

import structlog

from chronovisor.postgres_refusals import PermissionProblem

LOCK_FILE_NAME = "postmaster.pid"
# An orphan is asked to stop (fast), told to (immediate), and then killed; seconds to wait for each.
ORPHAN_SIGNALS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
_POLL_S = 0.02
_log = structlog.get_logger(__name__)


def processes_on(data: Path) -> list[int]:
    """The ids of all PostgreSQL processes that work on the (resolved) data folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        # A process may end while it is looked at, and another user's cannot be looked at.
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink() == data and _is_postgres(entry):
                found.append(int(entry.name))
    return found


def clear_orphans(data: Path) -> None:
    """Stop every PostgreSQL that still works on `data`, then remove its lock file.

    Only for the holder of the folder's lock: to anybody else the orphan may be a neighbour.
    """
    # Backends notice by themselves that their postmaster was killed; mostly this wait is enough.
    _wait_until_gone(data, 0.0 if _postmaster(data) else 1.0)
    for number, patience_s in ORPHAN_SIGNALS:
        orphans = processes_on(data)
        if not orphans:
            break
        _log.warning("stopping an orphaned PostgreSQL", pids=orphans, signal=number.name)
        postmaster = _postmaster(data)
        only_it = number is not signal.SIGKILL and postmaster is not None
        for pid in [postmaster] if only_it and postmaster else orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                os.kill(pid, signal.SIGCONT)  # one that was paused would never look
        _wait_until_gone(data, patience_s)
    remaining = processes_on(data)
    if remaining:
        raise PermissionProblem(
            f"PostgreSQL processes {remaining} still use {data} and cannot be stopped"
        )
    (data / LOCK_FILE_NAME).unlink(missing_ok=True)


def _postmaster(data: Path) -> int | None:
    """The first of them: the one whose parent is not one of them."""
    everyone = processes_on(data)
    for pid in everyone:
        if _parent(pid) not in everyone and _names(data, pid):
            return pid
    return None


def _names(data: Path, pid: int) -> bool:
    """Whether the lock file names this process as the postmaster."""
    try:
        return (data / LOCK_FILE_NAME).read_text().partition("\n")[0].strip() == str(pid)
    except OSError:
        return False


def _is_postgres(entry: Path) -> bool:
    return (entry / "comm").read_text().strip() == "postgres"


def _parent(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The name in parentheses may hold anything; the parent is the second field after it.
    return int(status.rpartition(")")[2].split()[1])


def _wait_until_gone(data: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and processes_on(data):
        time.sleep(_POLL_S)
