"""Types, limits and defaults in words, and Markdown around them."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import inspect

NOTHING = "—"
SIMPLE: dict[type[inspect.Type], str] = {
    inspect.AnyType: "anything",
    inspect.NoneType: "null",
    inspect.BoolType: "boolean",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.StrType: "text",
    inspect.BytesType: "bytes, in base64",
    inspect.DateTimeType: "time (RFC 3339)",
    inspect.UUIDType: "UUID",
    inspect.TimeDeltaType: "duration",
}


def heading(level: int, text: str) -> list[str]:
    """A heading and the empty line after it."""
    return [f"{'#' * level} {text}", ""]


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table and the empty line after it; nothing where there are no rows."""
    lines = [_row(row) for row in rows]
    if not lines:
        return []
    return [_row(titles), "|" + "---|" * len(titles), *lines, ""]


def _row(cells: Sequence[str]) -> str:
    texts = (" ".join(cell.split()).replace("|", r"\|") for cell in cells)
    return "| " + " | ".join(texts) + " |"


def code(text: str) -> str:
    """The text as code; nothing stays nothing."""
    return f"`{text}`" if text else ""


def paragraph(text: str | None) -> list[str]:
    """A docstring as paragraphs, without the code's own mark-up, and an empty line after each."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", (text or "").strip()):
        if block.strip():
            lines += [" ".join(block.split()), ""]
    return lines


def anchor(text: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", text.lower())
    return kept.replace(" ", "-")


def of_type(kind: inspect.Type) -> str:  # noqa: PLR0911 - one return for each kind of type
    """The type in words; Structs are named and linked to what `parts` says of them."""
    match kind:
        case inspect.Metadata():
            return of_type(kind.type)
        case inspect.UnionType():
            return " or ".join(of_type(one) for one in kind.types)
        case inspect.StructType():
            name = kind.cls.__name__
            return f"[{name}](#{anchor(name)})"
        case inspect.EnumType():
            return "one of " + ", ".join(code(str(member.value)) for member in kind.cls)
        case inspect.LiteralType():
            return "one of " + ", ".join(code(str(value)) for value in kind.values)
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType():
            return f"list of {of_type(kind.item_type)}"
        case inspect.FrozenSetType():
            return f"list of {of_type(kind.item_type)}"
        case inspect.DictType():
            return f"map of {of_type(kind.key_type)} to {of_type(kind.value_type)}"
        case inspect.CustomType():
            return "path" if issubclass(kind.cls, PurePath) else kind.cls.__name__
        case _:
            return SIMPLE[type(kind)]


def limits(kind: inspect.Type) -> str:
    """The bounds and the description of a type, in words."""
    said: list[str] = []
    description = ""
    while isinstance(kind, inspect.Metadata):
        description = description or (kind.extra_json_schema or {}).get("description", "")
        kind = kind.type
    if description:
        said.append(description)
    match kind:
        case inspect.IntType() | inspect.FloatType():
            said.append(_range(kind))
        case inspect.StrType():
            said += [_length(kind, "characters"), _pattern(kind, description)]
        case inspect.ListType() | inspect.VarTupleType():
            said.append(_length(kind, "entries"))
        case inspect.UnionType():
            said += [limits(one) for one in kind.types if not isinstance(one, inspect.NoneType)]
        case _:
            pass
    return " ".join(one for one in said if one)


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    bounds = [
        f"{word} {bound:,}"
        for word, bound in (
            ("from", kind.ge),
            ("above", kind.gt),
            ("to", kind.le),
            ("below", kind.lt),
        )
        if bound is not None
    ]
    return _sentence(" ".join(bounds))


def _length(kind: Any, unit: str) -> str:  # noqa: ANN401 - any type that has lengths
    if kind.max_length is None:
        return _sentence(f"at least {kind.min_length} {unit}" if kind.min_length else "")
    if kind.min_length == kind.max_length:
        return _sentence(f"{kind.max_length:,} {unit}")
    if kind.min_length:
        return _sentence(f"{kind.min_length} to {kind.max_length:,} {unit}")
    return _sentence(f"at most {kind.max_length:,} {unit}")


def _pattern(kind: inspect.StrType, description: str) -> str:
    """The pattern, where no description says it in words."""
    return "" if description or kind.pattern is None else f"Matches `{kind.pattern}`."


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def of_default(field: inspect.Field) -> str:
    """What a field is where it is left out; "required" where it may not be."""
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory() if callable(field.default_factory) else ""
    return of_value(value)


def of_value(value: object) -> str:
    """A value as an admin writes it."""
    match value:
        case None | "" | () | []:
            return NOTHING
        case bool():
            return code(str(value).lower())
        case int():
            return code(f"{value:,}".replace(",", "_") if value >= 10_000 else str(value))  # noqa: PLR2004
        case tuple() | list():
            return ", ".join(of_value(one) for one in value)
        case dt.datetime():
            return code(value.isoformat())
        case msgspec.Struct():
            return "its own defaults"
        case _:
            return code(str(value))


def structs_within(kind: inspect.Type) -> list[inspect.StructType]:
    """The Structs that a type is made of, outermost first, each once."""
    found: dict[str, inspect.StructType] = {}
    _collect(kind, found)
    return list(found.values())


def _collect(kind: inspect.Type, found: dict[str, inspect.StructType]) -> None:
    match kind:
        case inspect.StructType():
            if kind.cls.__name__ not in found:
                found[kind.cls.__name__] = kind
                for field in kind.fields:
                    _collect(field.type, found)
        case inspect.Metadata():
            _collect(kind.type, found)
        case inspect.UnionType():
            for one in kind.types:
                _collect(one, found)
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType():
            _collect(kind.item_type, found)
        case inspect.FrozenSetType():
            _collect(kind.item_type, found)
        case inspect.DictType():
            _collect(kind.value_type, found)
        case _:
            pass


def struct_of(cls: type[msgspec.Struct]) -> inspect.StructType:
    """The inspected form of a Struct class."""
    found = inspect.type_info(cls)
    while isinstance(found, inspect.Metadata):
        found = found.type
    assert isinstance(found, inspect.StructType)  # noqa: S101 - what a Struct class is
    return found
