"""One object, as it is now or as it was at a time."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from projections.reads.collections import EVENTS, Collection
from projections.reads.context import POSITION_HEADER, POSITION_MAX, Reads, building
from projections.reads.lists import check_parameters, chosen, parse_fields, parse_time
from projections.reads.past import document_at
from projections.reads.problems import NotFound


def statement(collection: Collection) -> bytes:
    """Return the statement of one object: always one row, so that the position comes with it."""
    versioned = "found.configuration_version" if collection.versioned else "NULL"
    words = [
        "SELECT place.position, found.document,",
        f"{versioned} FROM inventory.cursor AS place",
        f"LEFT JOIN inventory.{collection.name} AS found ON found.{collection.key} = %s",
    ]
    return " ".join(words).encode()


def require_key(collection: Collection, given: str) -> int | str:
    """Return an id as the table has it; raises NotFound for what can be no id."""
    if collection is EVENTS:
        if given.isascii() and given.isdigit() and int(given[:20]) <= POSITION_MAX:
            return int(given[:20])
    elif "\x00" not in given:
        return given
    raise missing(collection, given)


def missing(
    collection: Collection, object_id: str, when: str = "", *, position: int | None = None
) -> NotFound:
    """Return the problem of an object that is not there, as of a position."""
    return NotFound(
        f"There is no {collection.one} with id {object_id[:100]!r}{when}.",
        f"GET {collection.path} lists those there are; ids are not names.",
        {POSITION_HEADER: str(position)} if position is not None else None,
    )


async def answer_one(collection: Collection, reads: Reads, request: Request) -> Response:
    """Answer one object; its ETag is its configuration version, where it has one."""
    known = ("after", "fields") if collection is EVENTS else ("after", "at", "fields")
    check_parameters(request.query_params, known)
    fields = parse_fields(collection, request.query_params.get("fields"))
    given: str = request.path_params["id"]
    key = require_key(collection, given)
    time = request.query_params.get("at")
    if time is not None:
        return await _answer_past(collection, reads, given, time, fields)
    rows = await reads.query(statement(collection), [key])
    if not rows:
        raise building()
    position, document, version = rows[0]
    if document is None:
        raise missing(collection, given, position=position)
    return _answer(document, position, version, fields)


async def _answer_past(
    collection: Collection,
    reads: Reads,
    object_id: str,
    given: str,
    fields: tuple[str, ...] | None,
) -> Response:
    position, document, version = await document_at(
        reads, collection.kind, object_id, parse_time("at", given)
    )
    if document is None:
        raise missing(collection, object_id, f" at {given[:100]}", position=position)
    return _answer(document, position, version, fields)


def _answer(
    document: bytes, position: int, version: int | None, fields: tuple[str, ...] | None
) -> Response:
    headers = {POSITION_HEADER: str(position)}
    if version is not None:
        headers["ETag"] = f'"{version}"'
    if fields is not None:
        whole = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
        document = msgspec.json.encode(chosen(fields, whole))
    return Response(document, media_type="application/json", headers=headers)
