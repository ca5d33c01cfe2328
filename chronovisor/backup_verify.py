"""Verifying a backup: that the file is whole and unaltered, and its content holds together."""

from __future__ import annotations

import msgspec

from chronovisor import backup_files, backup_history, backup_vault
from chronovisor.backup import Progress
from chronovisor.backup_file import BackupReader
from chronovisor.backup_format import BrokenBackupError, Part, Scope, SecretsSealedError
from chronovisor.backup_log import LogCheck, part_name
from chronovisor.backup_seal import Sealer


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified. `secrets_opened` is False where they are sealed and no passphrase came."""

    size_bytes: int
    parts: int
    events: int
    secrets_opened: bool


def verify(
    reader: BackupReader, *, sealer: Sealer | None, deep: bool = True, progress: Progress
) -> Verified:
    """Check an open backup; raises BrokenBackupError, SecretsSealedError or BackupError.

    The whole file is read and compared with its checksum, then every part with its own. With `deep`
    every event is decoded, the log's invariants are tested, the claims are folded anew, and every
    row of the history is read.
    """
    for done in reader.check_seal():
        progress("the file's checksum", done)
    manifest = reader.manifest
    reader.check_names()
    _check_signature(reader, sealer)
    if deep and manifest.log is not None:
        _check_log(reader, progress)
    if deep and manifest.history is not None:
        backup_history.check(reader, manifest.history, progress)
    checked = _checked_deeply(reader) if deep else frozenset()
    for part in manifest.parts:
        if part.name not in checked:
            done = 0
            for chunk in reader.chunks(part):
                done += len(chunk)
                progress(part.name, done)
    secrets = manifest.part(backup_files.SECRETS_PART)
    opened = secrets is not None and (sealer is not None or not secrets.sealed)
    if secrets is not None and opened:
        _ = list(backup_files.untar(open_secrets(reader, secrets, sealer)))
    return Verified(
        size_bytes=reader.size_bytes,
        parts=len(manifest.parts),
        events=manifest.log.position if manifest.log is not None else 0,
        secrets_opened=opened,
    )


def sealer_of(reader: BackupReader, passphrase: bytes | None) -> Sealer | None:
    """Return what opens the backup's secrets; None without a passphrase, or where none is needed.

    Raises SecretsSealedError where a passphrase came for a backup that has none: its secrets lie
    open in the file, which its owner should know.
    """
    sealing = reader.manifest.sealing
    if passphrase is None:
        return None
    if sealing is None:
        raise SecretsSealedError(
            f"{reader.path} was made without a passphrase: its secrets are not sealed"
        )
    return Sealer(passphrase, sealing)


def open_secrets(reader: BackupReader, part: Part, sealer: Sealer | None) -> bytes:
    """Return the secrets' tar; raises SecretsSealedError."""
    content = reader.content(part, backup_files.SECRETS_BYTES_MAX)
    if not part.sealed:
        return content
    if sealer is None:
        raise SecretsSealedError("the secrets are sealed: the backup's passphrase is needed")
    return sealer.open(part.name, content)


def _check_signature(reader: BackupReader, sealer: Sealer | None) -> None:
    signature = reader.signature()
    if (signature is None) != (reader.manifest.sealing is None):
        raise BrokenBackupError("the manifest's signature is missing, or there is one too many")
    if sealer is not None and signature is not None:
        sealer.check(reader.manifest_bytes, signature)


def _check_log(reader: BackupReader, progress: Progress) -> None:
    facts = reader.manifest.log
    if facts is None:
        return
    check = LogCheck(facts)
    check.events(
        reader.chunks(_part(reader, "log")), lambda events: progress("events checked", events)
    )
    check.claims(reader.chunks(_part(reader, "claims")))
    check.answers(reader.chunks(_part(reader, "answers")))
    secrets = reader.manifest.part(backup_vault.PART)
    if secrets is not None:
        backup_vault.check(reader.chunks(secrets))


def _part(reader: BackupReader, table: str) -> Part:
    part = reader.manifest.part(part_name(table))
    if part is None:
        raise BrokenBackupError(f"the table {table} of the log is missing")
    return part


def _checked_deeply(reader: BackupReader) -> frozenset[str]:
    """Return the parts whose checksums were tested while they were looked at."""
    log = {part.name for part in reader.manifest.parts_of(Scope.LOG)}
    return frozenset(log if reader.manifest.log is not None else ())
