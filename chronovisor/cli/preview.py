"""Commands that can tell beforehand what they would do: `--preview`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from chronovisor.cli.output import Output, print_json, print_table
from commands.kernel.command import Declaration

PREVIEWS: dict[str, tuple[str, ...]] = {
    "host.maintenance": ("vms_that_stay",),
    "cluster.balance": (),
}
"""The commands, and the fields that matter beforehand."""
PreviewOption = Annotated[
    bool, typer.Option("--preview", help="Only tell what would become of each VM.")
]


def preview_body(declaration: Declaration, body: dict[str, Any]) -> dict[str, Any]:
    """Return what of a command's body is asked beforehand."""
    return {name: body[name] for name in PREVIEWS[declaration.name] if name in body}


def show_preview(given: dict[str, Any], found: dict[str, Any]) -> None:
    """Print what would become of each VM."""
    if given["output"] is Output.JSON:
        print_json(found)
        return
    if "moves" in found:
        _show_plan(found)
        return
    counts = ", ".join(
        f"{count} {fate.replace('_', ' ')}" for fate, count in found["fates"].items()
    )
    typer.echo(f"host: {found['host_name']}")
    typer.echo(f"vms: {counts or 'none'}")
    rows = [
        [one["vm_name"], one["fate"].replace("_", " "), one["host_name"], one["reason"]]
        for one in found["vms"]
    ]
    if rows:
        print_table(("vm", "fate", "to_host", "reason"), rows)


def _show_plan(found: dict[str, Any]) -> None:
    """Print which VMs would be moved, and the load of the hosts before and after."""
    moves = found["moves"]
    typer.echo(f"cluster: {found['cluster_name']}")
    typer.echo(f"policy: {found['scheduling']['policy']}")
    if not moves:
        typer.echo("moves: none; all is well as it is, or cannot be helped")
        return
    names = ("vm_name", "source_name", "destination_name", "reason")
    rows = [[one[name] for name in names] for one in moves]
    print_table(("vm", "from_host", "to_host", "reason"), rows)
    loads = [
        [one["host_name"], *(_change(one, name) for name in ("vms", "cpu_percent"))]
        for one in found["hosts"]
    ]
    print_table(("host", "vms", "cpu_percent"), loads)


def _change(host: dict[str, Any], figure: str) -> str:
    return f"{host['before'][figure]} -> {host['after'][figure]}"
