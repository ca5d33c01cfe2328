"""Health: what `GET /v1/health` answers to anybody who asks."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable

import msgspec


class HealthStatus(enum.StrEnum):
    """How the whole, or one of its parts, is doing."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


class PartHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One part: how it is doing, and the position of the log that it has reached.

    `detail` says what is wrong, in words that may be shown to anybody.
    """

    status: HealthStatus
    position: int | None = None
    detail: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The whole: `down` if commands cannot be accepted, `degraded` if any part is not well.

    `position` is that of the log's last event.
    """

    status: HealthStatus
    version: str
    position: int | None = None
    parts: dict[str, PartHealth] = {}


HealthCheck = Callable[[], Awaitable[Health]]


def overall(version: str, position: int | None, parts: dict[str, PartHealth]) -> Health:
    """Return the health of the whole from that of its parts; no position: the log is away."""
    well = all(part.status is HealthStatus.OK for part in parts.values())
    status = HealthStatus.OK if well else HealthStatus.DEGRADED
    if position is None:
        status = HealthStatus.DOWN
    return Health(status=status, version=version, position=position, parts=parts)
