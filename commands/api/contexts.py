"""Where time, ids and random numbers come into commands: no decision looks at a clock."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable

from uuid_utils.compat import uuid7

from commands.kernel.command import Context

ContextFactory = Callable[[str, int, int], Context]
"""Makes a context for an actor, with so many fresh ids and so many random numbers."""


def new_context(actor: str, ids: int, randoms: int) -> Context:
    """Return a fresh context for an actor."""
    return Context(
        command=uuid7(),
        time=dt.datetime.now(dt.UTC),
        actor=actor,
        ids=tuple(str(uuid7()) for _ in range(ids)),
        randoms=tuple(secrets.randbits(64) for _ in range(randoms)),
    )
