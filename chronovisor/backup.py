"""Making a backup: one file of log, files and history, while everything runs."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg

from chronovisor import backup_files, backup_history, backup_vault
from chronovisor.backup_database import database
from chronovisor.backup_file import BackupWriter, Sink
from chronovisor.backup_format import (
    FORMAT,
    BackupError,
    HistoryFacts,
    LogFacts,
    Manifest,
    Scope,
    wanted,
)
from chronovisor.backup_log import TABLES, LogSnapshot, connect, part_name
from chronovisor.backup_seal import Sealer
from chronovisor.installation import Installation

Progress = Callable[[str, int], None]
"""Told of which part, and how many bytes (of a log that is checked: events) are done."""


class _Contents(msgspec.Struct, kw_only=True):
    """What went into the file so far."""

    log: LogFacts | None = None
    history: HistoryFacts | None = None
    left_out: list[str] = []


def make_backup(
    installation: Installation,
    path: Path,
    *,
    scopes: tuple[Scope, ...] = (),
    passphrase: bytes | None = None,
    progress: Progress = lambda _part, _done: None,
) -> Manifest:
    """Write a backup of an installation to a file that is not there yet; return its manifest.

    Raises BackupError; then nothing is left behind. The parts of the log are of one instant; those
    of the history may be of a moment later.
    """
    chosen = wanted(scopes)
    sealer = Sealer.new(passphrase) if passphrase is not None else None
    contents = _Contents(left_out=[])
    try:
        with BackupWriter(path) as writer:
            if Scope.LOG in chosen:
                contents.log = _take_log(installation, writer, progress)
            if Scope.FILES in chosen:
                contents.left_out += _take_files(installation, writer, sealer)
            if Scope.HISTORY in chosen:
                taken = backup_history.take(installation.folder, writer, progress)
                contents.history = taken.facts
                contents.left_out += taken.left_out
            manifest = _manifest(writer, chosen, contents, sealer)
            writer.finish(manifest, sealer)
    except OSError as error:
        raise BackupError(f"the backup cannot be written: {error}") from error
    except psycopg.Error as error:
        raise BackupError(f"the log cannot be read: {error}") from error
    return manifest


def _manifest(
    writer: BackupWriter, scopes: tuple[Scope, ...], contents: _Contents, sealer: Sealer | None
) -> Manifest:
    return Manifest(
        format=FORMAT,
        product_version=importlib.metadata.version("chronovisor"),
        created_at=dt.datetime.now(dt.UTC),
        host=socket.gethostname(),
        scopes=scopes,
        parts=tuple(writer.parts),
        log=contents.log,
        history=contents.history,
        sealing=sealer.sealing if sealer is not None else None,
        left_out=tuple(contents.left_out),
    )


def _take_log(installation: Installation, writer: BackupWriter, progress: Progress) -> LogFacts:
    with database(installation) as dsn, connect(dsn) as connection:
        snapshot = LogSnapshot(connection)
        facts = snapshot.begin()
        for table in TABLES:
            name = part_name(table)
            with writer.part(name, Scope.LOG) as sink:
                snapshot.copy(table, facts.columns[table], _Telling(sink, name, progress))
        backup_vault.take(connection, writer)
        connection.execute("rollback")
    return facts


def _take_files(
    installation: Installation, writer: BackupWriter, sealer: Sealer | None
) -> tuple[str, ...]:
    taken = backup_files.take(installation.folder, installation.settings)
    if taken.settings is not None:
        with writer.part(backup_files.SETTINGS_PART, Scope.FILES) as sink:
            sink.write(taken.settings)
    name, content = backup_files.SECRETS_PART, taken.secrets
    if sealer is not None:
        content = sealer.seal(name, content)
    with writer.part(name, Scope.FILES, compressed=False, sealed=sealer is not None) as sink:
        sink.write(content)
    return taken.left_out


class _Telling:
    """A sink that tells how far it is."""

    def __init__(self, sink: Sink, name: str, progress: Progress) -> None:
        self._sink = sink
        self._name = name
        self._progress = progress
        self._done = 0

    def write(self, content: bytes | bytearray | memoryview) -> None:
        """Hand the bytes on."""
        self._sink.write(content)
        self._done += len(content)
        self._progress(self._name, self._done)
