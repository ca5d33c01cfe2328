"""Restoring a backup onto a clean machine. Nothing that is there is ever replaced.

A whole restore is made beside its place and then takes it in one step, so that one which was killed
half way leaves nothing that looks whole. What is missing of an installation (only its history, say)
is put into place part by part, with the folder locked.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from access.files import flush_folder
from chronovisor import backup_files, backup_history
from chronovisor.backup_database import running
from chronovisor.backup_file import BackupReader
from chronovisor.backup_format import (
    BackupError,
    Manifest,
    Scope,
    SecretsSealedError,
    wanted,
)
from chronovisor.backup_restore_log import Progress, RestoredLog, restore_log
from chronovisor.backup_seal import Sealer
from chronovisor.backup_verify import open_secrets, sealer_of, verify
from chronovisor.embedded_postgres import EmbeddedPostgres
from chronovisor.folder import Folder
from chronovisor.installation import Installation
from chronovisor.supervisor import folder_lock
from chronovisor.supervisor_parts import AlreadyRunning


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What was restored."""

    scopes: tuple[Scope, ...]
    log: RestoredLog | None
    left_out: tuple[str, ...]


def restore_backup(
    path: Path,
    root: Path,
    *,
    scopes: tuple[Scope, ...] = (),
    passphrase: bytes | None = None,
    progress: Progress = lambda _part, _done: None,
) -> Restored:
    """Restore a backup into an installation's folder; raises BackupError, or SettingsError.

    The file is verified first, as a whole.
    """
    root = root.resolve()
    with BackupReader(path) as reader:
        sealer = sealer_of(reader, passphrase)
        chosen = _chosen(reader.manifest, scopes)
        _require_free(Folder(root), chosen)
        verified = verify(reader, sealer=sealer, progress=progress)
        if Scope.FILES in chosen and not verified.secrets_opened:
            raise SecretsSealedError("the secrets are sealed: the passphrase is needed")
        with _staging(root) as staging:
            log = _fill(reader, staging, root, chosen, sealer, progress)
    return Restored(scopes=chosen, log=log, left_out=reader.manifest.left_out)


def _chosen(manifest: Manifest, scopes: tuple[Scope, ...]) -> tuple[Scope, ...]:
    if not scopes or Scope.ALL in scopes:
        return manifest.scopes
    asked = wanted(scopes)
    missing = [str(scope) for scope in asked if scope not in manifest.scopes]
    if missing:
        raise BackupError(f"the backup holds no {', '.join(missing)}")
    return asked


def _require_free(folder: Folder, scopes: tuple[Scope, ...]) -> None:
    """Refuse to replace anything, naming what is there."""
    there: list[Path] = []
    if Scope.FILES in scopes:
        there += backup_files.occupied(folder)
    if Scope.HISTORY in scopes:
        there += backup_history.occupied(folder)
    if Scope.LOG in scopes and folder.postgres.exists():
        there.append(folder.postgres)
    if there:
        names = ", ".join(str(path) for path in there)
        raise BackupError(
            f"a restore never replaces what is there: {names}; restore into a new folder, or move"
            " these away first"
        )


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """Yield a folder to fill, whose content takes its place at the end of the `with` block."""
    whole = not root.exists() or not any(root.iterdir())
    mark = f"restoring-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as held:
        try:
            if not whole:
                held.enter_context(folder_lock(root))
        except AlreadyRunning as error:
            raise BackupError(f"{error}; stop it first") from error
        staging = root.parent / f".{root.name}.{mark}" if whole else root / f".{mark}"
        try:
            staging.mkdir(mode=0o700, parents=True)
            yield staging
            _take_place(staging, root, whole=whole)
        except OSError as error:
            raise BackupError(f"the restore failed: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _take_place(staging: Path, root: Path, *, whole: bool) -> None:
    if whole:
        staging.rename(root)  # fails if something has come into the folder meanwhile
        flush_folder(root.parent)
        return
    entries = sorted(staging.iterdir())
    # Before anything is moved, so that what is refused has not been done by half.
    there = [str(one) for entry in entries for one in _in_the_way(entry, root / entry.name)]
    if there:
        raise BackupError(f"a restore never replaces what is there: {', '.join(there)}")
    for entry in entries:
        _move(entry, root / entry.name)
    flush_folder(root)


def _in_the_way(entry: Path, target: Path) -> Iterator[Path]:
    """Yield what lies where a file or folder is to be put."""
    if entry.is_dir() and target.is_dir():
        for child in sorted(entry.iterdir()):
            yield from _in_the_way(child, target / child.name)
    elif target.exists() or target.is_symlink():
        yield target


def _move(entry: Path, target: Path) -> None:
    """Put a file or folder into its place, beside what is there; nothing is replaced."""
    if entry.is_dir() and target.is_dir():
        for child in sorted(entry.iterdir()):
            _move(child, target / child.name)
        flush_folder(target)
    elif target.exists():
        raise BackupError(f"{target} has appeared meanwhile, and is not replaced")
    else:
        entry.rename(target)


def _fill(
    reader: BackupReader,
    staging: Path,
    root: Path,
    scopes: tuple[Scope, ...],
    sealer: Sealer | None,
    progress: Progress,
) -> RestoredLog | None:
    manifest = reader.manifest
    if Scope.FILES in scopes:
        _put_files(reader, staging, sealer)
    if Scope.HISTORY in scopes:
        backup_history.put(reader, manifest.history, Folder(staging), progress)
    if Scope.LOG not in scopes or manifest.log is None:
        return None
    installation = Installation.open(staging if Scope.FILES in scopes else root)
    if not installation.embedded:
        return restore_log(installation.dsn(), reader, manifest.log, progress)
    postgres = EmbeddedPostgres(Folder(staging).postgres)
    with running(postgres, staging / "log"):
        restored = restore_log(postgres.dsn, reader, manifest.log, progress)
    shutil.rmtree(staging / "log")
    return restored


def _put_files(reader: BackupReader, staging: Path, sealer: Sealer | None) -> None:
    settings = reader.manifest.part(backup_files.SETTINGS_PART)
    secret = reader.manifest.part(backup_files.SECRETS_PART)
    if secret is None:
        raise BackupError("the backup holds no secrets")
    backup_files.put(
        staging,
        reader.content(settings, backup_files.SECRETS_BYTES_MAX) if settings is not None else None,
        open_secrets(reader, secret, sealer),
    )
