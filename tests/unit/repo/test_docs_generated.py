"""The generated pages are those that the code makes, and the generator leaves nothing out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from chronovisor.cli.exits import Exit
from chronovisor.settings import NOT_SETTINGS, PREFIX, load
from commands.catalogue import COMMANDS
from commands.kernel.refusal import registered_refusals
from docs.generator import settings, words
from docs.generator.__main__ import FOLDER, PAGES, text
from events.types.catalogue import TYPES


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_the_page_is_what_the_code_says(name: str, page: Callable[[], list[str]]) -> None:
    assert read(name) == text(page), f"docs/{name} is out of date: run `make docs`"


def test_every_setting_has_a_note_and_every_note_a_setting() -> None:
    assert sorted(settings.notes()) == sorted(one.key for one in settings.settings())


def another_value(setting: settings.Setting) -> str:
    """A value that the setting allows and that is not its default."""
    match words.of_type(setting.field.type):
        case "boolean":
            return "true"
        case "integer" | "number" | "integer or null":
            return "2"
        case _:
            return {"notifier.smtp.encryption": "ssl", "notifier.start": "beginning"}.get(
                setting.key, "another"
            )


@pytest.mark.parametrize("setting", settings.settings(), ids=lambda setting: setting.key)
def test_a_setting_is_read_from_the_variable_that_is_documented(
    setting: settings.Setting, tmp_path: Path
) -> None:
    found: object = load(tmp_path, {setting.variable: another_value(setting)})
    for name in setting.key.split("."):
        found = getattr(found, name)

    assert f"`{setting.variable}`" in read("settings.md")
    assert found != setting.field.default


def test_the_command_lines_variables_are_no_settings() -> None:
    documented = {name.removeprefix(PREFIX) for name, _ in settings.VARIABLES}

    assert documented <= NOT_SETTINGS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_is_documented(name: str) -> None:
    declaration = COMMANDS[name]
    shown = read("commands.md")

    assert f"### {declaration.summary}\n" in shown
    assert f"| `{name}` |" in shown
    for field in declaration.cls.__struct_fields__:
        assert f"| `{field}`" in shown


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_commands_verb_is_documented(name: str) -> None:
    assert f"### chronovisor {COMMANDS[name].verb}\n" in read("cli.md")


def test_every_exit_code_is_documented() -> None:
    for code in Exit:
        assert f"| {int(code)} | " in read("cli.md")


@pytest.mark.parametrize("name", sorted(TYPES))
def test_an_event_is_documented(name: str) -> None:
    shown = read("events.md")

    assert f"### {name}, schema {TYPES[name].schema}\n" in shown
    for audit in TYPES[name].cls.audits:
        assert f"| {audit.code} | `{audit.name}` |" in shown


def test_every_refusal_is_documented() -> None:
    shown = read("problems.md")

    assert [slug for slug in registered_refusals() if f"### {slug}\n" not in shown] == []


def test_audit_codes_and_names_mean_one_thing() -> None:
    names: dict[int, str] = {}
    for kind in TYPES.values():
        for audit in kind.cls.audits:
            assert names.setdefault(audit.code, audit.name) == audit.name
