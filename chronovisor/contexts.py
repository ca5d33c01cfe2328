"""Where time, ids and random numbers come into the product: nothing below looks at a clock."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable

from uuid_utils.compat import uuid7

from commands.kernel.command import Context

IDS_MAX = 1 + 32 + 16
"""Enough for the command that makes the most objects: a VM with all its disks and NICs."""
RANDOMS_MAX = 16


def now() -> dt.datetime:
    """Return the time, in UTC."""
    return dt.datetime.now(dt.UTC)


def context(actor: str, ids: int = IDS_MAX, randoms: int = RANDOMS_MAX) -> Context:
    """Return a fresh context for an actor."""
    return Context(
        command=uuid7(),
        time=now(),
        actor=actor,
        ids=tuple(str(uuid7()) for _ in range(ids)),
        randoms=tuple(secrets.randbits(64) for _ in range(randoms)),
    )


def small_context(actor: str) -> Context:
    """Return a fresh context with few ids, for what makes no objects."""
    return context(actor, ids=2, randoms=0)


def source_for(actor: str) -> Callable[[], Context]:
    """Return a source of small contexts for an actor."""
    return lambda: small_context(actor)
