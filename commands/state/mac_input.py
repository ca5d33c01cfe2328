"""The fields in which admins give MAC addresses, and ranges of them."""

from __future__ import annotations

import itertools
from typing import Annotated

import msgspec

from commands.kernel.fields import END
from commands.kernel.refusal import InvalidField
from events.types.mac_pool import MacRange, size_of

POOL_MAX = 2**32
"""A pool has at most so many addresses."""

Mac = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}" + END,
        description="A unicast MAC address in lower case, such as 56:6f:1a:00:00:01.",
    ),
]


class MacRangeInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The addresses from `first` to `last`, both included."""

    first: Mac
    last: Mac


Ranges = Annotated[
    tuple[MacRangeInput, ...],
    msgspec.Meta(min_length=1, max_length=64, description="Where addresses are taken from."),
]


def ranges_of(wanted: tuple[MacRangeInput, ...]) -> tuple[MacRange, ...]:
    """Return ranges in their order; raises InvalidField where they make no sense."""
    found = tuple(
        sorted(
            (MacRange(first=each.first, last=each.last) for each in wanted),
            key=lambda each: each.bounds,
        )
    )
    for each in found:
        first, last = each.bounds
        if last < first:
            raise _wrong(f"The range {each.first} to {each.last} ends before it begins.")
        if first >> 40 != last >> 40:
            # The first byte says whether an address is a group's: between two such bytes lies one.
            raise _wrong(f"The range {each.first} to {each.last} would hold multicast addresses.")
    for one, other in itertools.pairwise(found):
        if other.bounds[0] <= one.bounds[1]:
            raise _wrong(f"The ranges from {one.first} and from {other.first} overlap.")
    if size_of(found) > POOL_MAX:
        raise _wrong(f"A pool has at most {POOL_MAX} addresses.")
    return found


def _wrong(detail: str) -> InvalidField:
    return InvalidField(detail, remedy="Mend the ranges.", field="ranges")
