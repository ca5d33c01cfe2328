"""cli.md: every verb of the command line with its options."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import typer

from chronovisor.cli.connection import COMMON
from chronovisor.cli.exits import Exit
from chronovisor.cli.main import build
from docs.generator import words

PREAMBLE = """
`chronovisor` runs the processes of the product and, as an admin's tool, asks the engine over HTTP.
Objects are given by name or id, sizes as `512MiB`, durations as `90s`, lists by commas, parts of an
object as `key=value,...`.

It looks for the engine and the admin's token in `var` of the working folder, where `chronovisor up`
leaves them. Elsewhere, the options below or their variables say where the engine is; a token that
lies in `var` is never sent to a URL that was given.
"""
EXITS = {
    Exit.OK: "Done.",
    Exit.ERROR: "Something else went wrong.",
    Exit.USAGE: "What was typed is wrong.",
    Exit.REFUSED: "The engine refused; the message says why and what would help.",
    Exit.FAILED: "The command was accepted, and its operation failed or was cancelled.",
    Exit.TIMED_OUT: "The operation has not ended in time; it goes on.",
    Exit.UNREACHABLE: "The engine cannot be reached, or cannot work now.",
}
EXITS_TEXT = """
A command that could not be sent, or got no answer, was repeated a few times under one
`Idempotency-Key`. `--wait` waits for an operation's end; without it success means that the command
was accepted.
"""


def page() -> list[str]:
    """The lines of the page."""
    lines = [*words.heading(1, "The command line"), *words.paragraph(PREAMBLE)]
    lines += words.heading(2, "Where the engine is, and how answers are printed")
    common = {name: option for _, command in _commands() for name, option in _common(command)}
    lines += words.table(("option", "variable", ""), (common[name] for name in sorted(common)))
    lines += words.heading(2, "Exit codes")
    lines += words.table(("code", ""), ((str(int(code)), EXITS[code]) for code in Exit))
    lines += words.paragraph(EXITS_TEXT)
    lines += words.heading(2, "Verbs")
    for path, command in _commands():
        lines += _verb(path, command)
    return lines


def _commands() -> Iterator[tuple[str, Any]]:
    """All verbs in alphabetical order, as typer's own library for command lines has them."""

    def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path, command
            return
        for name in sorted(inner):
            yield from walk(f"{path} {name}", inner[name])

    yield from walk("chronovisor", typer.main.get_command(build()))


def _options(command: Any) -> Iterator[Any]:  # noqa: ANN401
    return (one for one in command.params if one.param_type_name == "option")


def _flags(option: Any) -> str:  # noqa: ANN401
    flags = ", ".join(words.code(name) for name in option.opts)
    if option.secondary_opts:
        flags += ", " + ", ".join(words.code(name) for name in option.secondary_opts)
    if option.multiple:
        flags += " (any number of times)"
    return flags


def _common(command: Any) -> Iterator[tuple[str, tuple[str, str, str]]]:  # noqa: ANN401
    for one in _options(command):
        if _is_common(one):
            yield one.name, (_flags(one), words.code(one.envvar), _help(one))


def _is_common(option: Any) -> bool:  # noqa: ANN401
    return option.name in COMMON and option.envvar is not None


def _help(option: Any) -> str:  # noqa: ANN401
    said = (option.help or "").strip()
    kind = option.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        said += f" One of {', '.join(words.code(str(one.value)) for one in kind)}."
    shown = option.default is not None and option.show_default is not False
    if shown and not (option.is_flag or option.multiple or callable(option.default)):
        value = getattr(option.default, "value", option.default)
        said += f" Default {words.code(str(value))}." if value != "" else ""
    return f"{said}{' **Required.**' if option.required else ''}".strip()


def _verb(path: str, command: Any) -> list[str]:  # noqa: ANN401
    arguments = [
        one.metavar or one.name.upper()
        for one in command.params
        if one.param_type_name == "argument"
    ]
    usage = " ".join([path, *arguments])
    rows = (
        (_flags(one), _help(one))
        for one in _options(command)
        if one.name != "help" and not _is_common(one)
    )
    return [
        *words.heading(3, path),
        *words.paragraph(command.help),
        *words.paragraph(words.code(usage) if arguments else ""),
        *words.table(("option", ""), rows),
    ]
