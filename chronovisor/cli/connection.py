"""The options that every command has, and the engine that they lead to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from chronovisor.cli.exits import CliError, Exit, fail
from chronovisor.cli.output import Output

DEFAULT_FOLDER = Path("var")
DEFAULT_URL = "https://127.0.0.1:8800"
TOKEN_BYTES_MAX = 4_096

UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="CHRONOVISOR_URL", help="The engine's URL.", show_default=False),
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", envvar="CHRONOVISOR_TOKEN_FILE", help="The file that holds the token."
    ),
]
AuthorityOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-file", envvar="CHRONOVISOR_CA_FILE", help="The CA certificates to trust, in PEM."
    ),
]
OutputOption = Annotated[
    Output, typer.Option("--output", "-o", envvar="CHRONOVISOR_OUTPUT", help="How to print.")
]
COMMON: dict[str, tuple[Any, object]] = {
    "output": (OutputOption, Output.TABLE),
    "url": (UrlOption, None),
    "token_file": (TokenOption, None),
    "ca_file": (AuthorityOption, None),
}
"""The options by their names, each with its annotation and default."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Where the engine is, and what to show it."""

    url: str
    token: str | None
    authority: Path | None


def connection(given: Mapping[str, Any]) -> Connection:
    """Return how to reach the engine.

    What is not given is looked for in `var` of the working folder, where `chronovisor up` leaves
    it; but the token that lies there goes to no URL that was given.
    """
    url, token_file, authority = given["url"], given["token_file"], given["ca_file"]
    if url is None:
        url = _local_url()
        token_file = token_file or _existing(DEFAULT_FOLDER / "admin.token")
        authority = authority or _existing(DEFAULT_FOLDER / "ca" / "trust.crt")
    return Connection(url=url, token=_read_token(token_file), authority=authority)


def guarded(given: Mapping[str, Any], work: Callable[[], None]) -> None:
    """Do the work of a command; what goes wrong is shown, and ends with its exit code."""
    try:
        work()
    except CliError as error:
        fail(error, as_json=given["output"] is Output.JSON)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _local_url() -> str:
    """Where the engine of this folder said that it listens."""
    try:
        said = msgspec.json.decode((DEFAULT_FOLDER / "addresses.json").read_bytes())
        return str(said["api"])
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return DEFAULT_URL


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        with path.open("rb") as source:
            return source.read(TOKEN_BYTES_MAX).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"The token file {path} cannot be read: {error}", Exit.USAGE) from error
