"""What every command must have: a route, a verb, an entry in OpenAPI, a right, documented refusals.

A new command that lacks one of them fails here.
"""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import jsonschema
import pytest
from starlette.routing import Route

from access.rights import is_right
from chronovisor.cli.kinds import BY_WORD, KINDS
from chronovisor.cli.main import build
from chronovisor.web import document
from commands.api.openapi import refusals_of
from commands.api.problems import NotAllowed, NotAuthenticated, Unavailable
from commands.catalogue import COMMANDS, MODULES
from commands.kernel.command import Declaration
from commands.kernel.refusal import NotFound, Refusal, registered_refusals
from projections.reads.collections import COLLECTIONS
from tests.unit.api.conftest import Asked

DOCUMENT = document()
every_command = pytest.mark.parametrize("declaration", COMMANDS.values(), ids=list(COMMANDS))


def _described(declaration: Declaration) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][declaration.path][declaration.method.lower()]
    return found


def test_each_file_of_a_verb_declares_commands_that_are_in_the_catalogue() -> None:
    declared = {declaration.cls.__module__ for declaration in COMMANDS.values()}
    assert declared == {module.__name__ for module in MODULES}


@every_command
def test_it_has_a_route(declaration: Declaration, asked: Asked) -> None:
    routes = asked.api.routes(b"", "", "")
    found = [
        route
        for route in routes
        if isinstance(route, Route)
        and route.path == declaration.path
        and declaration.method in (route.methods or ())
    ]
    assert [route.name for route in found] == [declaration.name]


@every_command
def test_it_has_a_verb_with_help(declaration: Declaration) -> None:
    *groups, verb = declaration.verb.split(" ")
    place = build()
    for name in groups:
        (group,) = [g for g in place.registered_groups if g.name == name]
        assert group.typer_instance is not None
        place = group.typer_instance
    (command,) = [c for c in place.registered_commands if c.name == verb]
    assert command.help is not None
    assert declaration.summary in command.help


@every_command
def test_it_asks_for_a_right_that_there_is(declaration: Declaration) -> None:
    assert is_right(declaration.permission)


@every_command
def test_it_says_what_it_does(declaration: Declaration) -> None:
    assert declaration.summary
    assert declaration.description.endswith(".")
    assert re.fullmatch(r"/v1/[a-z_]+(/\{id\}(/[a-z_]+)?)?", declaration.path)
    assert declaration.method in {"POST", "PATCH", "DELETE"}
    assert declaration.verb.partition(" ")[0] in BY_WORD


@every_command
def test_it_is_in_openapi_with_each_of_its_refusals(declaration: Declaration) -> None:
    described = _described(declaration)
    for refusal in refusals_of(declaration):
        answer = described["responses"][str(refusal.status)]
        (content,) = answer["content"].values()
        assert refusal.slug() in content["schema"]["properties"]["type"]["enum"]
        assert refusal.title() in answer["description"]
    for always in (NotAuthenticated, NotAllowed, Unavailable):
        assert str(always.status) in described["responses"]
    assert ("404" in described["responses"]) is (
        NotFound in declaration.refusals or bool(declaration.path_fields)
    )


@every_command
def test_its_answers_are_in_openapi(declaration: Declaration) -> None:
    statuses = {status for status in _described(declaration)["responses"] if status < "300"}
    expected = {"201"} if declaration.creates else {"200"}
    if declaration.long:
        expected |= {"200", "202"}
    assert statuses == expected


@every_command
def test_it_declares_each_refusal_that_its_file_raises(declaration: Declaration) -> None:
    """Raised in its own file, or by the state's look-ups that it calls."""
    source = inspect.getsource(inspect.getmodule(declaration.cls) or declaration.cls)
    raised = {
        node.exc.func.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    if "lookup.require_vm_status" in source or "lookup.require_run" in source:
        raised.add("WrongState")
    if "lookup.require_version" in source:
        raised.add("PreconditionFailed")
    if re.search(r"lookup\.(vm|host|cluster|data_center|operation)\(", source):
        raised.add("NotFound")
    assert raised <= {refusal.__name__ for refusal in declaration.refusals}


@every_command
def test_its_body_is_described_by_its_own_fields(declaration: Declaration) -> None:
    described = _described(declaration)
    if not declaration.body_fields:
        assert "requestBody" not in described
        return
    schema = DOCUMENT["components"]["schemas"][declaration.cls.__name__]
    assert set(schema["properties"]) == set(declaration.body_fields)
    assert schema["additionalProperties"] is False
    assert described["requestBody"]["required"] is bool(schema["required"])


def test_operation_ids_are_unique() -> None:
    ids = [
        operation["operationId"]
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
    ]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere() -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                place: Any = DOCUMENT
                for step in value["$ref"].removeprefix("#/").split("/"):
                    place = place[step]
            for inner in value.values():
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)

    check(DOCUMENT)


def test_every_schema_is_one() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_patterns_end_as_json_schema_has_them() -> None:
    assert "(?!" not in str(DOCUMENT)


@pytest.mark.parametrize("refusal", registered_refusals().values(), ids=list(registered_refusals()))
def test_every_refusal_has_a_title_and_a_status(refusal: type[Refusal]) -> None:
    assert refusal.title()
    assert not refusal.title().endswith(".")
    assert 400 <= refusal.status < 600
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", refusal.slug())


def test_no_two_refusals_have_one_type() -> None:
    found: set[type[Refusal]] = set()
    waiting: list[type[Refusal]] = [Refusal]
    while waiting:
        for each in waiting.pop().__subclasses__():
            if each not in found:
                found.add(each)
                waiting.append(each)
    assert len({refusal.slug() for refusal in found}) == len(found)


def test_the_cli_lists_every_collection_with_its_filters_sorts_and_fields() -> None:
    collections = {collection.name: collection for collection in COLLECTIONS}
    assert {kind.collection for kind in KINDS} == set(collections)
    for kind in KINDS:
        collection = collections[kind.collection]
        assert set(kind.filters) == set(collection.filters)
        assert kind.sort == collection.default_sort
        assert set(kind.columns) <= set(collection.fields)
