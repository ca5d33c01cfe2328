"""Events of MAC pools: stream `mac_pool/<id>`.

The address of a NIC is claimed by its VM; a pool says from where addresses are taken, and whether
several VMs may have the same.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import ClassVar

import msgspec

from events.claims import Claim, exclusive, release, swapped
from events.types.base import Audit, Event, Severity, event

DEFAULT_POOL = "00000000-0000-7000-8000-000000000aac"
"""The id of the pool that clusters use which name none; it is there in every installation."""


class MacRange(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses from `first` to `last`, both included."""

    first: str
    last: str

    @property
    def bounds(self) -> tuple[int, int]:
        """The two as numbers."""
        return number(self.first), number(self.last)


def size_of(ranges: Iterable[MacRange]) -> int:
    """Return how many addresses ranges hold that do not overlap."""
    return sum(last - first + 1 for first, last in (each.bounds for each in ranges))


DEFAULT_RANGES = (MacRange(first="56:6f:1a:00:00:00", last="56:6f:1a:ff:ff:ff"),)
"""Locally administered addresses, as those of oVirt's default pool are."""


class PoolLevel(enum.StrEnum):
    """How full a pool was when an address was last taken of it."""

    ENOUGH = "enough"
    ALMOST_EMPTY = "almost_empty"
    EMPTY = "empty"


def number(address: str) -> int:
    """Return a MAC address as a number."""
    return int(address.replace(":", ""), 16)


def address(value: int) -> str:
    """Return the MAC address that is a number."""
    return value.to_bytes(6, "big").hex(":")


def name_key(name: str) -> str:
    """Return the claim key of a pool's name."""
    return f"mac_pool.name/{name.casefold()}"


@event("mac_pool.created")
class MacPoolCreated(Event, frozen=True, kw_only=True):
    """A MAC pool came to be."""

    name: str
    description: str = ""
    ranges: tuple[MacRange, ...]
    allow_duplicates: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10_700,
            name="MAC_POOL_ADD_SUCCESS",
            message="MAC pool {name} was created by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Take the name."""
        return (exclusive(name_key(self.name), stream),)


@event("mac_pool.updated")
class MacPoolUpdated(Event, frozen=True, kw_only=True):
    """A MAC pool is now this; NICs that are there keep their addresses."""

    name: str
    previous_name: str
    description: str = ""
    ranges: tuple[MacRange, ...]
    allow_duplicates: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10_702,
            name="MAC_POOL_EDIT_SUCCESS",
            message="MAC pool {previous_name} was updated by {actor}; its name is {name}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Swap the old name for the new one."""
        return swapped(name_key(self.previous_name), name_key(self.name), stream, exclusive)


@event("mac_pool.almost_empty")
class MacPoolAlmostEmpty(Event, frozen=True, kw_only=True):
    """Few addresses of the pool are left."""

    name: str
    left: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=8_160,
            name="MAC_POOL_ALMOST_EMPTY",
            severity=Severity.WARNING,
            message="MAC pool {name} has {left} addresses left. Give it another range.",
        ),
    )


@event("mac_pool.empty")
class MacPoolEmpty(Event, frozen=True, kw_only=True):
    """The last address of the pool is taken."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=816,
            name="MAC_POOL_EMPTY",
            severity=Severity.WARNING,
            message="MAC pool {name} has no address left. Give it another range.",
        ),
    )


@event("mac_pool.refilled")
class MacPoolRefilled(Event, frozen=True, kw_only=True):
    """The pool has enough addresses again."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_600,
            name="MAC_POOL_REFILLED",
            message="MAC pool {name} has enough addresses again.",
        ),
    )


@event("mac_pool.removed")
class MacPoolRemoved(Event, frozen=True, kw_only=True):
    """A MAC pool is gone; its name is free again."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=10_704,
            name="MAC_POOL_REMOVE_SUCCESS",
            message="MAC pool {name} was removed by {actor}.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Free the name; no cluster may use the pool any more."""
        return (release(name_key(self.name), stream), exclusive(stream, stream))
