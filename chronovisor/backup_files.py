"""The files of an installation in a backup: its secrets, its CA, its settings.

The secrets are one tar of small files. Of files that a setting names (a mail server's password),
those inside DIR are taken; what lies elsewhere is not ours to copy, and is named as left out.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from access.files import (
    FILE_BYTES_MAX,
    PRIVATE_MODE,
    PUBLIC_MODE,
    make_private_folder,
    read_bounded,
    write_atomically,
)
from chronovisor.backup_format import BackupError, BrokenBackupError
from chronovisor.folder import Folder
from chronovisor.settings import FILE_NAME, Settings

SETTINGS_PART = f"files/{FILE_NAME}"
SECRETS_PART = "files/secrets.tar"
SECRETS_BYTES_MAX = 64 * 1024 * 1024
FILES_MAX = 1_000


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """The files of an installation: settings as they are, secrets as a tar, what was left out."""

    settings: bytes | None
    secrets: bytes
    left_out: tuple[str, ...]


def occupied(folder: Folder) -> list[Path]:
    """Return the files that a restore would have to replace."""
    places = (
        *(folder.root / FILE_NAME, folder.admin_token, folder.secret),
        *(folder.authority, folder.certificates, folder.ssh),
    )
    return [place for place in places if place.exists()]


def take(folder: Folder, settings: Settings) -> Taken:
    """Read the files of an installation; raises BackupError."""
    left_out: list[str] = []
    found = list(_secret_files(folder))
    for name, path in _named_files(settings):
        if path.resolve().is_relative_to(folder.root):
            found.append(path.resolve())
        else:
            left_out.append(f"{path} (setting {name}) lies outside of the installation's folder")
    try:
        named = folder.root / FILE_NAME
        return Taken(
            settings=read_bounded(named) if named.exists() else None,
            secrets=_tar(folder.root, sorted(set(found))),
            left_out=tuple(left_out),
        )
    except (OSError, ValueError) as error:
        raise BackupError(f"a file of the installation cannot be read: {error}") from error


def put(root: Path, settings: bytes | None, secrets: bytes) -> int:
    """Write the files of a backup below a new folder; return how many."""
    make_private_folder(root)
    count = 0
    if settings is not None:
        write_atomically(root / FILE_NAME, settings)
        count += 1
    for name, mode, content in untar(secrets):
        target = root.joinpath(*name.parts)
        make_private_folder(target.parent)
        write_atomically(target, content, mode=mode)
        count += 1
    return count


def untar(content: bytes) -> Iterator[tuple[PurePosixPath, int, bytes]]:
    """Yield name, mode and content of each file; raises BrokenBackupError for anything odd."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for number, member in enumerate(archive):
                name = PurePosixPath(member.name)
                inside = not name.is_absolute() and ".." not in name.parts and bool(name.parts)
                if not (member.isreg() and inside and number < FILES_MAX):
                    raise BrokenBackupError(f"{member.name!r} is no file of an installation")
                file = archive.extractfile(member)
                if file is None or member.size > FILE_BYTES_MAX:
                    raise BrokenBackupError(f"{member.name!r} is larger than any honest one")
                public = bool(member.mode & stat.S_IROTH)
                yield name, PUBLIC_MODE if public else PRIVATE_MODE, file.read()
    except (tarfile.TarError, EOFError) as error:
        raise BrokenBackupError(f"the secrets cannot be read: {error}") from error


def _secret_files(folder: Folder) -> Iterator[Path]:
    for path in (folder.admin_token, folder.secret):
        if path.exists():
            yield path
    for place in (folder.authority, folder.certificates, folder.ssh):
        if place.exists():
            yield from (path for path in place.rglob("*") if path.is_file() and _is_kept(path))


def _is_kept(path: Path) -> bool:
    return not (path.name.startswith(".") and path.name.endswith(".tmp"))


def _named_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    notifier = settings.notifier
    for name, path in (
        ("database.dsn_file", settings.database.dsn_file),
        ("notifier.smtp.password_file", notifier.smtp.password_file),
        ("notifier.smtp.ca_file", notifier.smtp.ca_file),
        ("notifier.snmp.community_file", notifier.snmp.community_file),
    ):
        if path is not None:
            yield name, path


def _tar(root: Path, files: list[Path]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in files:
            content = read_bounded(path)
            member = tarfile.TarInfo(str(path.relative_to(root)))
            member.size = len(content)
            member.mode = PUBLIC_MODE if path.stat().st_mode & stat.S_IROTH else PRIVATE_MODE
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()
