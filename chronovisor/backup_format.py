"""What a backup file says of itself: its manifest, and what can be wrong with a file.

A backup is one zip file. Its entries are the parts; the last ones are `manifest.json` and, with a
passphrase, `manifest.mac`. The zip comment at the very end is `sha256:` and the SHA-256, in hex, of
every byte before it, so that a file that was cut short or altered anywhere is told at once. Any zip
tool lists the file; `docs/backup.md` describes each part.
"""

from __future__ import annotations

import datetime as dt
import enum
import uuid

import msgspec

FORMAT = 1
MANIFEST_NAME = "manifest.json"
MANIFEST_MAC_NAME = "manifest.mac"
MANIFEST_BYTES_MAX = 16 * 1024 * 1024
SEAL_PREFIX = b"sha256:"
SEAL_BYTES = len(SEAL_PREFIX) + 64
CHUNK_BYTES = 256 * 1024


class Scope(enum.StrEnum):
    """What a backup holds, or what of it is restored."""

    ALL = "all"
    LOG = "log"
    FILES = "files"
    HISTORY = "history"


PARTS_OF_ALL = (Scope.LOG, Scope.FILES, Scope.HISTORY)


class BackupError(Exception):
    """A backup cannot be made or restored here; the text says why and what would help."""


class BrokenBackupError(BackupError):
    """The file is not a whole, unaltered backup."""


class SecretsSealedError(BackupError):
    """The passphrase is missing or wrong."""


class Sealing(msgspec.Struct, frozen=True, kw_only=True):
    """How the key is derived from the passphrase (argon2id), and the nonce of AES-256-GCM."""

    salt: bytes
    nonce: bytes
    memory_kib: int
    iterations: int
    lanes: int


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the file: `bytes` and `sha256` are those of its content, before compression."""

    name: str
    scope: Scope
    bytes: int
    sha256: str
    sealed: bool = False


class LogFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Which log was taken, and up to where; `columns` of each table in the order of its part."""

    log_id: uuid.UUID
    position: int
    last_time: dt.datetime | None
    claims: int
    answers: int
    columns: dict[str, tuple[str, ...]]
    migrations: tuple[str, ...]


class TableFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the warehouse: the statement that makes it, and its rows."""

    name: str
    sql: str
    rows: int


class HistoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How far the warehouse had come, and its tables."""

    log_id: str | None
    position: int
    tables: tuple[TableFacts, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds. `left_out` are sentences on what could not be taken."""

    format: int
    product_version: str
    created_at: dt.datetime
    host: str
    scopes: tuple[Scope, ...]
    parts: tuple[Part, ...]
    log: LogFacts | None = None
    history: HistoryFacts | None = None
    sealing: Sealing | None = None
    left_out: tuple[str, ...] = ()

    def part(self, name: str) -> Part | None:
        """Return the part of a name."""
        return next((part for part in self.parts if part.name == name), None)

    def parts_of(self, scope: Scope) -> tuple[Part, ...]:
        """Return the parts of a scope."""
        return tuple(part for part in self.parts if part.scope is scope)


def wanted(scopes: tuple[Scope, ...]) -> tuple[Scope, ...]:
    """Return the scopes meant, `all` taken apart and none doubled."""
    if not scopes or Scope.ALL in scopes:
        return PARTS_OF_ALL
    return tuple(scope for scope in PARTS_OF_ALL if scope in scopes)
