"""The pieces of three characters that a text holds: a text that has a word in it has its pieces.

An index of them finds what holds a word without looking at every row. (No extension that could do
this comes with the embedded PostgreSQL, and a function in the database takes longer than this.)
"""

from __future__ import annotations

SEPARATOR = "\x1f"
"""Separates the pieces in the column that the index is over; what holds it is left out."""


def pieces_of(text: str) -> list[str]:
    """Return the pieces of a text, from left to right; none of one that is shorter than a piece."""
    found = map("".join, zip(text, text[1:], text[2:], strict=False))
    if SEPARATOR in text:
        return [piece for piece in found if SEPARATOR not in piece]
    return list(found)
