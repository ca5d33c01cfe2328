"""Pages that are kept: a change is exchanged in its place, or the page is to be looked up anew."""

import random
import struct

import msgspec
import pytest

from projections.reads.lists import Cursor
from projections.reads.page import CHUNK_DOCUMENTS, SEPARATOR, News, Page, spliced, strung

COUNT = 2 * CHUNK_DOCUMENTS + 3


def page_of(names: list[str], *, full: bool = True) -> Page:
    documents = [f'{{"id":"{name}"}}'.encode() for name in names]
    return Page(
        latest=100,
        keys=SEPARATOR.join(names) or None,
        changed=struct.pack(f">{len(names)}q", *range(1, len(names) + 1)) or None,
        values=SEPARATOR.join(name.upper() for name in names) or None,
        chunks=strung(documents),
        last=Cursor("list", names[-1].upper(), names[-1]) if full else None,
    )


def change(
    key: str,
    value: str | None,
    position: int = 101,
    *,
    inside: bool,
    document: bytes | None = b"{}",
) -> News:
    return News(key, position, value, inside, document)


def news(name: str, position: int = 101, document: bytes | None = b'{"new":1}') -> News:
    return change(name, name.upper(), position, inside=True, document=document)


def shown(page: Page) -> list[object]:
    found: list[object] = msgspec.json.decode(b"[" + b"".join(page.parts) + b"]")
    return found


NAMES = [f"vm{number:04}" for number in range(COUNT)]


@pytest.mark.parametrize("count", [0, 1, CHUNK_DOCUMENTS, CHUNK_DOCUMENTS + 1, COUNT])
def test_documents_are_strung_together_with_commas_between(count: int) -> None:
    assert shown(page_of(NAMES[:count], full=False)) == [{"id": name} for name in NAMES[:count]]


@pytest.mark.parametrize("place", [0, CHUNK_DOCUMENTS - 1, CHUNK_DOCUMENTS, COUNT - 1])
def test_a_change_is_exchanged_in_its_place(place: int) -> None:
    before = page_of(NAMES)
    after = spliced(before, [news(NAMES[place])])
    assert after is not None
    expected: list[object] = [{"id": name} for name in NAMES]
    expected[place] = {"new": 1}
    assert shown(after) == expected
    assert after.latest == 101
    positions = struct.unpack(f">{COUNT}q", after.changed or b"")
    assert [one for one in enumerate(positions, 1) if one[0] != one[1]] == [(place + 1, 101)]
    assert shown(before) == [{"id": name} for name in NAMES]


def test_many_changes_of_the_same_page_leave_the_last_of_each() -> None:
    dice = random.Random(1)
    page, expected = page_of(NAMES), [{"id": name} for name in NAMES]
    for position in range(101, 400):
        place = dice.randrange(COUNT)
        text = "x" * dice.randrange(50)
        following = spliced(page, [news(NAMES[place], position, msgspec.json.encode({"id": text}))])
        assert following is not None
        page, expected[place] = following, {"id": text}
    assert shown(page) == expected
    assert page.latest == 399


def test_a_change_beside_the_page_leaves_it_as_it_is() -> None:
    page = page_of(NAMES)
    beside = change("zz", "ZZ", 105, inside=False)
    after = spliced(page, [beside, change("gone", None, 107, inside=False, document=None)])
    assert after is not None
    assert (shown(after), after.latest) == (shown(page), 107)


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(change("new", "VM0000A", inside=True), id="it enters"),
        pytest.param(change(NAMES[3], "VM0003", inside=False), id="it meets no condition now"),
        pytest.param(change(NAMES[3], None, inside=False, document=None), id="it is gone"),
        pytest.param(change(NAMES[3], "VM0000A", inside=True), id="it moves"),
    ],
)
def test_what_comes_goes_or_moves_has_the_page_looked_up_anew(what: News) -> None:
    assert spliced(page_of(NAMES), [news(NAMES[0]), what]) is None


def test_a_value_with_a_separator_in_it_has_the_page_looked_up_anew() -> None:
    page = msgspec.structs.replace(page_of(NAMES[:2]), values=f"A{SEPARATOR}B{SEPARATOR}C")
    assert spliced(page, [news(NAMES[0])]) is None


def test_its_size_counts_what_it_holds() -> None:
    page = page_of(NAMES)
    after = spliced(page, [news(NAMES[0])])
    assert after is not None
    assert after.size_bytes > page.size_bytes > len(b"".join(page.parts))
