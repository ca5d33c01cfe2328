"""commands.md: every command with its route, CLI verb, permission, fields and refusals."""

from __future__ import annotations

from msgspec import inspect

from commands.catalogue import COMMANDS
from commands.kernel.command import Declaration
from docs.generator import words

PREAMBLE = """
Every change of the inventory is a command. A command is declared once, in one file under
`commands/`; its HTTP route, its CLI verb, the permission that it asks for and this page follow from
the declaration.

Each is sent as JSON with the admin's token; [http.md](http.md) says how repeats, waiting and
problems work, and [problems.md](problems.md) lists every problem. Besides the refusals named here
any request can meet those of every request (unknown field, wrong type, no token, ...).

On the command line objects are given by name or id, fields as options: see [cli.md](cli.md).
"""
KINDS = {
    "data_center": "Data centers",
    "cluster": "Clusters",
    "mac_pool": "MAC pools",
    "scheduling_policy": "Scheduling policies",
    "affinity_group": "Affinity groups",
    "affinity_label": "Affinity labels",
    "host": "Hosts",
    "vm": "VMs",
    "operation": "Operations",
}


def page() -> list[str]:
    """The lines of the page."""
    lines = [*words.heading(1, "Commands"), *words.paragraph(PREAMBLE), *_overview()]
    parts: dict[str, inspect.StructType] = {}
    for kind, title in KINDS.items():
        lines += words.heading(2, title)
        for declaration in _of_kind(kind):
            lines += _command(declaration, parts)
    lines += words.heading(2, "Parts of bodies")
    for name in sorted(parts):
        lines += words.heading(3, name)
        lines += words.paragraph(parts[name].cls.__doc__)
        lines += _fields(parts[name].fields)
    return lines


def _of_kind(kind: str) -> list[Declaration]:
    found = [one for name, one in COMMANDS.items() if name.split(".")[0] == kind]
    return sorted(found, key=lambda one: (one.path, one.method, one.name))


def _overview() -> list[str]:
    known = [one for kind in KINDS for one in _of_kind(kind)]
    missing = set(COMMANDS) - {one.name for one in known}
    if missing:
        message = f"docs/generator/commands.py has no title for: {', '.join(sorted(missing))}"
        raise LookupError(message)
    rows = (
        (
            f"[{one.summary}](#{words.anchor(one.summary)})",
            words.code(f"{one.method} {one.path}"),
            words.code(f"chronovisor {one.verb}"),
        )
        for one in known
    )
    return words.table(("command", "HTTP", "CLI"), rows)


def _command(declaration: Declaration, parts: dict[str, inspect.StructType]) -> list[str]:
    struct = words.struct_of(declaration.cls)
    for part in words.structs_within(struct)[1:]:
        parts[part.cls.__name__] = part
    refusals = ", ".join(
        f"[{one.slug()}](problems.md#{words.anchor(one.slug())})"  # type: ignore[attr-defined]
        for one in declaration.refusals
    )
    facts = [
        ("HTTP", words.code(f"{declaration.method} {declaration.path}")),
        ("CLI", words.code(f"chronovisor {declaration.verb}")),
        ("permission", words.code(declaration.permission)),
        ("answers", _answers(declaration)),
        ("refusals", refusals),
    ]
    return [
        *words.heading(3, declaration.summary),
        *words.paragraph(declaration.description),
        *words.table((words.code(declaration.name), ""), facts),
        *_fields(struct.fields, declaration.path_fields),
    ]


def _answers(declaration: Declaration) -> str:
    done = "201 Created" if declaration.creates else "200 OK"
    if not declaration.long:
        return done
    accepted = "202 Accepted, with an operation to follow"
    return f"{done}, or {accepted}" if declaration.creates else accepted


def _fields(fields: tuple[inspect.Field, ...], path: tuple[str, ...] = ()) -> list[str]:
    rows = (
        (
            words.code(field.encode_name) + (" (in the path)" if field.name in path else ""),
            words.of_type(field.type),
            words.of_default(field),
            words.limits(field.type),
        )
        for field in fields
    )
    return words.table(("field", "type", "default", "limits"), rows)
