"""The history's part of a backup: the warehouse's tables, and how far the notifier has told.

The processes that own these files are asked for copies over their sockets, and go on meanwhile;
where they do not run, the files are read. The log is not asked: its events are in its own part, and
a restored warehouse is seeded anew from it. What only the warehouse has are the samples.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa

from chronovisor.backup_file import BackupReader, BackupWriter
from chronovisor.backup_format import (
    CHUNK_BYTES,
    BackupError,
    BrokenBackupError,
    HistoryFacts,
    Part,
    Scope,
    TableFacts,
)
from chronovisor.folder import Folder
from dwh import copies as warehouse
from dwh.warehouse import FILE_NAME as WAREHOUSE_NAME
from events.wire.copies import HEAD, NoCopyError, fetch
from notifier.store import FILE_NAME as NOTIFIER_NAME

NOTIFIER_PART = f"history/{NOTIFIER_NAME}"
_TABLE_NAME = re.compile(r"[A-Za-z0-9_]{1,200}")
_PREFIX, _SUFFIX = "history/", ".arrows"
_head = msgspec.json.Decoder(warehouse.Head)

Frames = Iterator[tuple[bytes, bytes]]
Say = Callable[[str, int], None]
"""Told of which part, and how many bytes of it are done."""


def part_name(table: str) -> str:
    """Return the name of a table's part."""
    return f"{_PREFIX}{table}{_SUFFIX}"


def occupied(folder: Folder) -> list[Path]:
    """Return the files that a restore would have to replace, or would find beside its own.

    A journal that was left behind by another database would be taken for the restored one's.
    """
    places = ((folder.warehouse, WAREHOUSE_NAME), (folder.notifier, NOTIFIER_NAME))
    return [found for place, name in places for found in sorted(place.glob(f"{name}*"))]


class Taken(msgspec.Struct, kw_only=True):
    """What was taken of the history, and sentences on what was not there."""

    facts: HistoryFacts | None = None
    left_out: list[str] = []


def take(folder: Folder, writer: BackupWriter, say: Say) -> Taken:
    """Write the parts of the history; raises BackupError."""
    taken = Taken(left_out=[])
    try:
        with contextlib.closing(_warehouse_frames(folder)) as frames:
            taken.facts = _take_tables(frames, writer, say)
        if taken.facts is None:
            taken.left_out.append(f"no warehouse was found in {folder.warehouse}")
        if not _take_notifier(folder, writer, say):
            taken.left_out.append(f"no memory of the notifier was found in {folder.notifier}")
    except (NoCopyError, OSError, duckdb.Error, sqlite3.Error) as error:
        raise BackupError(f"the history cannot be copied: {error}") from error
    return taken


def _warehouse_frames(folder: Folder) -> Generator[tuple[bytes, bytes], None, None]:
    """Yield the frames of a copy: of the process that runs, or else of the file."""
    served = fetch(folder.warehouse_copy_socket)
    try:
        first = next(served)
    except (FileNotFoundError, ConnectionRefusedError):
        connection = warehouse.open_alone(folder.warehouse)
        if connection is not None:
            yield from ((frame[:1], frame[1:]) for frame in warehouse.copy_frames(connection))
        return
    yield first
    yield from served


def _take_tables(frames: Frames, writer: BackupWriter, say: Say) -> HistoryFacts | None:
    overview: warehouse.Overview | None = None
    tables: list[TableFacts] = []
    following = next(frames, None)
    while following is not None:
        kind, content = following
        if kind != HEAD:
            raise NoCopyError("the warehouse sent rows of no table")
        head = _head.decode(content)
        if isinstance(head, warehouse.Overview):
            overview, following = head, next(frames, None)
            continue
        if not _TABLE_NAME.fullmatch(head.name):
            raise NoCopyError(f"the warehouse has a table of the odd name {head.name!r}")
        tables.append(TableFacts(name=head.name, sql=head.sql, rows=head.rows))
        name, done = part_name(head.name), 0
        with writer.part(name, Scope.HISTORY, compressed=False) as sink:
            while (following := next(frames, None)) is not None and following[0] != HEAD:
                sink.write(following[1])
                done += len(following[1])
                say(name, done)
    if overview is None:
        return None
    return HistoryFacts(log_id=overview.log_id, position=overview.position, tables=tuple(tables))


def _take_notifier(folder: Folder, writer: BackupWriter, say: Say) -> bool:
    served = fetch(folder.notifier_copy_socket)
    done = 0
    try:
        next(served)
    except (FileNotFoundError, ConnectionRefusedError):
        return _take_notifier_file(folder, writer)
    with writer.part(NOTIFIER_PART, Scope.HISTORY) as sink:
        for _kind, content in served:
            sink.write(content)
            done += len(content)
            say(NOTIFIER_PART, done)
    return True


def _take_notifier_file(folder: Folder, writer: BackupWriter) -> bool:
    path = folder.notifier / NOTIFIER_NAME
    if not path.exists():
        return False
    with tempfile.TemporaryDirectory(dir=folder.notifier, prefix=".copy-") as place:
        copy = Path(place) / NOTIFIER_NAME
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
        with writer.part(NOTIFIER_PART, Scope.HISTORY) as sink, copy.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                sink.write(chunk)
    return True


def check(reader: BackupReader, facts: HistoryFacts, say: Say) -> None:
    """Read every table's rows and count them; raises BrokenBackupError."""
    for table in facts.tables:
        part = _part_of(reader, table)
        try:
            rows = warehouse.count_rows(_Source(reader, part, say))
        except (pa.ArrowInvalid, OSError) as error:
            raise BrokenBackupError(f"part {part.name} is no table: {error}") from error
        if rows != table.rows:
            raise BrokenBackupError(f"{part.name} has {rows} rows, the manifest says {table.rows}")


def put(reader: BackupReader, facts: HistoryFacts | None, folder: Folder, say: Say) -> None:
    """Write the history into a new folder; raises BackupError."""
    notifier = reader.manifest.part(NOTIFIER_PART)
    try:
        if facts is not None:
            with contextlib.closing(warehouse.make(folder.warehouse)) as connection:
                connection.execute("SET preserve_insertion_order = true")
                for table in facts.tables:
                    part = _part_of(reader, table)
                    head = warehouse.Table(name=table.name, sql=table.sql, rows=table.rows)
                    warehouse.fill(connection, head, _Source(reader, part, say))
            (folder.warehouse / WAREHOUSE_NAME).chmod(0o600)
        if notifier is not None:
            folder.notifier.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder.notifier / NOTIFIER_NAME
            path.touch(mode=0o600, exist_ok=False)
            with path.open("wb") as target:
                for chunk in reader.chunks(notifier):
                    target.write(chunk)
    except (OSError, duckdb.Error, pa.ArrowInvalid, warehouse.TablesChangedError) as error:
        raise BackupError(f"the history cannot be restored: {error}") from error


def _part_of(reader: BackupReader, table: TableFacts) -> Part:
    part = reader.manifest.part(part_name(table.name))
    if part is None:
        raise BrokenBackupError(f"the rows of table {table.name} are missing")
    return part


class _Source:
    """A part as a file that Arrow reads; its checksum is tested at the end."""

    closed = False

    def __init__(self, reader: BackupReader, part: Part, say: Say) -> None:
        self._name = part.name
        self._say = say
        self._chunks = reader.chunks(part)
        self._bytes = bytearray()
        self._done = 0

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes, fewer only at the end."""
        while count < 0 or len(self._bytes) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._bytes += chunk
        taken = bytes(self._bytes if count < 0 else self._bytes[:count])
        del self._bytes[: len(taken)]
        self._done += len(taken)
        self._say(self._name, self._done)
        return taken

    def readable(self) -> bool:
        """Whether it can be read: it can."""
        return True

    def writable(self) -> bool:
        """Whether it can be written: it cannot."""
        return False

    def seekable(self) -> bool:
        """Whether it has places: it has none."""
        return False

    def tell(self) -> int:
        """How much was read."""
        return self._done

    def close(self) -> None:
        """Nothing is held open."""
