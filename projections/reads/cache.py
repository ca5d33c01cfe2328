"""Rendered documents kept in memory, so that a list asks the database only which they are.

An entry is known by its id and the position of its last change: another position is another
document. All are forgotten when another generation of views (or another log) is served. Whole pages
are kept beside them, for those who ask for the same again and again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

CACHE_BYTES_MAX = 48 * 1024 * 1024
PAGES_BYTES_MAX = 16 * 1024 * 1024
ENTRY_OVERHEAD_BYTES = 300
"""What an entry takes beside its document, roughly: key, tuple, and its place in the dict."""


class DocumentCache:
    """A bounded cache of rendered documents; what was asked for last stays longest.

    Documents lie on shelves, by their ids: one for each collection and column. Where there is no
    room, the fullest shelf gives up what was unused for longest.
    """

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes: dict[str, int] = {}
        self._generation: object = None
        self._shelves: dict[str, dict[str, tuple[int, bytes]]] = {}

    def serve(self, generation: object) -> None:
        """Note which inventory is served; everything of another one is forgotten."""
        if generation != self._generation:
            self._generation = generation
            self._shelves.clear()
            self._bytes.clear()

    def look_up(
        self, shelf: str, ids: Sequence[str], positions: Sequence[int]
    ) -> list[bytes | None]:
        """Return the documents at these positions, None for each that is not here."""
        entries = self._shelves.get(shelf, {})
        found = [
            entry[1] if entry is not None and entry[0] == position else None
            for position, entry in zip(positions, map(entries.get, ids), strict=True)
        ]
        # While there is plenty of room, nobody needs to know which was used last.
        if sum(self._bytes.values()) > self._bytes_max // 2:
            for one, document in zip(ids, found, strict=True):
                if document is not None:
                    entries[one] = entries.pop(one)
        return found

    def keep(self, shelf: str, documents: Iterable[tuple[str, int, bytes]]) -> None:
        """Keep documents, and forget the ones unused for longest beyond the bound."""
        entries = self._shelves.setdefault(shelf, {})
        taken = self._bytes.get(shelf, 0)
        for one, position, document in documents:
            former = entries.pop(one, None)
            if former is not None:
                taken -= len(former[1]) + ENTRY_OVERHEAD_BYTES
            entries[one] = (position, document)
            taken += len(document) + ENTRY_OVERHEAD_BYTES
        self._bytes[shelf] = taken
        while sum(self._bytes.values()) > self._bytes_max:
            fullest = max(self._bytes, key=self._bytes.__getitem__)
            oldest = next(iter(self._shelves[fullest]))
            gone = self._shelves[fullest].pop(oldest)[1]
            self._bytes[fullest] -= len(gone) + ENTRY_OVERHEAD_BYTES


class PageCache:
    """The last pages that were strung together, by what was asked for; bounded as well."""

    def __init__(self, bytes_max: int = PAGES_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._generation: object = None
        self._pages: dict[Hashable, tuple[Any, int]] = {}

    def serve(self, generation: object) -> bool:
        """Note which inventory is served; return whether pages kept before are of the same one."""
        if generation == self._generation:
            return True
        self._generation = generation
        self._pages.clear()
        self._bytes = 0
        return False

    def get(self, asked: Hashable) -> Any:  # noqa: ANN401 - whatever was kept
        """Return the page kept for what is asked, or None; it is the last one to be forgotten."""
        found = self._pages.pop(asked, None)
        if found is None:
            return None
        self._pages[asked] = found
        return found[0]

    def keep(self, asked: Hashable, page: object, size_bytes: int) -> None:
        """Keep a page, and forget the ones unused for longest beyond the bound."""
        former = self._pages.pop(asked, None)
        if former is not None:
            self._bytes -= former[1]
        size_bytes += ENTRY_OVERHEAD_BYTES
        self._pages[asked] = (page, size_bytes)
        self._bytes += size_bytes
        while self._bytes > self._bytes_max:
            self._bytes -= self._pages.pop(next(iter(self._pages)))[1]
