"""The verbs that only read: list and show of each kind, waiting, and history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from chronovisor.cli.completion import names_of
from chronovisor.cli.connection import COMMON, DEFAULT_FOLDER, OutputOption, connection, guarded
from chronovisor.cli.exits import CliError, Exit
from chronovisor.cli.kinds import KINDS, Kind
from chronovisor.cli.output import Output, cell, print_json, print_object, print_table
from chronovisor.cli.values import BadValue, parse_duration
from chronovisor.cli.verbs import TIMEOUT_DEFAULT, Parameters, TimeoutOption, with_parameters

if TYPE_CHECKING:
    from chronovisor.cli.client import Engine

_OBJECTS = {"cluster": "clusters", "data_center": "data_centers", "host": "hosts"}
_SORTED = "What to sort by; a '-' before it turns the order round."


def add_reads(groups: dict[str, typer.Typer]) -> None:
    """Add `list` and `show` to each kind's group."""
    for kind in KINDS:
        groups[kind.word].command("list", help=f"List {kind.collection.replace('_', ' ')}.")(
            _list(kind)
        )
        groups[kind.word].command("show", help=f"Show one {kind.one}.")(_show(kind))
    groups["vm"].command(
        "placement", help="Tell where it would be placed now, and why not on each other host."
    )(_placement())
    groups["operation"].command("wait", help="Wait until an operation has ended.")(_wait())


def _engine(given: dict[str, Any]) -> Engine:
    from chronovisor.cli.client import Engine  # noqa: PLC0415 - httpx takes its time

    place = connection(given)
    return Engine(place.url, place.token, place.authority)


def _list(kind: Kind) -> Callable[..., None]:
    parameters: Parameters = {
        name: (
            Annotated[
                str | None,
                typer.Option(
                    f"--{name.replace('_', '-')}", help=_filter_help(name), show_default=False
                ),
            ],
            None,
        )
        for name in kind.filters
    }
    parameters["sort"] = (Annotated[str, typer.Option("--sort", help=_SORTED)], kind.sort)
    parameters["limit"] = (
        Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="At most so many.")],
        kind.limit,
    )

    def run(**given: Any) -> None:  # noqa: ANN401 - the parameters differ by kind
        guarded(given, lambda: _run_list(kind, given))

    return with_parameters(run, {**parameters, **COMMON})


def _filter_help(name: str) -> str:
    if name in _OBJECTS:
        return "Only those of these (names or ids, separated by commas)."
    return {
        "name": "Only this name; * stands for any characters.",
        "search": "Only where all these words occur.",
        "since": "Only from this time (RFC 3339) on.",
        "until": "Only up to this time (RFC 3339).",
        "open": "true: not ended; false: ended.",
    }.get(name, "Only these, separated by commas.")


def _run_list(kind: Kind, given: dict[str, Any]) -> None:
    with _engine(given) as engine:
        # A list shows less by default than there is; what is shown here is asked for.
        shown = "*" if given["output"] is Output.JSON else ",".join(("id", *kind.columns))
        wanted = {"sort": given["sort"], "fields": shown}
        for name in kind.filters:
            if given[name] is None:
                continue
            value = given[name]
            if name in _OBJECTS:
                one = name.replace("_", " ")
                ids = [engine.id_of(_OBJECTS[name], one, part) for part in value.split(",")]
                value = ",".join(ids)
            wanted[name] = value
        found = engine.items(f"/v1/{kind.collection}", wanted, given["limit"])
    if given["output"] is Output.JSON:
        print_json(found)
        return
    rows = [[cell(column, item.get(column)) for column in kind.columns] for item in found]
    print_table(kind.columns, rows)


def _show(kind: Kind) -> Callable[..., None]:
    what = typer.Argument(
        metavar=kind.word.upper().replace("-", "_"),
        help="Its name or id.",
        show_default=False,
        autocompletion=names_of(kind) if kind.named else None,
    )
    parameters: Parameters = {"target": (Annotated[str, what], ...)}
    if kind.at:
        at = typer.Option("--at", help="As it was at this time (RFC 3339).", show_default=False)
        parameters["at"] = (Annotated[str | None, at], None)

    def run(**given: Any) -> None:  # noqa: ANN401 - the parameters differ by kind
        guarded(given, lambda: _run_show(kind, given))

    return with_parameters(run, {**parameters, **COMMON})


def _run_show(kind: Kind, given: dict[str, Any]) -> None:
    with _engine(given) as engine:
        target = given["target"]
        if kind.word != "event":
            target = engine.id_of(kind.collection, kind.one, target)
        at = {"at": given["at"]} if given.get("at") else None
        document = engine.get(f"/v1/{kind.collection}/{target}", at)
    if given["output"] is Output.JSON:
        print_json(document)
    else:
        print_object(document)


def _placement() -> Callable[..., None]:
    what = typer.Argument(metavar="VM", help="Its name or id.", show_default=False)
    parameters: Parameters = {"target": (Annotated[str, what], ...)}

    def run(**given: Any) -> None:  # noqa: ANN401 - as of the other verbs
        guarded(given, lambda: _run_placement(given))

    return with_parameters(run, {**parameters, **COMMON})


def _run_placement(given: dict[str, Any]) -> None:
    with _engine(given) as engine:
        target = engine.id_of("vms", "VM", given["target"])
        found = engine.command("POST", f"/v1/vms/{target}/placement", {})
    if given["output"] is Output.JSON:
        print_json(found)
        return
    columns = ("rank", "host", "score", "weights", "reasons")
    rows = [
        [
            str(one["rank"] or "-"),
            one["host_name"],
            str(one["score"]) if one["rank"] else "",
            cell("weights", one["weights"]),
            " ".join(one["reasons"]),
        ]
        for one in found["hosts"]
    ]
    typer.echo(f"policy: {found['scheduling']['policy']}")
    typer.echo(f"host: {found['host_name'] or 'none can take it'}")
    print_table(columns, rows)
    more = found["hosts_total"] - len(rows)
    if more:
        typer.echo(f"{more} more hosts are not shown")


def _wait() -> Callable[..., None]:
    what = typer.Argument(metavar="OPERATION", help="Its id.", show_default=False)
    parameters: Parameters = {
        "target": (Annotated[str, what], ...),
        "timeout": (TimeoutOption, TIMEOUT_DEFAULT),
    }

    def run(**given: Any) -> None:  # noqa: ANN401 - as of the other verbs
        guarded(given, lambda: _run_wait(given))

    return with_parameters(run, {**parameters, **COMMON})


def _run_wait(given: dict[str, Any]) -> None:
    try:
        timeout_s = parse_duration(given["timeout"])
    except BadValue as error:
        raise CliError(f"--timeout: {error}", Exit.USAGE) from error
    with _engine(given) as engine:
        target = engine.id_of("operations", "operation", given["target"])
        document = engine.await_operation(target, timeout_s)
    if document is None:
        raise CliError(f"It has not ended within {given['timeout']}.", Exit.TIMED_OUT)
    if given["output"] is Output.JSON:
        print_json(document)
    else:
        print_object(document)
    if document["status"] != "succeeded":
        raise typer.Exit(Exit.FAILED)


def history(
    sql: Annotated[str, typer.Argument(help="One SELECT.", show_default=False)],
    folder: Annotated[
        Path, typer.Option("--dir", help="The installation's folder.")
    ] = DEFAULT_FOLDER,
    rows: Annotated[int, typer.Option(help="At most so many rows.", min=1, max=1_000_000)] = 10_000,
    timeout: Annotated[str, typer.Option(help="For how long it may run, such as 90s.")] = "30s",
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask the running warehouse, read only.

    Through its socket in the installation's folder, so on its machine, and as its user.
    """
    guarded({"output": output}, lambda: _run_history(sql, folder, rows, timeout, output))


def _run_history(sql: str, folder: Path, rows: int, timeout: str, output: Output) -> None:
    from chronovisor.folder import Folder  # noqa: PLC0415 - only this verb needs them
    from dwh.client import ask  # noqa: PLC0415
    from dwh.queries import Failure, Query  # noqa: PLC0415

    try:
        query = Query(sql=sql, rows_max=rows, timeout_s=parse_duration(timeout))
    except BadValue as error:
        raise CliError(f"--timeout: {error}", Exit.USAGE) from error
    socket = Folder(folder).query_socket
    try:
        answer, content = asyncio.run(ask(socket, query))
    except TimeoutError as error:
        raise CliError("The warehouse does not answer.", Exit.TIMED_OUT) from error
    except ValueError as error:
        raise CliError(str(error), Exit.USAGE) from error
    except OSError as error:
        raise CliError(f"No warehouse listens at {socket}: {error}", Exit.UNREACHABLE) from error
    if answer.failure is not None:
        codes = {Failure.REFUSED: Exit.REFUSED, Failure.TIMED_OUT: Exit.TIMED_OUT}
        raise CliError(answer.message, codes.get(answer.failure, Exit.ERROR))
    names = [column.name for column in answer.columns]
    found: list[list[Any]] = msgspec.json.decode(content)
    if output is Output.JSON:
        print_json([dict(zip(names, row, strict=True)) for row in found])
    else:
        print_table(names, [["" if v is None else str(v) for v in row] for row in found])
    if answer.truncated:
        typer.echo(f"Only the first {answer.rows} rows are shown (--rows).", err=True)
