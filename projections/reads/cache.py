"""Rendered documents kept in memory, so that a list asks the database only which they are.

An entry is known by its id and the position of its last change: another position is another
document. All are forgotten when another generation of views (or another log) is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

CACHE_BYTES_MAX = 48 * 1024 * 1024
ENTRY_OVERHEAD_BYTES = 300
"""What an entry takes beside its document, roughly: key, tuple, and its place in the dict."""

Key = tuple[str, str]
"""Collection and id."""


class DocumentCache:
    """A bounded cache of rendered documents; what was asked for last stays longest."""

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._generation: object = None
        self._entries: dict[Key, tuple[int, bytes]] = {}

    def serve(self, generation: object) -> None:
        """Note which inventory is served; everything of another one is forgotten."""
        if generation != self._generation:
            self._generation = generation
            self._entries.clear()
            self._bytes = 0

    def look_up(
        self, collection: str, ids: Sequence[str], positions: Sequence[int]
    ) -> list[bytes | None]:
        """Return the documents at these positions, None for each that is not here."""
        found: list[bytes | None] = []
        entries = self._entries
        # While there is plenty of room, nobody needs to know which was used last.
        ordered = self._bytes > self._bytes_max // 2
        for object_id, position in zip(ids, positions, strict=True):
            key = (collection, object_id)
            entry = entries.get(key)
            if entry is None or entry[0] != position:
                found.append(None)
            else:
                if ordered:
                    entries[key] = entries.pop(key)
                found.append(entry[1])
        return found

    def keep(self, collection: str, documents: Iterable[tuple[str, int, bytes]]) -> None:
        """Keep documents, and forget the ones unused for longest beyond the bound."""
        for object_id, position, document in documents:
            key = (collection, object_id)
            self._forget(key)
            self._entries[key] = (position, document)
            self._bytes += len(document) + ENTRY_OVERHEAD_BYTES
        while self._bytes > self._bytes_max:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry[1]) + ENTRY_OVERHEAD_BYTES
