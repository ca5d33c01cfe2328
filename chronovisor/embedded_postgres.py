"""The embedded PostgreSQL: the database of `chronovisor up`, from the binaries of a pip wheel.

Of the wheel only the binaries are used. `prepare` makes the cluster, `command` says how to run it
in the foreground (so that the supervisor owns it), and a client takes `dsn`:

    postgres = EmbeddedPostgres(folder)
    postgres.prepare()
    ... the supervisor runs postgres.command() ...
    postgres.wait_ready(timeout_s=10)
    psycopg.connect(postgres.dsn)

In `folder` lie `data/` (mode 0700, of the user that runs PostgreSQL) and `passwords` (mode 0600, of
the user who runs the engine; the DSN points to it, so that no password is in an argument or an
environment). PostgreSQL's `data/local.conf`, if there is one, overrides our settings.

**Nobody's folders are opened.** `folder` may lie where only root can go. PostgreSQL is started
inside its data folder and knows it as /proc/self/cwd, which needs no way through the folders above.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from access.files import PUBLIC_MODE, make_private_folder, write_atomically
from chronovisor.postgres_account import (
    MAJOR_VERSION,
    Account,
    binaries_for,
    choose_account,
)
from chronovisor.postgres_cluster import (
    ADMINISTRATOR,
    APPLICATION,
    ENVIRONMENT,
    make_cluster,
    password_of,
)
from chronovisor.postgres_orphans import clear_orphans
from chronovisor.postgres_refusals import (
    DataDamaged,
    DiskFull,
    NotReady,
    PermissionProblem,
    PostgresRefusal,
    WrongPostgresVersion,
    refusal_for_error,
    refusal_for_text,
)
from chronovisor.postgres_settings import (
    AUTHENTICATION,
    AUTHENTICATION_NAME,
    CONFIGURATION_NAME,
    configuration,
)

UNIX_PORT = 5432
SOCKET_PATH_BYTES_MAX = 107  # sun_path is 108 bytes with its closing zero
FREE_BYTES_MIN = 256 * 1024 * 1024
CONNECT_TIMEOUT_S = 2
READY_POLL_S = 0.05
LOG_TAIL_BYTES = 8192


class PostgresCommand(msgspec.Struct, frozen=True, kw_only=True):
    """How to run PostgreSQL in the foreground. `uid` and `gid` are None for "as ourselves"."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    working_folder: Path
    uid: int | None
    gid: int | None
    stop_signal: int = signal.SIGINT  # "fast": roll back, disconnect, checkpoint


class EmbeddedPostgres:
    """One PostgreSQL cluster of our own in `folder`.

    `tcp_port` 0 means that only the Unix socket is served; any other port is served on 127.0.0.1
    as well.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tcp_port: int = 0,
        shared_buffers_mib: int = 128,
        connections_max: int = 100,
        free_bytes_min: int = FREE_BYTES_MIN,
    ) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self.passwords = self.folder / "passwords"
        self._tcp_port = tcp_port
        self._port = tcp_port or UNIX_PORT
        self._shared_buffers_mib = shared_buffers_mib
        self._connections_max = connections_max
        self._free_bytes_min = free_bytes_min

    @property
    def dsn(self) -> str:
        """How the product connects: database and user `chronovisor`, which is no superuser."""
        return self._dsn(APPLICATION, APPLICATION)

    @property
    def admin_dsn(self) -> str:
        """How set-up and backup connect: as the superuser."""
        return self._dsn(ADMINISTRATOR, "postgres")

    def prepare(self) -> None:
        """Make the cluster if there is none, check it, and write its settings. Idempotent.

        Call it before each start, and only while holding the lock of the folder: a PostgreSQL that
        still runs there is taken for what a killed start left behind, and is stopped. Raises a
        PostgresRefusal that says what to do.
        """
        try:
            make_private_folder(self.folder)
            self._check_version()
            account = choose_account(self.data)
            self._check_space()
            self.clean_up()
            if not self.data.exists():
                make_cluster(self.folder, account)
            elif not self.passwords.exists():
                raise DataDamaged(
                    f"{self.passwords} is missing while {self.data} is there: "
                    "restore it from the backup"
                )
            self._check_owner(account)
            self._write_settings()
        except OSError as error:
            raise refusal_for_error(error, self.folder) from error

    def command(self) -> PostgresCommand:
        """What to run once `prepare` has been called; what it is can be asked before.

        The process stays in the foreground and logs to its standard error.
        """
        account = choose_account(self.data)
        return PostgresCommand(
            argv=(
                str(binaries_for(account) / "postgres"),
                "-D",
                "/proc/self/cwd" if account else str(self.data),
            ),
            environment=dict(ENVIRONMENT),
            working_folder=self.data,
            uid=account.uid if account else None,
            gid=account.gid if account else None,
        )

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """Start it by itself, without a supervisor, once `prepare` has been called.

        What it says is put behind what is in the log file. A Ctrl-C does not reach it: whoever has
        started it stops it.
        """
        command = self.command()
        with log.open("ab") as output:
            return subprocess.Popen(
                command.argv,
                env=command.environment,
                cwd=command.working_folder,
                user=command.uid,
                group=command.gid,
                extra_groups=[] if command.uid is not None else None,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def ready(self) -> bool:
        """Whether PostgreSQL answers and has our user and database; makes them if it has not."""
        try:
            self._ensure_application()
        except psycopg.OperationalError:
            return False
        return True

    def wait_ready(self, timeout_s: float = 10.0, *, log: Path | None = None) -> None:
        """Wait until `ready`.

        After `timeout_s` raises NotReady, or the reason that the log file tells.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._ensure_application()
            except psycopg.OperationalError as error:
                if time.monotonic() >= deadline:
                    said = self.explain(_tail(log)) if log else None
                    raise said or NotReady(
                        f"PostgreSQL did not answer within {timeout_s:g} s: {error}"
                    ) from error
                time.sleep(READY_POLL_S)
            else:
                return

    def explain(self, log_tail: str) -> PostgresRefusal | None:
        """What PostgreSQL's last log lines say of a failed start, None if they say nothing."""
        return refusal_for_text(log_tail, self.folder)

    def clean_up(self) -> None:
        """Clear away what a killed PostgreSQL left. Fit to run before each restart."""
        if self.data.exists():
            clear_orphans(self.data)

    def _dsn(self, user: str, database: str) -> str:
        return make_conninfo(
            host=str(self._socket_folder()),
            port=self._port,
            user=user,
            dbname=database,
            passfile=str(self.passwords),
        )

    def _socket_folder(self) -> Path:
        """The folder by which clients reach the socket; the socket itself is in the data folder.

        A Unix socket's path is at most 107 bytes. For a longer one a short symbolic link is made
        in a folder that only this user can write.
        """
        if len(os.fsencode(self.data / f".s.PGSQL.{self._port}")) <= SOCKET_PATH_BYTES_MAX:
            return self.data
        short = Path(f"/tmp/chronovisor-{os.geteuid()}")  # noqa: S108  its owner is checked
        short.mkdir(mode=0o700, exist_ok=True)
        facts = short.lstat()
        if short.is_symlink() or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            raise PermissionProblem(f"{short} must be a folder of mode 0700 of this user")
        link = short / hashlib.sha256(os.fsencode(self.data)).hexdigest()[:32]
        with contextlib.suppress(FileExistsError):
            link.symlink_to(self.data)
        return link

    def _ensure_application(self) -> None:
        """Make our user and database where they are missing; OperationalError if not reachable.

        A killed first start may have made one and not the other; two starters may meet: then one
        finds a duplicate, which is as good.
        """
        with psycopg.connect(
            self.admin_dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
        ) as connection:
            role = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (APPLICATION,))
            if role.fetchone() is None:
                # The verifier and not the password goes over, so that no log can hold it.
                verifier = connection.pgconn.encrypt_password(
                    password_of(self.passwords, APPLICATION).encode(),
                    APPLICATION.encode(),
                    b"scram-sha-256",
                ).decode()
                statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
                with contextlib.suppress(psycopg.errors.DuplicateObject):
                    connection.execute(statement.format(sql.Identifier(APPLICATION), verifier))
            database = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", (APPLICATION,)
            )
            if database.fetchone() is None:
                name = sql.Identifier(APPLICATION)
                statement = sql.SQL("CREATE DATABASE {} OWNER {} STRATEGY wal_log")
                with contextlib.suppress(
                    psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation
                ):
                    connection.execute(statement.format(name, name))

    def _check_version(self) -> None:
        try:
            found = (self.data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            if self.data.exists():
                raise DataDamaged(f"{self.data} has no PG_VERSION: it is no database") from None
            return
        if found != str(MAJOR_VERSION):
            raise WrongPostgresVersion(
                f"{self.data} was made by PostgreSQL {found}, and this Chronovisor brings "
                f"{MAJOR_VERSION}: dump it with the release that made it, and restore it here"
            )

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < self._free_bytes_min:
            raise DiskFull(
                f"{free // 2**20} MiB are free in {self.folder}, and "
                f"{self._free_bytes_min // 2**20} MiB are needed to start the database"
            )

    def _check_owner(self, account: Account | None) -> None:
        expected = account.uid if account else os.geteuid()
        facts = self.data.stat()
        if facts.st_uid != expected:
            raise PermissionProblem(
                f"{self.data} belongs to user id {facts.st_uid}, not to {expected}, "
                "who runs PostgreSQL"
            )
        if facts.st_mode & 0o077:
            self.data.chmod(0o700)

    def _write_settings(self) -> None:
        text = configuration(
            tcp_port=self._tcp_port,
            unix_port=UNIX_PORT,
            shared_buffers_mib=self._shared_buffers_mib,
            connections_max=self._connections_max,
        )
        write_atomically(self.data / CONFIGURATION_NAME, text.encode(), mode=PUBLIC_MODE)
        write_atomically(self.data / AUTHENTICATION_NAME, AUTHENTICATION.encode(), mode=PUBLIC_MODE)


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as source:
            source.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            return source.read().decode(errors="replace")
    except OSError:
        return ""
