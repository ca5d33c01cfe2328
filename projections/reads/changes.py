"""What changed in the inventory between two positions, for those who follow it.

A document that changed several times comes once, as it is now, under the position of its last
change; what is gone comes as removed. So a reader that was away catches up with few rows.
"""

from __future__ import annotations

from collections.abc import Collection as Some

import msgspec

from projections.reads.collections import COLLECTIONS, EVENTS, Collection
from projections.reads.context import Reads

PAGE_CHANGES_MAX = 500
KINDS = tuple(collection.kind for collection in COLLECTIONS)


class Change(msgspec.Struct, frozen=True):
    """A changed document, or (without one) the id of an object that is gone."""

    kind: str
    position: int
    id: str
    document: bytes | None


def _part(collection: Collection) -> str:
    key = "position::text" if collection is EVENTS else "id"
    return " ".join(
        [
            f"(SELECT '{collection.kind}' AS kind, position, {key} AS id, document",
            f"FROM inventory.{collection.name} WHERE '{collection.kind}' = ANY(%(kinds)s)",
            "AND position > %(after)s AND position <= %(until)s",
            "ORDER BY position FETCH FIRST %(limit)s ROWS WITH TIES)",
        ]
    )


def _statement() -> bytes:
    """Return the statement of a page: each table's part is cut to a page before all are sorted.

    A page never ends amid the changes of one position (`WITH TIES`), since an event may change
    many documents and whoever resumes after its position would miss the rest.
    """
    removed = (
        "(SELECT kind, position, id, NULL::bytea FROM inventory.removed"
        " WHERE kind = ANY(%(kinds)s) AND position > %(after)s AND position <= %(until)s"
        " ORDER BY position FETCH FIRST %(limit)s ROWS WITH TIES)"
    )
    parts = " UNION ALL ".join([*(_part(collection) for collection in COLLECTIONS), removed])
    words = ["SELECT kind, position, id, document FROM", f"({parts}) AS changes"]
    words.append("ORDER BY position FETCH FIRST %(limit)s ROWS WITH TIES")
    return " ".join(words).encode()


_STATEMENT = _statement()


async def changes(reads: Reads, kinds: Some[str], after: int, until: int) -> list[Change]:
    """Return a page of changes beyond a position, in order; empty when there are no more."""
    arguments = {
        "kinds": sorted(kinds),
        "after": after,
        "until": until,
        "limit": PAGE_CHANGES_MAX,
    }
    rows = await reads.query(_STATEMENT, arguments)
    return [Change(*row) for row in rows]
