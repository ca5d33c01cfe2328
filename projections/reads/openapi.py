"""The read side's part of the OpenAPI document: paths and components, from the code's own types."""

from __future__ import annotations

from typing import Any

import msgspec

from projections.reads import host_parts
from projections.reads.changes import KINDS
from projections.reads.collections import COLLECTIONS, EVENTS, HOSTS, Collection, Filter, Match
from projections.reads.context import MIN_POSITION_HEADER, POSITION_HEADER, POSITION_MAX
from projections.reads.lists import EVERYTHING, LIMIT_DEFAULT, LIMIT_MAX, VALUE_CHARACTERS_MAX
from projections.reads.problems import MEDIA_TYPE as PROBLEM_MEDIA_TYPE
from projections.reads.problems import (
    InvalidParameter,
    InventoryBehind,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Problem,
    ProblemDocument,
)
from projections.reads.stream import MEDIA_TYPE as STREAM_MEDIA_TYPE

Schema = dict[str, Any]
REFERENCE = "#/components/schemas/{name}"
PROBLEMS: tuple[type[Problem], ...] = (
    InvalidParameter,
    NotAuthenticated,
    NotAllowed,
    NotFound,
    InventoryBehind,
)
NO_NUL = "^[^\\x00]+$"


def openapi_components() -> dict[str, Any]:
    """Return the `components` that the paths refer to."""
    documents = [collection.document for collection in COLLECTIONS]
    _, schemas = msgspec.json.schema_components(
        [*documents, ProblemDocument], ref_template=REFERENCE
    )
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
    for document in documents:
        # With `fields`, an answer has only some of them.
        schemas[document.__name__].pop("required", None)
    for collection in COLLECTIONS:
        schemas[_list_name(collection)] = _list_schema(collection)
    return {"schemas": schemas}


def openapi_paths() -> dict[str, Any]:
    """Return the `paths` of the read side, each with its `get`."""
    paths: dict[str, Any] = {}
    for collection in COLLECTIONS:
        paths[collection.path] = {"get": _list(collection)}
        paths[f"{collection.path}/{{id}}"] = {"get": _one(collection)}
    for part in host_parts.PARTS:
        paths[host_parts.path(part)] = {"get": _part(part)}
    paths["/v1/stream"] = {"get": _stream()}
    return paths


def _list_name(collection: Collection) -> str:
    return collection.document.__name__.removesuffix("Document") + "List"


def _list_schema(collection: Collection) -> Schema:
    return {
        "type": "object",
        "description": f"A page of {collection.name}; `next` leads to the page after a full one.",
        "required": ["items", "next", "position"],
        "properties": {
            "items": {"type": "array", "items": _reference(collection.document.__name__)},
            "next": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "position": {"type": "integer", "minimum": 0},
        },
    }


def _reference(name: str) -> Schema:
    return {"$ref": REFERENCE.format(name=name)}


def _list(collection: Collection) -> Schema:
    parameters = [_filter(name, found) for name, found in collection.filters.items()]
    sorts = [sign + name for name in collection.sorts for sign in ("", "-")]
    parameters += [
        _query(
            "sort",
            {"type": "string", "enum": sorts, "default": collection.default_sort},
            "What to sort by; a '-' turns the order round.",
        ),
        _query(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
            "How many items a page has at most.",
        ),
        _query(
            "cursor",
            {"type": "string", "minLength": 1, "maxLength": VALUE_CHARACTERS_MAX},
            "Where the page before ended: taken from its `next`, never made up.",
        ),
        _fields(collection, listed=True),
        *_positions(),
    ]
    return {
        "operationId": f"list_{collection.name}",
        "summary": f"List {collection.name.replace('_', ' ')}",
        "tags": [collection.name],
        "parameters": parameters,
        "responses": _responses(_reference(_list_name(collection)), missing=False),
    }


def _one(collection: Collection) -> Schema:
    parameters = [_id_of(collection), _fields(collection, listed=False), *_positions()]
    if collection is not EVENTS:
        when = "A time (RFC 3339): the answer is as it was then, without the counts (null)."
        parameters.append(_query("at", {"type": "string", "format": "date-time"}, when))
    responses = _responses(_reference(collection.document.__name__), missing=True)
    if collection.versioned:
        responses["200"]["headers"]["ETag"] = {
            "description": "The configuration's version, for If-Match.",
            "schema": {"type": "string"},
        }
    return {
        "operationId": f"get_{collection.kind}",
        "summary": f"Get a {collection.one}" if collection is not EVENTS else "Get an audit record",
        "tags": [collection.name],
        "parameters": parameters,
        "responses": responses,
    }


def _part(part: str) -> Schema:
    """Describe a list inside of a host's hardware."""
    items = {"type": "array", "items": _reference(host_parts.PARTS[part].__name__)}
    schema = {"type": "object", "required": ["items"], "properties": {"items": items}}
    return {
        "operationId": f"list_host_{part}",
        "summary": f"List a host's {host_parts.SPOKEN[part]}",
        "tags": [HOSTS.name],
        "parameters": [_id_of(HOSTS), *_positions()],
        "responses": _responses(schema, missing=True),
    }


def _id_of(collection: Collection) -> Schema:
    pattern = "^[0-9]{1,18}$" if collection is EVENTS else "^[0-9a-f-]{36}$"
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": pattern},
        "description": f"The {collection.one}'s id.",
    }


def _stream() -> Schema:
    kinds = "|".join(KINDS)
    pattern = f"^({kinds})(,({kinds}))*$"
    last = {
        "name": "Last-Event-ID",
        "in": "header",
        "schema": _position_schema(),
        "description": "The id of the last message that was seen; it goes on after it.",
    }
    responses = _responses({"type": "string"}, missing=False)
    responses["200"]["content"] = {STREAM_MEDIA_TYPE: {"schema": {"type": "string"}}}
    return {
        "operationId": "follow_changes",
        "summary": "Follow changes",
        "description": "Server-sent events without end: each changed document (event: its kind),"
        " `removed` for what is gone, `position` as heartbeat, `reset` where the client must read"
        " everything anew. Ids are positions.",
        "tags": ["stream"],
        "parameters": [
            _query("kinds", {"type": "string", "pattern": pattern}, "Kinds, by commas; or all."),
            _query("after", _position_schema(), "Where to begin, where there is no last message."),
            last,
        ],
        "responses": responses,
    }


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _filter(name: str, found: Filter) -> Schema:
    schema: Schema
    match found.match:
        case Match.OPEN | Match.HAS:
            schema = {"type": "string", "enum": list(found.values)}
        case Match.ONE_OF if found.values:
            values = "|".join(found.values)
            schema = {"type": "string", "pattern": f"^({values})(,({values}))*$"}
        case Match.ONE_OF:
            schema = {"type": "string", "pattern": "^[^,\\x00]+(,[^,\\x00]+)*$", "maxLength": 200}
        case Match.NUMBER:
            schema = {"type": "string", "pattern": "^[0-9]{1,9}(,[0-9]{1,9})*$", "maxLength": 200}
        case Match.SINCE | Match.UNTIL:
            schema = {"type": "string", "format": "date-time"}
        case Match.NAME | Match.WORDS:
            schema = {"type": "string", "pattern": NO_NUL, "maxLength": 255}
    return _query(name, schema, found.description)


def _fields(collection: Collection, *, listed: bool) -> Schema:
    names = "|".join(collection.fields)
    pattern = f"^(\\{EVERYTHING}|({names})(,({names}))*)$"
    schema = {"type": "string", "pattern": pattern, "maxLength": 1_000}
    default = "all"
    if listed and collection.summary is not None:
        default = f"{', '.join(collection.listed)}"
    return _query(
        "fields",
        schema,
        f"The fields that the answer is to have, or {EVERYTHING} for all; {default} by default.",
    )


def _position_schema() -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": POSITION_MAX}


def _positions() -> list[Schema]:
    meaning = "The position that the answer must have seen: read your own writes; waits up to 2 s."
    header = {"name": MIN_POSITION_HEADER, "in": "header", "schema": _position_schema()}
    return [_query("after", _position_schema(), meaning), {**header, "description": meaning}]


def _responses(schema: Schema, *, missing: bool) -> dict[str, Any]:
    position = {
        "description": "The position in the log that the answer has seen.",
        "schema": {"type": "integer"},
    }
    responses: dict[str, Any] = {
        "200": {
            "description": "The answer.",
            "headers": {POSITION_HEADER: position},
            "content": {"application/json": {"schema": schema}},
        }
    }
    for problem in PROBLEMS:
        if problem is NotFound and not missing:
            continue
        answer: dict[str, Any] = {
            "description": (problem.__doc__ or "").splitlines()[0],
            "content": {PROBLEM_MEDIA_TYPE: {"schema": _reference(ProblemDocument.__name__)}},
        }
        if problem.status == InventoryBehind.status:
            answer["headers"] = {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
            }
        responses[str(problem.status)] = answer
    return responses
