"""A verb of the CLI for each command, derived from its declaration."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chronovisor.cli.completion import names_of
from chronovisor.cli.connection import COMMON, connection, guarded
from chronovisor.cli.exits import CliError, Exit
from chronovisor.cli.fields import KINDS, SEVERAL, Option, Shape, options_of, put, value_of
from chronovisor.cli.kinds import BY_WORD
from chronovisor.cli.output import Output, cell, print_json
from chronovisor.cli.preview import PREVIEWS, PreviewOption, preview_body, show_preview
from chronovisor.cli.secrets import read_secret, secret_parameters
from chronovisor.cli.values import BadValue, parse_duration
from commands.catalogue import COMMANDS
from commands.kernel.command import Declaration
from commands.kernel.refusal import PreconditionFailed

if TYPE_CHECKING:
    from chronovisor.cli.client import Engine

TIMEOUT_DEFAULT = "5m"
_METAVARS = {
    Shape.SIZE: "<size>",
    Shape.DURATION: "<duration>",
    Shape.NUMBER: "<number>",
    Shape.WORDS: "<word,...>",
    Shape.PAIRS: "<key=value,...>",
    Shape.REPEATED: "<key=value,...>",
    Shape.OBJECT: "<name|id>",
    Shape.OBJECTS: "<name|id,...>",
    Shape.TEXT: "<text>",
}
INNER_GROUPS = {("host", "power"): "A host's power: its fence agents, and what they can do."}
"""What is said of the words between a kind and a verb."""
Parameters = dict[str, tuple[Any, object]]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")]
TimeoutOption = Annotated[str, typer.Option("--timeout", help="How long to wait, such as 90s, 5m.")]
KeyOption = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="Names this command, so that it can be repeated."),
]
VersionOption = Annotated[
    str | None,
    typer.Option("--if-version", help="Only if the configuration is at this version."),
]
_TAKEN = frozenset({*COMMON, "preview", "wait", "timeout", "idempotency_key", "if_version"})


def add_verbs(groups: dict[str, typer.Typer]) -> None:
    """Add a verb for each command to the group of its kind."""
    inner: dict[str, typer.Typer] = {}
    for declaration in COMMANDS.values():
        group, *between, verb = declaration.verb.split(" ")
        text = f"{declaration.summary}.\n\n{declaration.description}".strip()
        place = groups[group]
        for word in between:
            if word not in inner:
                inner[word] = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
                place.add_typer(inner[word], name=word, help=INNER_GROUPS[group, word])
            place = inner[word]
        place.command(verb, help=text)(_verb(declaration))


def _verb(declaration: Declaration) -> Callable[..., None]:
    options = options_of(declaration, _TAKEN)
    named = declaration.creates
    parameters: Parameters = {}
    if declaration.path_fields or named:
        word = declaration.verb.partition(" ")[0]
        text = "Its name." if named else "Its name or id."
        what = typer.Argument(
            metavar=word.upper().replace("-", "_"),
            help=text,
            show_default=False,
            autocompletion=names_of(BY_WORD[word]) if BY_WORD[word].named and not named else None,
        )
        parameters["target"] = (Annotated[str, what], inspect.Parameter.empty)
    shown = tuple(o for o in options if not (named and o.place == ("name",)))
    for option in shown:
        asked = option.shape is Shape.SECRET
        parameters |= secret_parameters(option) if asked else _option(option)
    if declaration.name in PREVIEWS:
        parameters["preview"] = (PreviewOption, False)
    if declaration.long:
        parameters |= {"wait": (WaitOption, False), "timeout": (TimeoutOption, TIMEOUT_DEFAULT)}
    if PreconditionFailed in declaration.refusals:
        parameters["if_version"] = (VersionOption, None)
    parameters |= {"idempotency_key": (KeyOption, None), **COMMON}

    def run(**given: Any) -> None:  # noqa: ANN401 - the parameters differ by command
        guarded(given, lambda: _run(declaration, shown, given))

    return with_parameters(run, parameters)


def with_parameters(run: Callable[..., None], parameters: Parameters) -> Callable[..., None]:
    """Give a function the signature that typer makes options and arguments of."""
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
            )
            for name, (annotation, default) in parameters.items()
        ]
    )
    run.__annotations__ = {name: annotation for name, (annotation, _) in parameters.items()}
    return run


def _option(option: Option) -> Parameters:
    bare = option.flag.removeprefix("--")
    flags = [f"{option.flag}/--no-{bare}"] if option.shape is Shape.FLAG else [option.flag]
    # What must be typed out, such as the name in `host confirm-off`, is asked for.
    asked = option.required and option.shape is Shape.TEXT
    information = typer.Option(
        *flags,
        help=option.help,
        prompt=bare.capitalize() if asked else False,
        metavar=_METAVARS.get(option.shape),
        show_default=False,
    )
    kind = _kind(option)
    default = inspect.Parameter.empty if option.required else None
    annotation = kind if option.required else kind | None
    found: Parameters = {option.name: (Annotated[annotation, information], default)}
    if option.clearable:
        clear = typer.Option(f"--no-{bare}", help="Take it away.")
        found[f"no_{option.name}"] = (Annotated[bool, clear], False)
    return found


def _kind(option: Option) -> Any:  # noqa: ANN401 - a type, for typer
    if option.shape is Shape.FLAG:
        return bool
    if option.shape is Shape.REPEATED:
        return list[str]
    if option.shape is Shape.CHOICE:
        members = [(choice.upper(), choice) for choice in option.choices]
        return enum.StrEnum("Choice", members)
    return str


def _run(declaration: Declaration, options: tuple[Option, ...], given: dict[str, Any]) -> None:
    from chronovisor.cli.client import Engine  # noqa: PLC0415 - httpx takes its time

    body = _body(options, given)
    wait_s = _seconds("--timeout", given["timeout"]) if given.get("wait") else 0.0
    place = connection(given)
    path = declaration.path
    with Engine(place.url, place.token, place.authority) as engine:
        if declaration.creates:
            body["name"] = given["target"]
        elif declaration.path_fields:
            kind = BY_WORD[declaration.verb.partition(" ")[0]]
            object_id = engine.id_of(kind.collection, kind.one, given["target"])
            path = path.replace("{id}", object_id)
        for option in options:
            if option.shape is Shape.OBJECT and option.place[0] in body:
                name, field = body[option.place[0]], option.place[0]
                body[field] = engine.id_of(KINDS[field], field.replace("_", " "), name)
            elif option.shape is Shape.OBJECTS and option.place[0] in body:
                _name_several(engine, body, option.place[0])
        if given.get("preview"):
            beforehand = preview_body(declaration, body)
            show_preview(given, engine.command("POST", f"{path}/preview", beforehand))
            return
        answer = engine.command(
            declaration.method,
            path,
            body,
            wait_s=wait_s,
            key=given["idempotency_key"],
            if_match=given.get("if_version"),
        )
    _show(declaration, given, answer)
    _finish(answer, given)


def _name_several(engine: Engine, body: dict[str, Any], field: str) -> None:
    """Put the ids of several objects into the body, in place of their names."""
    one = field.removesuffix("s").replace("_", " ")
    body[field] = [engine.id_of(SEVERAL[field], one, name) for name in body[field] if name]


def _body(options: tuple[Option, ...], given: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for option in options:
        if option.clearable and given.get(f"no_{option.name}"):
            put(body, option.place, None)
        elif option.shape is Shape.SECRET:
            secret = read_secret(option, given)
            if secret is not None:
                put(body, option.place, secret)
        elif given[option.name] is not None and given[option.name] != []:
            try:
                put(body, option.place, value_of(option, given[option.name]))
            except BadValue as error:
                raise CliError(f"{option.flag}: {error}", Exit.USAGE) from error
    return body


def _seconds(flag: str, text: str) -> float:
    try:
        return parse_duration(text)
    except BadValue as error:
        raise CliError(f"{flag}: {error}", Exit.USAGE) from error


def _show(declaration: Declaration, given: dict[str, Any], answer: dict[str, Any]) -> None:
    if given["output"] is Output.JSON:
        print_json(answer)
        return
    operation = answer.get("operation")
    word = declaration.verb.partition(" ")[0]
    subject = f"{word} {given['target']}" if given["target"] != answer["id"] else word
    if operation is None:
        done = "created" if declaration.creates else "done"
        typer.echo(f"{subject}: {done} (id {answer['id']})")
    elif "outcome" in operation:
        reason = f": {operation['reason']}" if operation["reason"] else ""
        typer.echo(f"{subject}: {operation['outcome']}{reason} (id {answer['id']})")
    else:
        typer.echo(f"{subject}: under way (id {answer['id']}, operation {operation['id']})")
    for name, value in answer.items():
        if name not in {"id", "operation"}:
            typer.echo(f"{name.replace('_', ' ')}: {cell(name, value)}")


def _finish(answer: dict[str, Any], given: dict[str, Any]) -> None:
    """End with the code that says how the operation ended, where it was waited for."""
    operation = answer.get("operation")
    if operation is None or not given.get("wait"):
        return
    if "outcome" not in operation:
        raise CliError(
            f"It has not ended within {given['timeout']}, and goes on.\n"
            f"  Wait on with: chronovisor operation wait {operation['id']}",
            Exit.TIMED_OUT,
        )
    if operation["outcome"] != "succeeded":
        raise typer.Exit(Exit.FAILED)
