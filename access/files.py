"""Small files that must be whole, private and durable: keys, tokens, certificates.

Every write goes to a temporary name in the same folder, is flushed, and then takes its place in
one step, so that a crash leaves the old file or the new one and never half of one.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
FILE_BYTES_MAX = 1024 * 1024


class FileTooLarge(ValueError):
    """A key, token or certificate file is larger than any honest one."""


def write_atomically(path: Path, data: bytes, *, mode: int = PRIVATE_MODE) -> None:
    """Put `data` at `path`, replacing what is there; durable when this returns."""
    temporary = _write_temporary(path, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def create_once(path: Path, data: bytes, *, mode: int = PRIVATE_MODE) -> bool:
    """Put `data` at `path` unless something is there already; say whether this call did it.

    Of two processes that start at once exactly one creates the file, and the other finds it whole.
    """
    temporary = _write_temporary(path, data, mode)
    try:
        # A hard link, since it fails where a rename would silently replace the other's file.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)
    return True


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold `folder` against others who ask for the same; the kernel gives it back to the next."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_bounded(path: Path, *, bytes_max: int = FILE_BYTES_MAX) -> bytes:
    """The content of a small file; FileTooLarge beyond `bytes_max`."""
    with path.open("rb") as source:
        data = source.read(bytes_max + 1)
    if len(data) > bytes_max:
        message = f"{path} is larger than {bytes_max} bytes"
        raise FileTooLarge(message)
    return data


def make_private_folder(path: Path) -> None:
    """Create `path` with mode 0700 where it is missing; an existing folder is left as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def flush_folder(path: Path) -> None:
    """Make the names in a folder durable (fsync of the folder itself)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    # O_EXCL and the mode at creation: at no instant can another user open a private file.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as target:
            target.write(data)
            target.flush()
            os.fchmod(target.fileno(), mode)
            os.fsync(target.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
