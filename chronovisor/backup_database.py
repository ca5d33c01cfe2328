"""The installation's database for the time of a backup or a restore, started if nobody runs it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from chronovisor.backup_format import BackupError
from chronovisor.embedded_postgres import EmbeddedPostgres
from chronovisor.installation import Installation
from chronovisor.postgres_refusals import PostgresRefusal
from chronovisor.supervisor import folder_lock
from chronovisor.supervisor_parts import AlreadyRunning

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
LOG_NAME = "postgres-backup.log"


@contextlib.contextmanager
def database(installation: Installation) -> Iterator[str]:
    """Yield how to connect to the database; an embedded one that does not run is run meanwhile.

    Raises BackupError. While it is ours, `chronovisor up` is kept away by the folder's lock.
    """
    if not installation.embedded:
        yield installation.dsn()
        return
    postgres = installation.postgres()
    if not postgres.data.exists():
        raise BackupError(f"there is no installation in {installation.folder.root}")
    with contextlib.ExitStack() as ours:
        with contextlib.suppress(AlreadyRunning):
            ours.enter_context(folder_lock(installation.folder.root))
            ours.enter_context(running(postgres, installation.folder.root / "log"))
        yield postgres.dsn


@contextlib.contextmanager
def running(postgres: EmbeddedPostgres, log_folder: Path) -> Iterator[None]:
    """Run an embedded PostgreSQL for the length of a `with` block; raises BackupError."""
    log_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = log_folder / LOG_NAME
    process: subprocess.Popen[bytes] | None = None
    try:
        postgres.prepare()
        process = postgres.start(log)
        postgres.wait_ready(READY_TIMEOUT_S, log=log)
        yield
    except PostgresRefusal as error:
        raise BackupError(f"the database cannot be started: {error}") from error
    finally:
        if process is not None:
            _stop(process, postgres.command().stop_signal)


def _stop(process: subprocess.Popen[bytes], signal_number: int) -> None:
    if process.poll() is None:
        process.send_signal(signal_number)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise BackupError("the database did not stop in time and was killed") from None
