"""`chronovisor ssh-key show`: the engine's SSH key, to let it into machines by hand."""

from __future__ import annotations

from typing import Any

import typer

from chronovisor.cli.connection import COMMON, connection, guarded
from chronovisor.cli.output import Output, print_json
from chronovisor.cli.verbs import with_parameters

PATH = "/v1/ssh_key"


def register(app: typer.Typer) -> None:
    """Add the command to the CLI."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The engine's SSH key.")
    text = (
        "Show the public SSH key that the engine shows to hosts, as a line for authorized_keys.\n\n"
        "A machine that lets it in needs no password for 'host add' and 'host install'."
    )

    def run(**given: Any) -> None:  # noqa: ANN401 - the common options
        guarded(given, lambda: _show(given))

    group.command("show", help=text)(with_parameters(run, dict(COMMON)))
    # With one command only, typer would leave its name out.
    group.callback()(_no_more)
    app.add_typer(group, name="ssh-key")


def _no_more() -> None:
    pass


def _show(given: dict[str, Any]) -> None:
    from chronovisor.cli.client import Engine  # noqa: PLC0415 - httpx takes its time

    place = connection(given)
    with Engine(place.url, place.token, place.authority) as engine:
        answer = engine.get(PATH)
    if given["output"] is Output.JSON:
        print_json(answer)
    else:
        typer.echo(answer["public_key"])
