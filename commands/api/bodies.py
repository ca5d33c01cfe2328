"""Bodies of commands: decoded by one compiled decoder each, and refused by naming the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgspec
from msgspec.inspect import (
    EnumType,
    ListType,
    Metadata,
    NoneType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from commands.api.problems import NotJson
from commands.kernel.command import Command, Declaration
from commands.kernel.refusal import InvalidField, NotFound

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_QUOTED = re.compile(r"`([^`]*)`")
_STEP = re.compile(r"[^.\[\]]+|\[[^\]]*\]")
QUOTED_CHARACTERS_MAX = 200
Body = TypeVar("Body", bound=msgspec.Struct)


def body_struct(declaration: Declaration) -> type[msgspec.Struct]:
    """Return the Struct of a command's body: its fields without those that come from the path."""
    if not declaration.path_fields:
        return declaration.cls
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(declaration.cls):
        if field.name in declaration.path_fields:
            continue
        if field.required:
            fields.append((field.name, field.type))
        elif field.default is msgspec.NODEFAULT:
            made = msgspec.field(default_factory=field.default_factory)
            fields.append((field.name, field.type, made))
        else:
            fields.append((field.name, field.type, field.default))
    return msgspec.defstruct(
        declaration.cls.__name__,
        fields,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
        namespace={"__doc__": declaration.cls.__doc__},
    )


class BodyDecoder:
    """Makes a command of a body and the path's parameters."""

    def __init__(self, declaration: Declaration) -> None:
        self._cls = declaration.cls
        self._path_fields = declaration.path_fields
        self._body_fields = declaration.body_fields
        self._struct = body_struct(declaration)
        self._decoder = msgspec.json.Decoder(self._struct)

    def decode(self, body: bytes | bytearray, path: Mapping[str, str]) -> Command:
        """Return the command; raises NotFound, NotJson or InvalidField."""
        for name in self._path_fields:
            if not _ID.match(path[name]):
                raise NotFound(
                    f"{path[name][:QUOTED_CHARACTERS_MAX]!r} is no id.",
                    remedy="Ids are UUIDs in lower case; they are not names.",
                )
        decoded = decode(body or b"{}", self._decoder, self._struct)
        if not self._path_fields:
            return cast("Command", decoded)  # the body's Struct is the command's own
        given = {name: getattr(decoded, name) for name in self._body_fields}
        return self._cls(**path, **given)


def decode(
    body: bytes | bytearray, decoder: msgspec.json.Decoder[Body], struct: type[Body]
) -> Body:
    """Return the Struct of a body; raises NotJson or InvalidField."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid_field(str(error), struct) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        detail = f"The body cannot be read: {error}"
        raise NotJson(
            detail[:QUOTED_CHARACTERS_MAX] + ".", remedy="Send one JSON object, in UTF-8."
        ) from error


def invalid_field(message: str, struct: type[msgspec.Struct]) -> InvalidField:
    """Return the refusal of a body: which field is wrong, and what is allowed there."""
    match = _PLACE.match(message)
    what, place = (match["what"], match["path"] or "") if match else (message, "")
    named = _QUOTED.search(what)
    if what.startswith(("Object contains unknown", "Object missing")) and named is not None:
        field = f"{place}.{named[1]}" if place else named[1]
        field = field[:QUOTED_CHARACTERS_MAX]
        if "unknown" in what:
            known = ", ".join(_fields_at(struct, place))
            return InvalidField(
                f"There is no field {field!r}.",
                remedy=f"Known fields are: {known}." if known else "No field is expected there.",
                field=field,
            )
        allowed = _allowed(_find(struct, field))
        return InvalidField(f"The field {field!r} is missing.", remedy=allowed, field=field)
    plain = what.replace("`", "'").replace("(?!\\n)$", "$")
    if not place:
        return InvalidField(f"The body is not as expected: {plain}.", remedy="Send an object.")
    return InvalidField(
        f"The field {place!r} is not as expected: {plain}.",
        remedy=_allowed(_find(struct, place)),
        field=place,
    )


def _find(struct: type[msgspec.Struct], place: str) -> Type | None:
    """Return the type at a place such as `disks[0].size_bytes`, None where there is none."""
    found: Type | None = type_info(struct)
    for step in _STEP.findall(place):
        inner = _bare(found)
        if isinstance(inner, StructType):
            found = next((f.type for f in inner.fields if f.encode_name == step), None)
        elif isinstance(inner, ListType | VarTupleType) and step.startswith("["):
            found = inner.item_type
        else:
            return None
    return found


def _fields_at(struct: type[msgspec.Struct], place: str) -> tuple[str, ...]:
    inner = _bare(_find(struct, place))
    return tuple(f.encode_name for f in inner.fields) if isinstance(inner, StructType) else ()


def _bare(found: Type | None) -> Type | None:
    """Return the type without what is said about it, and without its being optional."""
    while isinstance(found, Metadata | UnionType):
        if isinstance(found, Metadata):
            found = found.type
            continue
        kinds = [kind for kind in found.types if not isinstance(kind, NoneType)]
        found = kinds[0] if kinds else None
    return found


def _allowed(found: Type | None) -> str:
    """Return a sentence about what is allowed, "" where nothing is known."""
    parts: tuple[Type, ...] = found.types if isinstance(found, UnionType) else ()
    for part in (found, *parts):
        if isinstance(part, Metadata):
            described = (part.extra_json_schema or {}).get("description")
            if described:
                return str(described)
    inner = _bare(found)
    if isinstance(inner, EnumType):
        return f"Allowed are: {', '.join(str(member.value) for member in inner.cls)}."
    if isinstance(inner, StructType):
        return (inner.cls.__doc__ or "").strip().splitlines()[0]
    return ""
