"""The vault's part of a backup: the sealed secrets, as of the same instant as the log.

They are copied as they lie in the table, sealed under the engine's key, which is among the files'
secrets: with a passphrase, those are sealed by it. Without that key the part is of no use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, LiteralString

import psycopg

from access.vault import MIGRATIONS, SCHEMA
from chronovisor import backup_copy as copying
from chronovisor.backup_file import BackupReader, BackupWriter
from chronovisor.backup_format import BackupError, Scope
from events.log.migrate import migrate

PART = "vault/secrets.copy"
COLUMNS = ("id", "sealed", "made")
_THERE = "select to_regclass('vault.secrets') is not null"
_OUT: LiteralString = (
    "copy (select id, sealed, made from vault.secrets order by id) to stdout (format binary)"
)
_IN: LiteralString = "copy vault.secrets (id, sealed, made) from stdin (format binary)"

Connection = psycopg.Connection[Any]


def take(connection: Connection, writer: BackupWriter) -> None:
    """Write the part, within the log's snapshot; nothing where there is no vault yet."""
    if not _is_there(connection):
        return
    with writer.part(PART, Scope.LOG) as sink:
        for chunk in _rows(connection):
            sink.write(chunk)


def check(chunks: Iterable[bytes]) -> int:
    """Return how many secrets the part holds; raises BrokenBackupError."""
    return len([copying.identifier(row[0]) for row in copying.rows(chunks, len(COLUMNS))])


def prepare(dsn: str) -> None:
    """Make the vault's table in a database; raises psycopg.Error."""
    migrate(dsn, SCHEMA, MIGRATIONS)


def put(connection: Connection, reader: BackupReader) -> None:
    """Bring the secrets back, in the transaction that brings the log back; raises BackupError.

    A backup that was made before there was a vault has none.
    """
    part = reader.manifest.part(PART)
    if part is None:
        return
    with connection.cursor().copy(_IN) as rows:
        for chunk in reader.chunks(part):
            rows.write(chunk)
    digest = hashlib.sha256()
    for chunk in _rows(connection):
        digest.update(chunk)
    if digest.hexdigest() != part.sha256:
        raise BackupError("the vault reads back differently than it was written")


def _rows(connection: Connection) -> Iterable[bytes]:
    with connection.cursor().copy(_OUT) as rows:
        for chunk in rows:
            yield bytes(chunk)


def _is_there(connection: Connection) -> bool:
    row = connection.execute(_THERE).fetchone()
    return row is not None and bool(row[0])
