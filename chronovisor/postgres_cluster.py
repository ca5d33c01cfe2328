"""Making the embedded PostgreSQL's cluster: its passwords, and `initdb`."""

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from access.files import create_once
from chronovisor.postgres_account import Account, binaries_for
from chronovisor.postgres_refusals import (
    DataDamaged,
    NotReady,
    PostgresRefusal,
    refusal_for_text,
)

ADMINISTRATOR = "chronovisor_admin"
APPLICATION = "chronovisor"
INITDB_TIMEOUT_S = 120
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
_PASSWORD_BYTES = 32
_TAIL_CHARACTERS = 2000


def make_cluster(folder: Path, account: Account | None) -> None:
    """Make `folder/passwords` and `folder/data`, the latter beside its place and then moved there,
    so that a start that was killed half way leaves nothing that looks whole.
    """
    for left_over in folder.glob("making-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    _make_passwords(folder / "passwords")
    making = folder / f"making-{secrets.token_hex(4)}"
    making.mkdir(mode=0o700)
    try:
        if account is not None:
            os.chown(making, account.uid, account.gid)
        _run_initdb(account, making, password_of(folder / "passwords", ADMINISTRATOR))
        making.rename(folder / "data")
    finally:
        shutil.rmtree(making, ignore_errors=True)


def password_of(passwords: Path, user: str) -> str:
    """A user's password out of the file that libpq reads too (its `passfile` format)."""
    for line in passwords.read_text().splitlines():
        *_, name, password = line.split(":")
        if name == user:
            return password
    raise DataDamaged(f"{passwords} has no password of {user}: restore it from the backup")


def _make_passwords(path: Path) -> None:
    lines = [
        f"*:*:*:{user}:{secrets.token_urlsafe(_PASSWORD_BYTES)}"
        for user in (ADMINISTRATOR, APPLICATION)
    ]
    create_once(path, ("\n".join(lines) + "\n").encode())


def _run_initdb(account: Account | None, making: Path, password: str) -> None:
    # The password goes by a file in memory that only PostgreSQL's user can open.
    password_file = os.memfd_create("password", os.MFD_CLOEXEC)
    try:
        os.write(password_file, password.encode())
        os.fchmod(password_file, 0o400)
        if account is not None:
            os.fchown(password_file, account.uid, account.gid)
        done = subprocess.run(
            [
                str(binaries_for(account) / "initdb"),
                "--pgdata=/proc/self/cwd",
                f"--username={ADMINISTRATOR}",
                f"--pwfile=/proc/self/fd/{password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
                "--data-checksums",
                "--set=huge_pages=off",  # it would take them for a moment, and they are for VMs
            ],
            cwd=making,
            env=ENVIRONMENT,
            pass_fds=(password_file,),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INITDB_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotReady(f"initdb did not end within {INITDB_TIMEOUT_S} s") from error
    finally:
        os.close(password_file)
    if done.returncode != 0:
        tail = done.stdout[-_TAIL_CHARACTERS:].strip()
        said = refusal_for_text(done.stdout, making.parent)
        raise said or PostgresRefusal(f"initdb failed in {making.parent}: {tail}")
