"""Configuration that the docs show is configuration that the product takes."""

import re
import tomllib
from pathlib import Path

import pytest

from chronovisor.settings import FILE_NAME, load
from notifier.filters import parse_filter
from notifier.routing import known_events

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = [
    (path.name, text)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for text in re.findall(
        r"^```toml\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
]


@pytest.mark.parametrize(("page", "text"), EXAMPLES)
def test_an_example_can_be_read(page: str, text: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(text)

    settings = load(tmp_path, {})

    assert tomllib.loads(text)
    assert parse_filter(settings.notifier.filter).unknown_events(known_events()) == ()


def test_the_example_of_notifications_tells_whom_it_says() -> None:
    text = next(text for page, text in EXAMPLES if "[notifier]" in text)
    patterns = parse_filter(tomllib.loads(text)["notifier"]["filter"]).patterns

    assert [str(one.recipient) for one in patterns[:2]] == ["smtp:oncall@example.org", "snmp:"]
