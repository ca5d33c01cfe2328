"""From the fields of a command to options of the CLI, and from what was typed to a request's body.

A field's type says how it is typed: `memory_bytes` becomes `--memory 1GiB`, `timeout_s` becomes
`--timeout 5m`, a list of Structs an option that may be repeated (`--disk size=10GiB,image=x`), a
Struct `--cpu sockets=1,cores=2`; `boot` alone is spread into options of its own (`--kernel`).
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec
from msgspec.inspect import (
    BoolType,
    EnumType,
    Field,
    FloatType,
    IntType,
    Metadata,
    NoneType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from chronovisor.cli.values import (
    BadValue,
    parse_boolean,
    parse_duration,
    parse_pairs,
    parse_size,
)
from commands.kernel.command import Declaration
from commands.kernel.fields import SECRET

SPREAD: dict[str, dict[str, str]] = {"boot": {"devices": "boot_devices"}, "tuning": {}}
"""Structs whose fields are options of their own, and which of those get another name."""
KINDS = {
    "data_center": "data_centers",
    "cluster": "clusters",
    "host": "hosts",
    "mac_pool": "mac_pools",
    "scheduling_policy": "scheduling_policies",
    "copy_of": "scheduling_policies",
}
"""Fields that hold the id of an object of another kind; the CLI takes its name as well."""

SEVERAL = {
    "vms": "vms",
    "hosts": "hosts",
    "chosen_hosts": "hosts",
    "vm_labels": "affinity_labels",
    "host_labels": "affinity_labels",
}
"""Fields that hold ids of objects of another kind; the CLI takes their names as well."""


class Shape(enum.Enum):
    """How a field is typed."""

    TEXT = "text"
    FLAG = "flag"
    NUMBER = "number"
    SIZE = "size"
    DURATION = "duration"
    CHOICE = "choice"
    WORDS = "words"
    PAIRS = "pairs"
    REPEATED = "repeated"
    OBJECT = "object"
    OBJECTS = "objects"
    SECRET = "secret"  # noqa: S105 - how it is typed: at a prompt, or from a file


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One option: where its value goes in the body (`place`), and how it is typed."""

    name: str
    place: tuple[str, ...]
    shape: Shape
    required: bool = False
    clearable: bool = False
    help: str = ""
    choices: tuple[str, ...] = ()
    inner: tuple[Option, ...] = ()
    whole: bool = False

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return "--" + self.name.replace("_", "-")


def options_of(declaration: Declaration, taken: frozenset[str]) -> tuple[Option, ...]:
    """Return a command's options; one whose name is among `taken` gets the verb before it."""
    info = type_info(declaration.cls)
    if not isinstance(info, StructType):
        raise TypeError(f"{declaration.name} is no Struct")
    verb = declaration.verb.split()[-1].replace("-", "_")
    defaults = {field.name: field.default for field in msgspec.structs.fields(declaration.cls)}
    found: list[Option] = []
    for field in info.fields:
        if field.name in declaration.path_fields:
            continue
        for option in _options(field):
            renamed = f"{verb}_{option.name}" if option.name in taken else option.name
            clearable = defaults[field.name] is msgspec.UNSET
            found.append(msgspec.structs.replace(option, name=renamed, clearable=clearable))
    return tuple(found)


def _options(field: Field) -> tuple[Option, ...]:
    inner, _ = _bare(field.type)
    if field.name in SPREAD and isinstance(inner, StructType):
        names = SPREAD[field.name]
        parts = [_option(part) for part in inner.fields]
        return tuple(
            msgspec.structs.replace(
                part, name=names.get(part.name, part.name), place=(field.name, *part.place)
            )
            for part in parts
        )
    return (_option(field),)


def _option(field: Field) -> Option:
    inner, described = _bare(field.type)
    name, shape = _shape(field.name, inner)
    parts: tuple[Option, ...] = ()
    choices: tuple[str, ...] = ()
    if isinstance(inner, VarTupleType):
        item, _ = _bare(inner.item_type)
        parts = _parts(item)
        described = described or _first_line(item)
    elif isinstance(inner, StructType):
        parts = _parts(inner)
        described = described or _first_line(inner)
    elif isinstance(inner, EnumType):
        choices = tuple(str(member.value) for member in inner.cls)
    if parts:
        keys = ", ".join(f"{p.name}{'' if p.required else '?'}" for p in parts)
        described = f"{described} Keys: {keys}.".strip()
    if _is_secret(field.type):
        shape = Shape.SECRET
    if shape is Shape.OBJECTS:
        described = f"{name.replace('_', ' ').capitalize()}, by their names or ids. {described}"
    if shape is Shape.OBJECT:
        described = f"The {name.replace('_', ' ')}, by its name or id."
    return Option(
        name=name,
        place=(field.encode_name,),
        shape=shape,
        required=field.required,
        help=described,
        choices=choices,
        inner=parts,
        whole=isinstance(inner, IntType),
    )


def _parts(struct: Type | None) -> tuple[Option, ...]:
    return tuple(_option(f) for f in struct.fields) if isinstance(struct, StructType) else ()


def _shape(name: str, inner: Type | None) -> tuple[str, Shape]:  # noqa: PLR0911 - one for each
    """Return an option's name, without its unit, and how it is typed."""
    match inner:
        case BoolType():
            return name, Shape.FLAG
        case IntType() if name.endswith("_bytes"):
            return name.removesuffix("_bytes"), Shape.SIZE
        case IntType() if name.endswith("_bytes_per_s"):
            return name.removesuffix("_bytes_per_s"), Shape.SIZE
        case IntType() | FloatType() if name.endswith("_s"):
            return name.removesuffix("_s"), Shape.DURATION
        case IntType() | FloatType():
            return name, Shape.NUMBER
        case EnumType():
            return name, Shape.CHOICE
        case StructType():
            return name, Shape.PAIRS
        case VarTupleType(item_type=item) if isinstance(_bare(item)[0], StructType):
            return name.removesuffix("s"), Shape.REPEATED
        case VarTupleType():
            return name, Shape.OBJECTS if name in SEVERAL else Shape.WORDS
        case _:
            return name, Shape.OBJECT if name in KINDS else Shape.TEXT


def _bare(found: Type) -> tuple[Type | None, str]:
    """Return the type itself, without its being optional, and what is said about it."""
    if isinstance(found, Metadata):
        inner, described = _bare(found.type)
        said: str = (found.extra_json_schema or {}).get("description", "")
        return inner, said or described
    if isinstance(found, UnionType):
        kinds = [kind for kind in found.types if not isinstance(kind, NoneType)]
        return _bare(kinds[0])
    return found, ""


def _is_secret(found: Type) -> bool:
    if isinstance(found, UnionType):
        return any(_is_secret(kind) for kind in found.types)
    return isinstance(found, Metadata) and bool((found.extra or {}).get(SECRET))


def _first_line(inner: Type | None) -> str:
    if not isinstance(inner, StructType):
        return ""
    return (inner.cls.__doc__ or "").strip().splitlines()[0]


def value_of(option: Option, typed: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return the JSON value of what was typed; raises BadValue. Names are not yet ids."""
    match option.shape:
        case Shape.SIZE:
            return parse_size(typed)
        case Shape.DURATION:
            seconds = parse_duration(typed)
            return round(seconds) if option.whole else seconds
        case Shape.NUMBER:
            return _number(option, typed)
        case Shape.FLAG:
            return typed if isinstance(typed, bool) else parse_boolean(typed)
        case Shape.WORDS | Shape.OBJECTS:
            return [word.strip() for word in typed.split(",")]
        case Shape.PAIRS:
            return _pairs(option, typed)
        case Shape.REPEATED:
            return [_pairs(option, one) for one in typed]
        case _:
            return typed


def _number(option: Option, typed: str) -> int | float:
    try:
        return int(typed) if option.whole else float(typed)
    except ValueError:
        raise BadValue(f"{typed!r} is no number") from None


def _pairs(option: Option, typed: str) -> dict[str, Any]:
    known = {part.name: part for part in option.inner}
    body: dict[str, Any] = {}
    for name, value in parse_pairs(typed).items():
        part = known.get(name)
        if part is None:
            raise BadValue(f"there is no {name!r} in {option.flag}; known are {', '.join(known)}")
        body[part.place[0]] = value_of(part, value)
    missing = [part.name for part in option.inner if part.required and part.place[0] not in body]
    if missing:
        raise BadValue(f"{option.flag} lacks {', '.join(missing)}")
    return body


def put(body: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    """Put a value at its place in the body."""
    for step in place[:-1]:
        body = body.setdefault(step, {})
    body[place[-1]] = value
