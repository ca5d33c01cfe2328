"""A page of a list as it is kept: documents strung together, a changed one exchanged in its place.

Nothing in here asks a database. A page never changes: what comes of a change is another page that
shares what is the same, so that those who were answered meanwhile keep what they were answered.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from projections.reads.lists import Cursor

CHUNK_DOCUMENTS = 64
"""So many documents are strung together; exchanging one copies the chunk that it lies in."""

SEPARATOR = "\x1e"
"""Separates the values that the database strings together, which are read faster than an array."""

_POSITION_BYTES = 8
_SLOT_BYTES = 200
"""What the place of a document takes, roughly: its id, its sort value, and the dict of places."""


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Some documents of a page, each with a comma behind it but the page's last one."""

    data: bytes
    lengths: tuple[int, ...]

    def exchanged(self, place: int, document: bytes) -> Chunk:
        """Return the chunk with another document in a place."""
        start = sum(self.lengths[:place]) + place
        end = start + self.lengths[place]
        lengths = (*self.lengths[:place], len(document), *self.lengths[place + 1 :])
        return Chunk(b"".join((self.data[:start], document, self.data[end:])), lengths)


class News(msgspec.Struct, frozen=True):
    """A row that changed since a page was made, in the order of the statement's columns.

    `inside`: it meets the list's conditions and lies between the ends of the page. An object that
    is gone has no sort value and no document, and is not inside.
    """

    key: str
    position: int
    value: str | None
    inside: bool | None
    document: bytes | None


class Slots(msgspec.Struct, frozen=True):
    """Where the documents of a page are, by their keys, and what they are sorted by."""

    places: dict[str, int]
    values: list[str]


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page as it is kept, and by what it is known to be right.

    `latest` is the position up to which changes of its collection are in it. `keys`, `changed` (the
    positions of the documents) and `values` (what they are sorted by) are as the database strings
    them together. `last` is what the last document is found by. Where `steady` is false, the last
    change brought or took documents, and the next one is likely to do the same.
    """

    latest: int | None
    keys: str | None
    changed: bytes | None
    values: str | None
    chunks: tuple[Chunk, ...]
    last: Cursor | None
    steady: bool = True
    slots: Slots | None = None

    @property
    def parts(self) -> list[bytes]:
        """The documents between commas, in pieces."""
        return [chunk.data for chunk in self.chunks]

    @property
    def size_bytes(self) -> int:
        """The memory that the page takes, roughly."""
        places = len(self.changed or b"") // _POSITION_BYTES
        texts = len(self.keys or "") + len(self.changed or b"") + len(self.values or "")
        slots = _SLOT_BYTES * places if self.slots is not None else 0
        return sum(len(chunk.data) for chunk in self.chunks) + texts + 8 * places + slots


def strung(documents: Sequence[bytes]) -> tuple[Chunk, ...]:
    """Return documents strung together."""
    chunks = []
    for first in range(0, len(documents), CHUNK_DOCUMENTS):
        some = documents[first : first + CHUNK_DOCUMENTS]
        comma = b"," if first + CHUNK_DOCUMENTS < len(documents) else b""
        chunks.append(Chunk(b",".join(some) + comma, tuple(map(len, some))))
    return tuple(chunks)


def split(together: str | None) -> list[str]:
    """Return the values that the database strung together."""
    return together.split(SEPARATOR) if together is not None else []


def spliced(page: Page, news: Sequence[News]) -> Page | None:
    """Return the page with what changed in it exchanged.

    None where documents came, went or changed their place: only the database knows the page then.
    `news` are all that changed in the collection beyond the page's `latest`.
    """
    slots = page.slots or _slots(page)
    if slots is None:
        return None
    chunks, changed = list(page.chunks), bytearray(page.changed or b"")
    for one in news:
        place = slots.places.get(one.key)
        if place is None:
            if one.inside:
                return None
            continue
        if not one.inside or one.document is None or one.value != slots.values[place]:
            return None
        number, inner = divmod(place, CHUNK_DOCUMENTS)
        chunks[number] = chunks[number].exchanged(inner, one.document)
        struct.pack_into(">q", changed, _POSITION_BYTES * place, one.position)
    return msgspec.structs.replace(
        page,
        latest=max([page.latest or 0, *(one.position for one in news)]),
        changed=bytes(changed) if page.changed is not None else None,
        chunks=tuple(chunks),
        slots=slots,
    )


def _slots(page: Page) -> Slots | None:
    """Return where the documents are; None where that is not clear (a separator in a value)."""
    keys, values = split(page.keys), split(page.values)
    if len(keys) != len(values) or len(keys) != len(page.changed or b"") // _POSITION_BYTES:
        return None
    return Slots({key: place for place, key in enumerate(keys)}, values)
