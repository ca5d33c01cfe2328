"""Claims: what an event reserves, so that rules over many objects are settled by the append.

A claim is a row (key, holder, mode, amount). The append refuses a command whose claims do not fit
those of others, naming the holder. Claims follow from events (`Event.claims`), so the table can be
rebuilt from the log.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec


class Mode(enum.StrEnum):
    """How a claim is held, or what the append does with it."""

    EXCLUSIVE = "exclusive"  # nobody else holds the key in any mode
    SHARED = "shared"  # nobody else holds the key exclusively
    AMOUNT = "amount"  # the sum of all holders' amounts stays within the limit
    RELEASE = "release"  # the holder gives the key back, whatever its mode was
    CHECK = "check"  # nobody else holds the key exclusively; nothing is stored


class Claim(msgspec.Struct, frozen=True):
    """One claim of one event; the holder is a stream id."""

    key: str
    holder: str
    mode: Mode
    amount: int = 0
    limit: int = 0


def exclusive(key: str, holder: str) -> Claim:
    """Take `key` alone: a name, a MAC address, the removal of an object."""
    return Claim(key, holder, Mode.EXCLUSIVE)


def shared(key: str, holder: str) -> Claim:
    """Refer to an object that must not be removed meanwhile."""
    return Claim(key, holder, Mode.SHARED)


def amount(key: str, holder: str, amount: int, limit: int) -> Claim:
    """Take `amount` of a resource of which all holders together may have `limit`."""
    return Claim(key, holder, Mode.AMOUNT, amount, limit)


def release(key: str, holder: str) -> Claim:
    """Give back what `holder` has of `key`."""
    return Claim(key, holder, Mode.RELEASE)


def check(key: str, holder: str) -> Claim:
    """Require that nobody else holds `key` exclusively (a gate that is closed by holding it)."""
    return Claim(key, holder, Mode.CHECK)


def swapped(
    old: str | None, new: str | None, holder: str, take: Callable[[str, str], Claim] = shared
) -> tuple[Claim, ...]:
    """Give the key `old` back and `take` the key `new`, where they differ; None names no key."""
    if old == new:
        return ()
    given_back = () if old is None else (release(old, holder),)
    taken = () if new is None else (take(new, holder),)
    return (*given_back, *taken)
