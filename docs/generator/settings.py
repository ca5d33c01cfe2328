"""settings.md: every setting with its key, its environment variable, default and limits."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import inspect

from chronovisor.settings import PREFIX, Settings
from docs.generator import words

NOTES = Path(__file__).with_name("setting_notes.toml")
PREAMBLE = """
Every process of Chronovisor reads its settings once, when it starts: from the defaults, then from
`DIR/chronovisor.toml`, then from the environment, each over what came before. DIR is the folder of
the installation (`--dir`). An unknown setting or a wrong value stops the process with a message
that names it, and exit status 78.

In the file a setting is a key of its section's table, or, where it has no section, stands at the
top:

```toml
time_scale = 1.0

[api]
port = 8800
names = ["chronovisor.example.org"]
```

In the environment the same is `CHRONOVISOR_API__PORT=8800` and
`CHRONOVISOR_API__NAMES=chronovisor.example.org`: two underscores between section and setting, lists
separated by commas.

A secret is never a setting. Settings that end in `_file` name the file that holds one; the file's
content without white space at its ends is the secret, and only the user who runs the process needs
to read it.
"""
COMMAND_LINE = """
These are no settings of the installation, but of the shell that an admin works in.
"""
VARIABLES = (
    ("CHRONOVISOR_URL", "The API that the CLI talks to, such as `https://127.0.0.1:8800`."),
    ("CHRONOVISOR_TOKEN_FILE", "The file that holds the admin's token."),
    ("CHRONOVISOR_CA_FILE", "The CA certificates that the CLI trusts for the API's certificate."),
    ("CHRONOVISOR_OUTPUT", "`table` or `json`."),
)


class Setting(NamedTuple):
    """One setting; `key` is its dotted name."""

    key: str
    field: inspect.Field

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.key.upper().replace(".", "__")


def settings() -> list[Setting]:
    """All settings, in the order of their declaration."""
    return list(_settings(Settings, ""))


def _settings(cls: type[msgspec.Struct], prefix: str) -> Iterator[Setting]:
    for field in words.struct_of(cls).fields:
        if isinstance(field.type, inspect.StructType):
            yield from _settings(field.type.cls, f"{prefix}{field.name}.")
        else:
            yield Setting(f"{prefix}{field.name}", field)


def notes() -> dict[str, str]:
    """What each setting is for, by key."""
    return tomllib.loads(NOTES.read_text(encoding="utf-8"))


def page() -> list[str]:
    """The lines of the page."""
    lines = [*words.heading(1, "Settings"), *_blocks(PREAMBLE)]
    lines += _section("", Settings, notes())
    lines += [*words.heading(2, "The command line's own variables"), *_blocks(COMMAND_LINE)]
    return lines + words.table(("variable", ""), ((f"`{name}`", text) for name, text in VARIABLES))


def _blocks(text: str) -> list[str]:
    return [*text.strip().splitlines(), ""]


def _section(prefix: str, cls: type[msgspec.Struct], known: dict[str, str]) -> list[str]:
    own = [
        Setting(f"{prefix}{field.name}", field)
        for field in words.struct_of(cls).fields
        if not isinstance(field.type, inspect.StructType)
    ]
    lines = words.heading(2, f"[{prefix[:-1]}]" if prefix else "Without a section")
    lines += words.paragraph(cls.__doc__)[:2]  # the rest tells of single settings, as the notes do
    for one in own:
        lines += _entry(one, known[one.key])
    lines.append("")
    for field in words.struct_of(cls).fields:
        if isinstance(field.type, inspect.StructType):
            lines += _section(f"{prefix}{field.name}.", field.type.cls, known)
    return lines


def _entry(setting: Setting, note: str) -> list[str]:
    """A setting as an entry of a list; two spaces at a line's end keep it a line of its own."""
    kind = words.of_type(setting.field.type).replace(" or null", "")
    default = words.of_default(setting.field).replace(words.NOTHING, "none")
    bounds = words.limits(setting.field.type)
    return [
        f"- **`{setting.key}`** — {note}  ",
        f"  {kind}; default {default}.{f' {bounds}' if bounds else ''}  ",
        f"  `{setting.variable}`",
    ]
