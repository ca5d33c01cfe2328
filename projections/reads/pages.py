"""Pages of lists: one statement says which documents a page has; they are strung together here.

Most lists are asked for again and again by those who watch them. So the documents are kept as they
are rendered, by id and position, and the last pages as they are strung together. Whoever asks for
such a page again has the database asked for what changed in the collection since, which mostly is
nothing, or a few documents that are exchanged in their places; only where some came, went or moved
is the page looked up anew.
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
from projections.reads.page import SEPARATOR, News, Page, spliced, split, strung

ATTEMPTS_MAX = 3
NEWS_MAX = 100
"""Up to so many changed documents are exchanged; beyond, the page is looked up anew."""


class Found(msgspec.Struct, frozen=True):
    """What the statement of a page finds, in the order of its columns.

    `position` is what the inventory has seen, `generation` tells one inventory from another,
    `latest` is the position of the collection's last change. `keys`, the positions of the
    documents' last changes, `changed`, and what they are sorted by, `values`, are as the database
    strings them together; `last_value` is what the last one is sorted by.
    """

    position: int
    generation: str
    latest: int | None
    keys: str | None
    changed: bytes | None
    values: str | None
    last_value: str | None


def statement(
    collection: Collection, query: ListQuery, latest: int | None
) -> tuple[bytes, list[Any]]:
    """Return the statement of a page: one row that says which documents it has, and no document.

    Where the collection's last change is still that of position `latest`, it looks for no more.
    The rows come sorted out of the inner query, and the aggregates keep that order; the last row's
    sort value is therefore the greatest, or the least where the order is turned round.
    """
    sort, key = collection.sorts[query.sort], collection.key
    conditions, given = _conditions(collection, query)
    conditions, given = [_LATER, *conditions], [latest, *given]
    order, last = ("DESC", "min") if query.descending else ("ASC", "max")
    words = [
        "SELECT place.position, ROW(place.log_id, place.schema_hash)::text, latest.position,",
        "page.keys, page.positions, page.sort_values, page.last_value",
        "FROM inventory.cursor AS place,",
        "(SELECT greatest(there.position, gone.position) AS position FROM",
        "(SELECT max(position) AS position FROM",
        f"inventory.{collection.name}) AS there,",
        "(SELECT max(position) AS position FROM inventory.removed) AS gone) AS latest,",
        f"LATERAL (SELECT {last}(sorted)::text AS last_value,",
        f"string_agg(sorted::text, '{SEPARATOR}') AS sort_values,",
        f"string_agg(key::text, '{SEPARATOR}') AS keys,",
        "string_agg(int8send(changed), ''::bytea) AS positions",
        f"FROM (SELECT {key} AS key, found.position AS changed, {sort.column} AS sorted",
        f"FROM inventory.{collection.name} AS found WHERE {' AND '.join(conditions)}",
        f"ORDER BY {sort.column} {order}, {key} {order} LIMIT %s) AS rows) AS page",
    ]
    return " ".join(words).encode(), [*given, query.limit]


_LATER = "latest.position IS DISTINCT FROM %s::int8"


def _conditions(collection: Collection, query: ListQuery) -> tuple[list[str], list[Any]]:
    """Return what the rows of a list meet, from the page's beginning on."""
    conditions, given = list(query.conditions), list(query.arguments)
    if query.after is not None:
        beyond = "<" if query.descending else ">"
        conditions.append(_compared(collection, query, beyond))
        given += [query.after.value, query.after.key]
    return conditions, given


def _compared(collection: Collection, query: ListQuery, how: str) -> str:
    sort, key = collection.sorts[query.sort], collection.key
    row = f"({sort.column}, {key}) {how}"
    return f"{row} (%s::text::{sort.kind}, %s::text::{collection.key_kind})"


def news_statement(collection: Collection, query: ListQuery, page: Page) -> tuple[bytes, list[Any]]:
    """Return the statement of what changed since a page was made.

    A row has the place of the inventory, and a change if there is one (see `News`); there is at
    least one row. More than `NEWS_MAX` changes are cut off.
    """
    conditions, given = _conditions(collection, query)
    if page.last is not None:
        conditions.append(_compared(collection, query, ">=" if query.descending else "<="))
        given += [page.last.value, page.last.key]
    latest = page.latest or 0
    words = [
        "SELECT place.position, ROW(place.log_id, place.schema_hash)::text, news.*",
        "FROM inventory.cursor AS place LEFT JOIN (",
        f"(SELECT {collection.key}::text AS key, found.position AS changed,",
        f"found.{collection.sorts[query.sort].column}::text AS sorted,",
        f"({' AND '.join(conditions) or 'true'}) AS inside, found.{query.column} AS document",
        f"FROM inventory.{collection.name} AS found WHERE found.position > %s::int8",
        "ORDER BY found.position LIMIT %s)",
        "UNION ALL (SELECT id, position, NULL, false, NULL FROM inventory.removed",
        "WHERE position > %s::int8 AND kind = %s ORDER BY position LIMIT %s)",
        ") AS news ON true",
    ]
    bounded = [latest, NEWS_MAX + 1, latest, collection.kind, NEWS_MAX + 1]
    return " ".join(words).encode(), [*given, *bounded]


async def page_of(collection: Collection, reads: Reads, query: ListQuery) -> tuple[int, Page]:
    """Return a page, and the position in the log that it has seen."""
    shown = (query.column, query.fields)
    asked = (collection.name, query.fingerprint, query.limit, query.after, shown)
    known: Page | None = reads.pages.get(asked)
    if known is not None and known.steady:
        position, page = await _renewed(collection, reads, query, known)
        if page is not None:
            if page is not known:
                reads.pages.keep(asked, page, page.size_bytes)
            return position, page
        known = reads.pages.get(asked)  # none, where another inventory is served now
    for attempt in range(1, ATTEMPTS_MAX + 1):
        found = await _look(collection, reads, query, known)
        reads.cache.serve(found.generation)
        if not reads.pages.serve(found.generation) and known is not None:
            known = None  # of another inventory: nothing follows from what was not looked for
            continue
        if known is not None and found.latest == known.latest:
            return found.position, known
        if known is not None and (found.keys, found.changed) == (known.keys, known.changed):
            page, settled = msgspec.structs.replace(known, latest=found.latest, steady=True), True
        else:
            page, settled = await _strung(collection, reads, query, found)
            if known is not None and found.keys != known.keys:
                page = msgspec.structs.replace(page, steady=False)
        if settled:
            reads.pages.keep(asked, page, page.size_bytes)
        # A document that changed since the page was looked up may not belong into it any more.
        if settled or attempt == ATTEMPTS_MAX:
            return found.position, page
    raise building()


async def _renewed(
    collection: Collection, reads: Reads, query: ListQuery, known: Page
) -> tuple[int, Page | None]:
    """Return a kept page with what changed since; None where it is to be looked up anew."""
    rows = await _ask(reads, *news_statement(collection, query, known))
    position, generation = rows[0][:2]
    reads.cache.serve(generation)
    if not reads.pages.serve(generation):
        return position, None
    news = [News(*row[2:]) for row in rows if row[2] is not None]
    if not news:
        return position, known
    if len(news) > NEWS_MAX:
        return position, None
    there = [(one.key, one.position, one.document) for one in news if one.document is not None]
    reads.cache.keep(f"{collection.name}.{query.column}", there)
    if query.fields is not None:
        news = [_narrowed(query.fields, one) for one in news]
    return position, spliced(known, news)


def _narrowed(fields: tuple[str, ...], one: News) -> News:
    """Return a change whose document has only the fields asked for."""
    if one.document is None:
        return one
    return msgspec.structs.replace(one, document=_only(fields, one.document))


async def _look(
    collection: Collection, reads: Reads, query: ListQuery, known: Page | None
) -> Found:
    latest = known.latest if known else None
    return Found(*(await _ask(reads, *statement(collection, query, latest)))[0])


async def _ask(reads: Reads, statement: bytes, arguments: list[Any]) -> list[tuple[Any, ...]]:
    try:
        rows = await reads.query(statement, arguments)
    except psycopg.DataError as error:
        raise damaged() from error  # only a cursor's values are not checked before
    if not rows:
        raise building()
    return rows


async def _strung(
    collection: Collection, reads: Reads, query: ListQuery, found: Found
) -> tuple[Page, bool]:
    """Return the page of what was found, and whether its documents are those that were found."""
    ids = split(found.keys)
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
        values=found.values,
        chunks=strung(documents),
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
        b"".join((b'{"items":[', *page.parts, tail.encode())),
        media_type="application/json",
        headers={POSITION_HEADER: str(position)},
    )


def _only(fields: tuple[str, ...], document: bytes) -> bytes:
    whole = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    return msgspec.json.encode(chosen(fields, whole))
