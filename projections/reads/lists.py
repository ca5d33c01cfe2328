"""What a request for a list asks for: its parameters, checked."""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime as dt
import hashlib
from typing import Any

import msgspec
from starlette.datastructures import QueryParams

from projections.reads.collections import Collection, Filter, Match
from projections.reads.problems import InvalidCursor, InvalidParameter, UnknownParameter
from projections.views.pieces import SEPARATOR, pieces_of

LIMIT_MAX = 10_000
LIMIT_DEFAULT = 100
VALUE_CHARACTERS_MAX = 2_000
VALUES_MAX = 100
WORDS_MAX = 10
PAGE_PARAMETERS = ("after", "cursor", "fields", "limit", "sort")
INTEGER_MAX = 2**31 - 1
_PIECES = f"string_to_array(pieces, E'\\x{ord(SEPARATOR):02x}')"
"""As the index of the pieces says it, in indexes.sql."""

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
            if narrowing.in_pieces:
                return _in_pieces(column, words)
            searched = column if column == "search" else f"lower({column})"
            conditions = [f"strpos({searched}, %s) > 0" for _ in words]
            return " AND ".join(conditions) or "true", list(words)
        case Match.SINCE:
            return f"{column} >= %s", [parse_time(name, given)]
        case Match.UNTIL:
            return f"{column} <= %s", [parse_time(name, given)]
        case Match.OPEN | Match.HAS:
            if given not in narrowing.values:
                raise InvalidParameter(f"{given[:100]!r} is no value of {name}.", "true or false.")
            absent = (given == "true") is (narrowing.match is Match.OPEN)
            return f"{column} IS {'' if absent else 'NOT '}NULL", []


def _in_pieces(column: str, words: list[str]) -> tuple[str, list[Any]]:
    """Return the condition that words occur, which the index of their pieces narrows first."""
    conditions, arguments = ["true"], list[Any]()
    for word in words:
        if pieces := pieces_of(word):
            conditions.append(f"{_PIECES} @> %s::text[]")
            arguments.append(pieces)
        conditions.append(f"strpos({column}, %s) > 0")
        arguments.append(word)
    return " AND ".join(conditions), arguments


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
        raise damaged()
    return cursor


def damaged() -> InvalidCursor:
    """Return the problem of a cursor that no page has given."""
    return InvalidCursor(
        "The cursor is damaged, or was given with other filters or another order.",
        "Follow the 'next' link of a page as it is, or begin without a cursor.",
    )


def write_cursor(cursor: Cursor) -> str:
    """Return a cursor as a link has it."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).rstrip(b"=").decode()
