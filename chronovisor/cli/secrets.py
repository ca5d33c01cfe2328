"""Secrets on the command line: from a file or a prompt, never from an argument.

Arguments show in the list of processes and in the shell's history.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from access.files import read_bounded
from chronovisor.cli.exits import CliError, Exit
from chronovisor.cli.fields import Option

BYTES_MAX = 4096
STANDARD_INPUT = "-"


def secret_parameters(option: Option) -> dict[str, tuple[Any, object]]:
    """Return the options of a secret: a file of it, and the wish to be asked for it.

    A secret that the command needs is asked for where no file is given.
    """
    bare = option.flag.removeprefix("--")
    asked = " Asked for without it." if option.required else ""
    file = typer.Option(
        f"--{bare}-file",
        metavar="<file>",
        help=f"The file that holds the {bare} in its first line; '-' reads it from the input."
        + asked,
        show_default=False,
    )
    found: dict[str, tuple[Any, object]] = {
        f"{option.name}_file": (Annotated[str | None, file], None)
    }
    if not option.required:
        ask = typer.Option(f"--ask-{bare}", help=f"Ask for the {bare}.")
        found[f"ask_{option.name}"] = (Annotated[bool, ask], False)
    if option.clearable:
        clear = typer.Option(f"--no-{bare}", help="Take it away.")
        found[f"no_{option.name}"] = (Annotated[bool, clear], False)
    return found


def read_secret(option: Option, given: dict[str, Any]) -> str | None:
    """Return the secret, None where none is given; raises CliError."""
    bare = option.flag.removeprefix("--")
    file = given[f"{option.name}_file"]
    if file is not None:
        return _from_file(f"--{bare}-file", file)
    if option.required or given[f"ask_{option.name}"]:
        typed: str = typer.prompt(bare.replace("-", " ").capitalize(), hide_input=True, err=True)
        return typed
    return None


def _from_file(flag: str, file: str) -> str:
    try:
        if file == STANDARD_INPUT:
            content = sys.stdin.buffer.read(BYTES_MAX + 1)
        else:
            content = read_bounded(Path(file), bytes_max=BYTES_MAX)
        secret = content.decode().partition("\n")[0].rstrip("\r")
    except (OSError, ValueError) as error:
        raise CliError(f"{flag}: it cannot be read: {error}", Exit.USAGE) from error
    if not secret:
        raise CliError(f"{flag}: {file} holds nothing in its first line", Exit.USAGE)
    return secret
