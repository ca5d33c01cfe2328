"""reads.md: the lists of the inventory, their filters and orders, and their documents."""

from __future__ import annotations

from msgspec import inspect

from docs.generator import words
from projections.reads.collections import COLLECTIONS, Collection

PREAMBLE = """
The inventory is a fold of the events, kept by the projector and read by `GET`. Each collection can
be listed at its path, and one document read at that path and its id. [http.md](http.md) says how
pages, `fields`, `at` (an object as it was), positions and the stream of changes work.

Filters that are given together must all hold; each is given once.
"""


def page() -> list[str]:
    """The lines of the page."""
    lines = [*words.heading(1, "Reads"), *words.paragraph(PREAMBLE)]
    parts: dict[str, inspect.StructType] = {}
    for collection in COLLECTIONS:
        lines += _collection(collection, parts)
    lines += words.heading(2, "Parts of documents")
    for name in sorted(parts):
        lines += [*words.heading(3, name), *words.paragraph(parts[name].cls.__doc__)]
        lines += _fields(parts[name].fields)
    return lines


def _collection(collection: Collection, parts: dict[str, inspect.StructType]) -> list[str]:
    struct = words.struct_of(collection.document)
    for part in words.structs_within(struct)[1:]:
        parts[part.cls.__name__] = part
    filters = (
        (
            words.code(name),
            one.description,
            ", ".join(words.code(value) for value in one.values),
        )
        for name, one in collection.filters.items()
    )
    sorts = ", ".join(words.code(name) for name in collection.sorts)
    listed = ""
    if collection.summary is not None:
        names = ", ".join(words.code(name) for name in collection.listed)
        listed = f" A list shows {names}, unless `fields` asks for others (`*` for all)."
    return [
        *words.heading(2, f"GET {collection.path}"),
        *words.paragraph(
            f"One {collection.one} each; by {words.code(collection.key)} at"
            f" `GET {collection.path}/{{id}}`. Sorted by {sorts}, with `-` in front"
            f" downwards; `{collection.default_sort}` where nothing is said.{listed}"
        ),
        *words.table(("filter", "", "values"), filters),
        *words.paragraph(f"**{collection.document.__name__}.** {collection.document.__doc__}"),
        *_fields(struct.fields),
    ]


def _fields(fields: tuple[inspect.Field, ...]) -> list[str]:
    rows = (
        (words.code(field.encode_name), words.of_type(field.type), words.limits(field.type))
        for field in fields
    )
    return words.table(("field", "type", ""), rows)
