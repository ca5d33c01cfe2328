"""What a table of documents is: its columns, and how a document becomes a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from projections.views.shelf import Shelf

Document = TypeVar("Document", bound=msgspec.Struct)
Row = tuple[Any, ...]
encode = msgspec.json.Encoder().encode


class Table(Generic[Document]):
    """A table of documents: `columns` are its names and SQL types, `row` makes what they hold."""

    def __init__(
        self,
        name: str,
        kind: str,
        document: type[Document],
        columns: dict[str, str],
        row: Callable[[Document, int], Row],
    ) -> None:
        self.name = name
        self.kind = kind
        self.document = document
        self.columns = columns
        self.row = row
        self.decoder = msgspec.json.Decoder(document)

    def rows(self, shelf: Shelf[Document]) -> tuple[list[Row], list[Row]]:
        """Return the rows of the documents that changed, by id: those that are new, and the rest.

        A new one is in no table yet, so that it can be written without looking for it.
        """
        row, documents, created = self.row, shelf.documents, shelf.created
        fresh: list[Row] = []
        changed: list[Row] = []
        for object_id, position in sorted(shelf.changed.items()):
            rows = fresh if object_id in created else changed
            rows.append(row(documents[object_id], position))
        return fresh, changed


def folded(*parts: str) -> str:
    """What a search looks through: lower case, one part a line."""
    return "\n".join(part for part in parts if part).casefold()
