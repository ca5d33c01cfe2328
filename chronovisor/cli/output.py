"""What the CLI prints: tables for people, JSON for programs."""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from chronovisor.cli.values import show_size


class Output(enum.StrEnum):
    """How answers are printed."""

    TABLE = "table"
    JSON = "json"


def print_json(value: object) -> None:
    """Print JSON, indented."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    sys.stdout.write(text + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below headings; as wide as they are where nobody looks at a terminal."""
    from rich.console import Console  # noqa: PLC0415 - only lists need it, and it takes its time
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    terminal = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.upper().replace("_", " "), no_wrap=not terminal)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = None if terminal else 10_000
    console = Console(width=width, soft_wrap=not terminal, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    sys.stdout.write("\n".join(line.rstrip() for line in lines) + "\n")


def print_object(document: Mapping[str, Any]) -> None:
    """Print one object: a line for each field, what is inside of it indented."""
    for line in _lines(document, ""):
        sys.stdout.write(line + "\n")


def cell(name: str, value: object) -> str:
    """Return a value as a cell of a table."""
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_bytes"):
        return show_size(value)
    if isinstance(value, Mapping):
        if "name" in value or "id" in value:
            return str(value.get("name") or value["id"])
        return ", ".join(f"{key} {cell(key, inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(cell(name, inner) for inner in value)
    return str(value)


def _lines(value: Mapping[str, Any], indent: str) -> list[str]:
    width = max((len(name) for name in value), default=0)
    lines: list[str] = []
    for name, inner in value.items():
        label = f"{indent}{name.replace('_', ' ').ljust(width)}"
        nested = isinstance(inner, Mapping) and not ("name" in inner and len(inner) <= 3)  # noqa: PLR2004
        if nested and inner:
            lines += [label.rstrip(), *_lines(inner, indent + "  ")]
        elif isinstance(inner, list) and any(isinstance(one, Mapping) for one in inner):
            lines.append(label.rstrip())
            for one in inner:
                text = ", ".join(
                    f"{key.replace('_', ' ')} {cell(key, part)}"
                    for key, part in one.items()
                    if part not in (None, "", [], {})
                )
                lines.append(f"{indent}  - {text}")
        else:
            lines.append(f"{label}  {cell(name, inner)}".rstrip())
    return lines
