"""Health: what `GET /v1/health` answers to anybody who asks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping

import msgspec

HealthCheck = Callable[[], Awaitable[Mapping[str, object]]]
"""Returns the members of `Health`; without `head` the engine cannot accept commands."""


class PartHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What was last heard of a part: its state in a word, and how far in the log it is."""

    part: str
    state: str
    position: int | None
    detail: str
    heard: dt.datetime


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The whole. `ok`: every part is well. `head` is the position of the log's last event.

    Without `head` the log cannot be reached: the status is then 503, and `database` says why.
    """

    ok: bool
    parts: tuple[PartHealth, ...]
    log_id: str | None = None
    head: int | None = None
    database: str | None = None
