"""PostgreSQL arrays in binary form, put together from elements that were encoded beforehand.

psycopg dumps lists one element after the other in Python, for every column of every group; here an
element is encoded once, when its command arrives, and a group only joins them.
Format: PostgreSQL's array_recv (dimensions, null flag, element type, length, lower bound, and the
elements, each led by its length, -1 for null).
"""

from __future__ import annotations

import datetime as dt
import functools
import struct
from collections.abc import Collection, Iterable

from psycopg.abc import AdaptContext
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

BOOL, BYTEA, INT8, INT2, INT4, TEXT, TIMESTAMPTZ, UUID = 16, 17, 20, 21, 23, 25, 1184, 2950
"""The oids of PostgreSQL's types, which are the same everywhere."""

NULL = struct.pack("!i", -1)
_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_header = struct.Struct("!iiIii")
_length = struct.Struct("!i").pack
_int4 = struct.Struct("!ii").pack
_int2 = struct.Struct("!ih").pack
_int8 = struct.Struct("!iq").pack


_SMALLS = 2_048
_SMALL = [_int4(4, value) for value in range(_SMALLS)]
"""Versions, counts and numbers are mostly small: looking one up is faster than packing it."""


class Array(bytes):
    """The bytes of an array, ready to be sent; the statement's cast says of which type it is."""

    __slots__ = ()


class ArrayDumper(Dumper):
    """Hands an Array to PostgreSQL as it is."""

    format = Format.BINARY

    def dump(self, obj: Array) -> Buffer:
        """Return the bytes themselves."""
        return obj


def register(context: AdaptContext) -> None:
    """Let a connection send Arrays."""
    context.adapters.register_dumper(Array, ArrayDumper)


def array(oid: int, elements: Collection[bytes]) -> Array:
    """Return the array of encoded elements."""
    count = len(elements)
    if not count:
        return Array(struct.pack("!iiI", 0, 0, oid))
    return Array(_header.pack(1, 1, oid, count, 1) + b"".join(elements))


def int4_array(values: Iterable[int]) -> Array:
    """Return an array of 4-byte integers."""
    return array(INT4, [_SMALL[value] if 0 <= value < _SMALLS else int4(value) for value in values])


def time_array(microseconds: Iterable[int]) -> Array:
    """Return an array of instants, given as by `microseconds_of`."""
    return array(TIMESTAMPTZ, [_int8(8, value) for value in microseconds])


def raw(value: bytes) -> bytes:
    """Encode a bytea, or the 16 bytes of a uuid."""
    return _length(len(value)) + value


def text(value: str) -> bytes:
    """Encode a text."""
    encoded = value.encode()
    return _length(len(encoded)) + encoded


@functools.lru_cache(maxsize=4096)
def frequent_text(value: str) -> bytes:
    """Encode a text of which there are few, such as event names."""
    return text(value)


def optional_text(value: str | None) -> bytes:
    """Encode a text or null."""
    return NULL if value is None else text(value)


def int2(value: int) -> bytes:
    """Encode a 2-byte integer."""
    return _int2(2, value)


def int4(value: int) -> bytes:
    """Encode a 4-byte integer."""
    return _SMALL[value] if 0 <= value < _SMALLS else _int4(4, value)


def int8(value: int) -> bytes:
    """Encode an 8-byte integer."""
    return _int8(8, value)


def microseconds_of(time: dt.datetime) -> int:
    """Return PostgreSQL's number for an instant: microseconds since the year 2000 in UTC."""
    return (time - _EPOCH) // _MICROSECOND


def time_of(microseconds: int) -> dt.datetime:
    """Return the instant of PostgreSQL's number, in UTC."""
    return _EPOCH + dt.timedelta(microseconds=microseconds)
