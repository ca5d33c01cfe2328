"""Lists: parameters to one statement that says which documents a page has, strung together here."""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime as dt
import hashlib
import struct
from typing import Any, cast
from urllib.parse import urlencode

import msgspec
import psycopg
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from projections.reads.collections import Collection, Filter, Match
from projections.reads.context import POSITION_HEADER, Reads, building
from projections.reads.problems import InvalidCursor, InvalidParameter, UnknownParameter

LIMIT_MAX = 10_000
LIMIT_DEFAULT = 100
ATTEMPTS_MAX = 3
VALUE_CHARACTERS_MAX = 2_000
VALUES_MAX = 100
WORDS_MAX = 10
PAGE_PARAMETERS = ("after", "cursor", "fields", "limit", "sort")
INTEGER_MAX = 2**31 - 1
SEPARATOR = "\x1e"
"""Separates the keys that the database strings together, which are read faster than an array."""

EVERYTHING = "*"
"""As `fields`: whole documents, where a list shows less by default."""


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ends: the sort value and key of its last row, in a list with these filters."""

    list: str
    value: str
    key: str


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for a list asks for."""

    conditions: tuple[str, ...]
    arguments: tuple[Any, ...]
    sort: str
    descending: bool
    limit: int
    column: str
    fields: tuple[str, ...] | None
    after: Cursor | None
    fingerprint: str


def check_parameters(parameters: QueryParams, known: tuple[str, ...]) -> None:
    """Raise a problem for a parameter that is unknown, given twice, or no sensible text."""
    for name in parameters:
        if name not in known:
            raise UnknownParameter(
                f"There is no parameter {name[:100]!r} here.",
                f"Known parameters are: {', '.join(sorted(known))}.",
            )
        values = parameters.getlist(name)
        if len(values) > 1:
            raise InvalidParameter(
                f"Parameter {name} is given {len(values)} times.",
                "Give it once, with several values separated by commas where it takes several.",
            )
        if not values[0] or len(values[0]) > VALUE_CHARACTERS_MAX or "\x00" in values[0]:
            raise InvalidParameter(
                f"Parameter {name} is empty, too long, or contains a NUL character.",
                f"Give 1 to {VALUE_CHARACTERS_MAX} characters, or leave it out.",
            )


def parse_time(name: str, given: str) -> dt.datetime:
    """Return a time given as RFC 3339; a `+` that the URL turned into a space is understood."""
    time: dt.datetime | None = None
    with contextlib.suppress(msgspec.ValidationError, OverflowError):
        time = msgspec.convert(given.strip().replace(" ", "+"), dt.datetime)
        time = time.astimezone(dt.UTC) if time.tzinfo is not None else None
    if time is None:
        raise InvalidParameter(
            f"{given[:100]!r} is not a time for {name}.",
            "Give a time as RFC 3339 has it, with its zone, such as 2026-11-21T08:30:00Z.",
        )
    return time


def parse_fields(collection: Collection, given: str | None) -> tuple[str, ...] | None:
    """Return the fields asked for, or None where no field is named."""
    if given is None or given == EVERYTHING:
        return None
    fields = tuple(dict.fromkeys(given.split(",")))
    unknown = [field for field in fields if field not in collection.fields]
    if unknown:
        raise InvalidParameter(
            f"There is no field {unknown[0][:100]!r} in a {collection.one}.",
            f"Fields are: {', '.join(collection.fields)}; or {EVERYTHING} for all.",
        )
    return fields


def _rendered(collection: Collection, given: str | None) -> tuple[str, tuple[str, ...] | None]:
    """Return the column that has the fields asked for, and which of its fields, if not all."""
    fields = parse_fields(collection, given)
    shown = collection.fields if given == EVERYTHING else fields or collection.listed
    short = collection.summary is not None and set(shown) <= set(collection.listed)
    return "summary" if short else "document", fields


def chosen(fields: tuple[str, ...], document: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Return the fields of a document that were asked for."""
    return {field: document[field] for field in fields}


def _condition(name: str, given: str, narrowing: Filter) -> tuple[str, list[Any]]:
    """Return a condition and its arguments; raises InvalidParameter."""
    column = narrowing.column
    match narrowing.match:
        case Match.ONE_OF:
            values = _several(name, given)
            for value in values:
                if narrowing.values and value not in narrowing.values:
                    raise InvalidParameter(
                        f"{value[:100]!r} is no value of {name}.",
                        f"Values are: {', '.join(narrowing.values)}.",
                    )
            return f"{column} = ANY(%s)", [values]
        case Match.NUMBER:
            numbers = [_integer(name, value, 0, INTEGER_MAX) for value in _several(name, given)]
            return f"{column} = ANY(%s)", [numbers]
        case Match.NAME:
            pattern = given.casefold()
            if "*" not in pattern:
                return f"{column} = %s", [pattern]
            for special in ("\\", "%", "_"):
                pattern = pattern.replace(special, f"\\{special}")
            return f"{column} LIKE %s", [pattern.replace("*", "%")]
        case Match.WORDS:
            words = given.casefold().split()[:WORDS_MAX]
            searched = column if column == "search" else f"lower({column})"
            conditions = [f"strpos({searched}, %s) > 0" for _ in words]
            return " AND ".join(conditions) or "true", list(words)
        case Match.SINCE:
            return f"{column} >= %s", [parse_time(name, given)]
        case Match.UNTIL:
            return f"{column} <= %s", [parse_time(name, given)]
        case Match.OPEN:
            if given not in narrowing.values:
                raise InvalidParameter(f"{given[:100]!r} is no value of {name}.", "true or false.")
            return f"{column} IS {'' if given == 'true' else 'NOT '}NULL", []


def _several(name: str, given: str) -> list[str]:
    values = given.split(",")
    if len(values) > VALUES_MAX or not all(values):
        raise InvalidParameter(
            f"Parameter {name} has {len(values)} values, some perhaps empty.",
            f"Give 1 to {VALUES_MAX} values, separated by commas.",
        )
    return values


def _integer(name: str, given: str, low: int, high: int) -> int:
    if given.isascii() and given.isdigit() and low <= int(given[:20]) <= high:
        return int(given[:20])
    raise InvalidParameter(
        f"{given[:100]!r} is no value of {name}.", f"Give a number from {low} to {high}."
    )


def parse(collection: Collection, parameters: QueryParams) -> ListQuery:
    """Return what the parameters ask for; raises problems."""
    check_parameters(parameters, (*collection.filters, *PAGE_PARAMETERS))
    conditions: list[str] = []
    arguments: list[Any] = []
    for name, narrowing in collection.filters.items():
        if name in parameters:
            condition, values = _condition(name, parameters[name], narrowing)
            conditions.append(condition)
            arguments += values
    sort = parameters.get("sort", collection.default_sort)
    if sort.removeprefix("-") not in collection.sorts:
        raise InvalidParameter(
            f"A list of {collection.name} cannot be sorted by {sort[:100]!r}.",
            f"Sort by {', '.join(collection.sorts)}; a '-' before it turns the order round.",
        )
    column, fields = _rendered(collection, parameters.get("fields"))
    narrowed = {name: parameters[name] for name in sorted(collection.filters) if name in parameters}
    fingerprint = _fingerprint(collection, sort, narrowed)
    return ListQuery(
        conditions=tuple(conditions),
        arguments=tuple(arguments),
        sort=sort.removeprefix("-"),
        descending=sort.startswith("-"),
        limit=_integer("limit", parameters.get("limit", str(LIMIT_DEFAULT)), 1, LIMIT_MAX),
        column=column,
        fields=fields,
        after=_read_cursor(parameters.get("cursor"), fingerprint),
        fingerprint=fingerprint,
    )


def _fingerprint(collection: Collection, sort: str, narrowed: dict[str, str]) -> str:
    asked = msgspec.json.encode([collection.name, sort, narrowed])
    return hashlib.sha256(asked).hexdigest()[:12]


def _read_cursor(given: str | None, fingerprint: str) -> Cursor | None:
    if given is None:
        return None
    try:
        padded = given + "=" * (-len(given) % 4)
        cursor = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=Cursor)
    except (binascii.Error, msgspec.DecodeError, ValueError):
        cursor = None
    if cursor is None or cursor.list != fingerprint or "\x00" in cursor.value + cursor.key:
        raise _damaged()
    return cursor


def _damaged() -> InvalidCursor:
    return InvalidCursor(
        "The cursor is damaged, or was given with other filters or another order.",
        "Follow the 'next' link of a page as it is, or begin without a cursor.",
    )


def _write_cursor(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).rstrip(b"=").decode()


def statement(collection: Collection, query: ListQuery) -> tuple[bytes, list[Any]]:
    """Return the statement of a page: one row that says which documents it has, and no document.

    The rows come sorted out of the inner query, and the aggregate keeps that order; the last row's
    sort value is therefore the greatest, or the least where the order is turned round.
    """
    sort, key = collection.sorts[query.sort], collection.key
    conditions, arguments = list(query.conditions), list(query.arguments)
    order, beyond, last = ("DESC", "<", "min") if query.descending else ("ASC", ">", "max")
    if query.after is not None:
        conditions.append(
            f"({sort.column}, {key}) {beyond}"
            f" (%s::text::{sort.kind}, %s::text::{collection.key_kind})"
        )
        arguments += [query.after.value, query.after.key]
    words = [
        "SELECT place.position, ROW(place.log_id, place.schema_hash)::text,",
        "page.keys, page.positions, page.last_value FROM inventory.cursor AS place,",
        f"(SELECT {last}(sorted)::text AS last_value,",
        f"string_agg(key::text, '{SEPARATOR}') AS keys,",
        "string_agg(int8send(changed), ''::bytea) AS positions",
        f"FROM (SELECT {key} AS key, position AS changed, {sort.column} AS sorted",
        f"FROM inventory.{collection.name}",
        f"WHERE {' AND '.join(conditions)}" if conditions else "",
        f"ORDER BY {sort.column} {order}, {key} {order} LIMIT %s) AS rows) AS page",
    ]
    return " ".join(words).encode(), [*arguments, query.limit]


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page: its documents, and what the last one is found by."""

    position: int
    documents: list[bytes]
    last: Cursor | None


async def _page(collection: Collection, reads: Reads, query: ListQuery) -> Page:
    text, arguments = statement(collection, query)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            rows = await reads.query(text, arguments)
        except psycopg.DataError as error:
            raise _damaged() from error  # only a cursor's values are not checked before
        if not rows:
            raise building()
        position, generation, keys, changed, last_value = rows[0]
        reads.cache.serve(generation)
        ids = keys.split(SEPARATOR) if keys else []
        positions = struct.unpack(f">{len(ids)}q", changed or b"")
        documents, settled = await _documents(collection, reads, query.column, ids, positions)
        # A document that changed since the page was looked up may not belong into it any more.
        if settled or attempt == ATTEMPTS_MAX:
            break
    last = Cursor(query.fingerprint, last_value, ids[-1]) if len(ids) == query.limit else None
    return Page(position=position, documents=documents, last=last)


async def _documents(
    collection: Collection, reads: Reads, column: str, ids: list[str], positions: tuple[int, ...]
) -> tuple[list[bytes], bool]:
    """Return the documents, from memory or the database, and whether all are at their positions."""
    shelf = f"{collection.name}.{column}"
    found = reads.cache.look_up(shelf, ids, positions)
    if None not in found:
        return cast("list[bytes]", found), True
    wanted = {i: p for i, p, document in zip(ids, positions, found, strict=True) if not document}
    words = [
        f"SELECT {collection.key}::text, position, {column}",
        f"FROM inventory.{collection.name} WHERE {collection.key} = ANY(%s)",
    ]
    keys = [int(one) for one in wanted] if collection.key_kind == "int8" else list(wanted)
    rows = await reads.query(" ".join(words).encode(), [keys])
    reads.cache.keep(shelf, rows)
    fresh = {row[0]: row[2] for row in rows}
    complete = [document or fresh.get(i) for i, document in zip(ids, found, strict=True)]
    settled = {row[0]: row[1] for row in rows} == wanted
    return [document for document in complete if document], settled


async def answer_list(collection: Collection, reads: Reads, request: Request) -> Response:
    """Answer a page of a list, with a link to the next one where the page is full."""
    query = parse(collection, request.query_params)
    page = await _page(collection, reads, query)
    documents = page.documents
    if query.fields is not None:
        documents = [_only(query.fields, document) for document in documents]
    following = "null"
    if page.last is not None:
        kept = {k: v for k, v in request.query_params.items() if k not in {"cursor", "after"}}
        link = f"{collection.path}?{urlencode({**kept, 'cursor': _write_cursor(page.last)})}"
        following = f'"{link}"'
    tail = f'],"next":{following},"position":{page.position}}}'
    return Response(
        b"".join((b'{"items":[', b",".join(documents), tail.encode())),
        media_type="application/json",
        headers={POSITION_HEADER: str(page.position)},
    )


def _only(fields: tuple[str, ...], document: bytes) -> bytes:
    whole = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    return msgspec.json.encode(chosen(fields, whole))
