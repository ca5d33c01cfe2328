"""Rows in PostgreSQL's binary COPY format, read without PostgreSQL.

Format: a signature, flags and an extension, then for each row its number of fields (2 bytes) and
each field led by its length (4 bytes, -1 for null), and -1 in place of a number at the end.
"""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence

from chronovisor.backup_format import BrokenBackupError
from events.log.arrays import time_of

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER_BYTES = len(_SIGNATURE) + 8
_FIELD_BYTES_MAX = 1024 * 1024
"""Payloads have 256 KiB at most, and so have answers."""
_int2, _int4, _int8 = struct.Struct("!h"), struct.Struct("!i"), struct.Struct("!q")

Row = tuple[bytes | None, ...]


class _Buffer:
    """Bytes that come in chunks, taken in pieces of a known length."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._bytes = b""
        self._place = 0

    def take(self, count: int) -> bytes:
        """Return the next bytes; raises BrokenBackupError where there are fewer."""
        end = self._place + count
        while end > len(self._bytes):
            chunk = next(self._chunks, None)
            if chunk is None:
                raise BrokenBackupError("the rows of a table end in the middle of one")
            self._bytes = self._bytes[self._place :] + chunk
            self._place, end = 0, count
        taken = self._bytes[self._place : end]
        self._place = end
        return taken

    def ended(self) -> bool:
        """Whether nothing is left."""
        return self._place == len(self._bytes) and next(self._chunks, None) is None


def rows(chunks: Iterable[bytes], fields: int) -> Iterator[Row]:
    """Yield the rows of a table with so many fields; raises BrokenBackupError."""
    buffer = _Buffer(chunks)
    header = buffer.take(_HEADER_BYTES)
    if header != _SIGNATURE + bytes(8):
        raise BrokenBackupError("the rows of a table are not in the format of PostgreSQL's COPY")
    while True:
        (count,) = _int2.unpack(buffer.take(2))
        if count == -1:
            break
        if count != fields:
            raise BrokenBackupError(f"a row has {count} fields instead of {fields}")
        yield tuple(_field(buffer) for _ in range(fields))
    if not buffer.ended():
        raise BrokenBackupError("something follows behind the last row of a table")


def _field(buffer: _Buffer) -> bytes | None:
    (length,) = _int4.unpack(buffer.take(4))
    if length == -1:
        return None
    if not 0 <= length <= _FIELD_BYTES_MAX:
        raise BrokenBackupError(f"a field has a length of {length} B")
    return buffer.take(length)


def places(columns: Sequence[str], *wanted: str) -> tuple[int, ...]:
    """Return where columns stand; raises BrokenBackupError where one is missing."""
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise BrokenBackupError(f"a table lacks the columns {', '.join(missing)}")
    return tuple(columns.index(name) for name in wanted)


def int2(field: bytes | None) -> int:
    """Return a smallint."""
    return _number(_int2, field)


def int4(field: bytes | None) -> int:
    """Return an integer."""
    return _number(_int4, field)


def int8(field: bytes | None) -> int:
    """Return a bigint."""
    return _number(_int8, field)


def instant(field: bytes | None) -> dt.datetime:
    """Return a timestamptz, in UTC."""
    return time_of(int8(field))


def identifier(field: bytes | None) -> uuid.UUID:
    """Return a uuid."""
    try:
        return uuid.UUID(bytes=_present(field))
    except ValueError as error:
        raise BrokenBackupError(str(error)) from error


def text(field: bytes | None) -> str:
    """Return a text."""
    try:
        return _present(field).decode()
    except UnicodeDecodeError as error:
        raise BrokenBackupError(f"a text is no UTF-8: {error}") from error


def _present(field: bytes | None) -> bytes:
    if field is None:
        raise BrokenBackupError("a field is empty that never is")
    return field


def _number(kind: struct.Struct, field: bytes | None) -> int:
    try:
        (value,) = kind.unpack(_present(field))
    except struct.error as error:
        raise BrokenBackupError(f"a number cannot be read: {error}") from error
    return int(value)
