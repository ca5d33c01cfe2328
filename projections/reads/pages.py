"""Pages of lists: one statement says which documents a page has; they are strung together here.

Most lists are asked for again and again by those who watch them. So the documents are kept as they
are rendered, by id and position, and the last pages as they are strung together: the statement
tells where nothing of the collection changed since, and looks at no row then.
"""

from __future__ import annotations

import struct
from typing import Any, cast
from urllib.parse import urlencode

import msgspec
import psycopg
from starlette.requests import Request
from starlette.responses import Response

from projections.reads.collections import Collection
from projections.reads.context import POSITION_HEADER, Reads, building
from projections.reads.lists import Cursor, ListQuery, chosen, damaged, parse, write_cursor

ATTEMPTS_MAX = 3
SEPARATOR = "\x1e"
"""Separates the keys that the database strings together, which are read faster than an array."""


class Found(msgspec.Struct, frozen=True):
    """What the statement of a page finds, in the order of its columns.

    `position` is what the inventory has seen, `generation` tells one inventory from another,
    `latest` is the position of the collection's last change. `keys` and the positions of the
    documents' last changes, `changed`, are as the database strings them together.
    """

    position: int
    generation: str
    latest: int | None
    keys: str | None
    changed: bytes | None
    last_value: str | None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page as it is kept: its documents between commas, and by what it is known to be right.

    `last` is what the last document is found by, where the page is full.
    """

    latest: int | None
    keys: str | None
    changed: bytes | None
    items: bytes
    last: Cursor | None

    @property
    def size_bytes(self) -> int:
        """The memory that the page takes, roughly."""
        return len(self.items) + len(self.keys or "") + len(self.changed or b"")


def statement(
    collection: Collection, query: ListQuery, latest: int | None
) -> tuple[bytes, list[Any]]:
    """Return the statement of a page: one row that says which documents it has, and no document.

    Where the collection's last change is still that of position `latest`, it looks for no more.
    The rows come sorted out of the inner query, and the aggregate keeps that order; the last row's
    sort value is therefore the greatest, or the least where the order is turned round.
    """
    sort, key = collection.sorts[query.sort], collection.key
    conditions = ["latest.position IS DISTINCT FROM %s::int8", *query.conditions]
    arguments = [latest, *query.arguments]
    order, beyond, last = ("DESC", "<", "min") if query.descending else ("ASC", ">", "max")
    if query.after is not None:
        conditions.append(
            f"({sort.column}, {key}) {beyond}"
            f" (%s::text::{sort.kind}, %s::text::{collection.key_kind})"
        )
        arguments += [query.after.value, query.after.key]
    words = [
        "SELECT place.position, ROW(place.log_id, place.schema_hash)::text, latest.position,",
        "page.keys, page.positions, page.last_value FROM inventory.cursor AS place,",
        "(SELECT greatest(there.position, gone.position) AS position FROM",
        "(SELECT max(position) AS position FROM",
        f"inventory.{collection.name}) AS there,",
        "(SELECT max(position) AS position FROM inventory.removed) AS gone) AS latest,",
        f"LATERAL (SELECT {last}(sorted)::text AS last_value,",
        f"string_agg(key::text, '{SEPARATOR}') AS keys,",
        "string_agg(int8send(changed), ''::bytea) AS positions",
        f"FROM (SELECT {key} AS key, found.position AS changed, {sort.column} AS sorted",
        f"FROM inventory.{collection.name} AS found WHERE {' AND '.join(conditions)}",
        f"ORDER BY {sort.column} {order}, {key} {order} LIMIT %s) AS rows) AS page",
    ]
    return " ".join(words).encode(), [*arguments, query.limit]


async def page_of(collection: Collection, reads: Reads, query: ListQuery) -> tuple[int, Page]:
    """Return a page, and the position in the log that it has seen."""
    shown = (query.column, query.fields)
    asked = (collection.name, query.fingerprint, query.limit, query.after, shown)
    known: Page | None = reads.pages.get(asked)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        found = await _look(collection, reads, query, known)
        reads.cache.serve(found.generation)
        if not reads.pages.serve(found.generation) and known is not None:
            known = None  # of another inventory: nothing follows from what was not looked for
            continue
        if known is not None and found.latest == known.latest:
            return found.position, known
        if known is not None and (found.keys, found.changed) == (known.keys, known.changed):
            page, settled = msgspec.structs.replace(known, latest=found.latest), True
        else:
            page, settled = await _strung(collection, reads, query, found)
        if settled:
            reads.pages.keep(asked, page, page.size_bytes)
        # A document that changed since the page was looked up may not belong into it any more.
        if settled or attempt == ATTEMPTS_MAX:
            return found.position, page
    raise building()


async def _look(
    collection: Collection, reads: Reads, query: ListQuery, known: Page | None
) -> Found:
    try:
        rows = await reads.query(*statement(collection, query, known.latest if known else None))
    except psycopg.DataError as error:
        raise damaged() from error  # only a cursor's values are not checked before
    if not rows:
        raise building()
    return Found(*rows[0])


async def _strung(
    collection: Collection, reads: Reads, query: ListQuery, found: Found
) -> tuple[Page, bool]:
    """Return the page of what was found, and whether its documents are those that were found."""
    ids = found.keys.split(SEPARATOR) if found.keys else []
    positions = struct.unpack(f">{len(ids)}q", found.changed or b"")
    documents, settled = await _documents(collection, reads, query.column, ids, positions)
    if query.fields is not None:
        documents = [_only(query.fields, document) for document in documents]
    last = None
    if len(ids) == query.limit:
        last = Cursor(query.fingerprint, found.last_value or "", ids[-1])
    page = Page(
        latest=found.latest,
        keys=found.keys,
        changed=found.changed,
        items=b",".join(documents),
        last=last,
    )
    return page, settled


async def _documents(
    collection: Collection, reads: Reads, column: str, ids: list[str], positions: tuple[int, ...]
) -> tuple[list[bytes], bool]:
    """Return the documents, from memory or the database, and whether all are at their positions."""
    shelf = f"{collection.name}.{column}"
    found = reads.cache.look_up(shelf, ids, positions)
    if None not in found:
        return cast("list[bytes]", found), True
    places = [place for place, document in enumerate(found) if document is None]
    wanted = {ids[place]: positions[place] for place in places}
    words = [
        f"SELECT {collection.key}::text, position, {column}",
        f"FROM inventory.{collection.name} WHERE {collection.key} = ANY(%s)",
    ]
    keys = [int(one) for one in wanted] if collection.key_kind == "int8" else list(wanted)
    rows = await reads.query(" ".join(words).encode(), [keys])
    reads.cache.keep(shelf, rows)
    fresh = {row[0]: row[2] for row in rows}
    for place in places:
        found[place] = fresh.get(ids[place])
    settled = {row[0]: row[1] for row in rows} == wanted
    return [document for document in found if document is not None], settled


async def answer_list(collection: Collection, reads: Reads, request: Request) -> Response:
    """Answer a page of a list, with a link to the next one where the page is full."""
    position, page = await page_of(collection, reads, parse(collection, request.query_params))
    following = "null"
    if page.last is not None:
        kept = {k: v for k, v in request.query_params.items() if k not in {"cursor", "after"}}
        link = f"{collection.path}?{urlencode({**kept, 'cursor': write_cursor(page.last)})}"
        following = f'"{link}"'
    tail = f'],"next":{following},"position":{position}}}'
    return Response(
        b"".join((b'{"items":[', page.items, tail.encode())),
        media_type="application/json",
        headers={POSITION_HEADER: str(position)},
    )


def _only(fields: tuple[str, ...], document: bytes) -> bytes:
    whole = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    return msgspec.json.encode(chosen(fields, whole))
