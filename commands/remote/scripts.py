"""The shell scripts of the steps: found, filled in, and put together as one text for `sh`.

A script is handed over on standard input, so that nothing of it shows among the machine's
processes. It is one function, which the shell reads to its end before it runs the first line: what
a command in it reads from its input cannot be the rest of the script.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
import shlex
from collections.abc import Mapping

COMMON = "common"
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_PLACEHOLDER = re.compile(r"^@([A-Z]+)@$", re.MULTILINE)
_ENDS = re.compile(r"^[A-Z]+_END$", re.MULTILINE)


@functools.cache
def source(name: str) -> str:
    """Return a script as it is in its file."""
    folder = importlib.resources.files("commands.remote") / "shell"
    return (folder / f"{name}.sh").read_text(encoding="utf-8")


def script(name: str, variables: Mapping[str, str], documents: Mapping[str, str]) -> str:
    """Return the text of a step: `variables` for the shell, `documents` for its `@NAME@` lines."""
    lines = []
    for variable, value in variables.items():
        if not _NAME.fullmatch(variable):
            raise ValueError(f"{variable!r} is no name of a variable")
        lines.append(f"{variable}={shlex.quote(value)}")
    body = _filled(f"{source(COMMON)}\n{source(name)}", documents)
    return "\n".join((*lines, "main() {", body, "}", "main </dev/null", ""))


def _filled(text: str, documents: Mapping[str, str]) -> str:
    def document(match: re.Match[str]) -> str:
        content = documents.get(match[1], "").rstrip("\n")
        if _ENDS.search(content):
            raise ValueError(f"document {match[1]} would end itself")
        return content

    return _PLACEHOLDER.sub(document, text)
