"""`chronovisor`: the console script. Each command, list and process of the product is a verb."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from chronovisor.cli import authorities, ssh_key
from chronovisor.cli.processes import register
from chronovisor.cli.reads import add_reads, history
from chronovisor.cli.verbs import add_verbs

_GROUPS = {
    "data-center": "Data centers.",
    "cluster": "Clusters.",
    "host": "Hosts.",
    "vm": "Virtual machines.",
    "scheduling-policy": "Scheduling policies of your own.",
    "mac-pool": "MAC pools: where NICs get their addresses from.",
    "affinity-group": "Affinity groups: which VMs belong together, apart, or on which hosts.",
    "affinity-label": "Affinity labels: named sets of VMs and hosts.",
    "operation": "Operations: long work, and how it goes.",
    "event": "The audit log.",
}


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if not wanted:
        return
    typer.echo(importlib.metadata.version("chronovisor"))
    raise typer.Exit


def build() -> typer.Typer:
    """Return the whole CLI."""
    app = typer.Typer(
        name="chronovisor",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="A virtualization manager that forgets nothing.\n\n"
        "Exit codes: 0 done, 1 error, 2 usage, 3 refused, 4 the operation failed, 5 timed out, "
        "6 the engine cannot be reached.",
    )

    @app.callback()
    def root(
        version: Annotated[
            bool | None,
            typer.Option("--version", callback=_version, is_eager=True, help="Tell which."),
        ] = None,
    ) -> None:
        pass

    groups = {
        word: typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=text)
        for word, text in _GROUPS.items()
    }
    add_verbs(groups)
    add_reads(groups)
    for word, group in groups.items():
        app.add_typer(group, name=word)
    app.command("history")(history)
    register(app)
    authorities.register(app)
    ssh_key.register(app)
    return app


def main() -> None:
    """Run the CLI."""
    build()()


if __name__ == "__main__":
    main()
