"""The documents of one kind that a batch needs, and which of them it changes."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

Document = TypeVar("Document", bound=msgspec.Struct)


class Shelf(Generic[Document]):
    """The documents of one kind: those at hand, and which of them changed, and at what position."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.changed: dict[str, int] = {}
        self.created: set[str] = set()
        self.removed: dict[str, int] = {}
        self.unwritten: set[str] = set()
        """Those of the removed that came and went without ever being written."""

    def get(self, object_id: str) -> Document | None:
        """Return a document that is at hand."""
        return self.documents.get(object_id)

    def put(self, object_id: str, document: Document, position: int) -> None:
        """Take a new or changed document."""
        self.documents[object_id] = document
        self.changed[object_id] = position

    def create(self, object_id: str, document: Document, position: int) -> None:
        """Take the document of an object that was not there before."""
        self.put(object_id, document, position)
        self.created.add(object_id)

    def remove(self, object_id: str, position: int) -> None:
        """Forget an object that is gone."""
        self.documents.pop(object_id, None)
        self.changed.pop(object_id, None)
        if object_id in self.created:
            self.created.discard(object_id)
            self.unwritten.add(object_id)
        self.removed[object_id] = position

    def turn(
        self, object_id: str, before: Document | None, after: Document | None, position: int
    ) -> None:
        """Take what became of a document: it was made, changed or removed, or is as it was."""
        if after is before:
            return
        if after is None:
            self.remove(object_id, position)
        elif before is None:
            self.create(object_id, after, position)
        else:
            self.put(object_id, after, position)

    def written(self) -> None:
        """Begin the next batch: all changes so far are written; they are now the newest."""
        for object_id in self.changed:
            self.documents[object_id] = self.documents.pop(object_id)
        self.changed.clear()
        self.created.clear()
        self.removed.clear()
        self.unwritten.clear()
