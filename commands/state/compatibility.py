"""Compatibility versions of data centers and clusters: how they are given, and compared."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.fields import END
from commands.kernel.refusal import InvalidField

CompatibilityVersion = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9]{1,3}\.[0-9]{1,3}" + END,
        max_length=7,
        description="The release whose features all hosts must know.",
    ),
]


def is_below(version: str, other: str) -> bool:
    """Tell whether a version comes before another one: 1.9 is below 1.10."""
    return _numbers(version) < _numbers(other)


def require_not_lowered(before: str, wanted: str) -> None:
    """Refuse a version below the present one, whose features VMs may use; raises InvalidField."""
    if is_below(wanted, before):
        raise InvalidField(
            f"The compatibility version is {before}; it is never lowered.",
            remedy=f"Choose {before} or a later one.",
            field="compatibility_version",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
