"""The pieces by which words are found: a text that has a word in it has the word's pieces."""

from hypothesis import given
from hypothesis import strategies as st

from projections.views.pieces import SEPARATOR, pieces_of


def test_are_all_of_three_characters() -> None:
    assert pieces_of("banana") == ["ban", "ana", "nan", "ana"]
    assert pieces_of("ab") == []
    assert pieces_of("Äöü€") == ["Äöü", "öü€"]


@given(st.text(), st.text(), st.text())
def test_of_a_word_are_among_those_of_a_text_that_has_it(
    before: str, word: str, after: str
) -> None:
    assert set(pieces_of(word)) <= set(pieces_of(before + word + after))


@given(st.lists(st.sampled_from(["a", "b", SEPARATOR])).map("".join))
def test_never_hold_what_separates_them(text: str) -> None:
    pieces = pieces_of(text)
    assert SEPARATOR.join(pieces).split(SEPARATOR) == (pieces or [""])
