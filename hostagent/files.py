"""Small files of an agent's state folder: whole, private and durable.

Every write goes to a temporary name in the same folder, is flushed, and then takes its place in
one step, so that a crash leaves the old file or the new one and never half of one. (The same rule
as in `access`, which a host agent must not import.)
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PRIVATE_MODE = 0o600
FILE_BYTES_MAX = 64 * 1024 * 1024


def write_atomically(
    path: Path, data: bytes, *, mode: int = PRIVATE_MODE, durable: bool = True
) -> None:
    """Put `data` at `path`, replacing what is there; durable when this returns, if so asked."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    # O_EXCL and the mode at creation: at no instant can another user open a private file.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as target:
            target.write(data)
            target.flush()
            os.fchmod(target.fileno(), mode)
            if durable:
                os.fsync(target.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        flush_folder(path.parent)


def read_bounded(path: Path, *, bytes_max: int = FILE_BYTES_MAX) -> bytes:
    """Return the content of a file; ValueError beyond `bytes_max`."""
    with path.open("rb") as source:
        data = source.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise ValueError(f"{path} is larger than {bytes_max} bytes")
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
