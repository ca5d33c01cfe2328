"""A host is asked to say anew what it can do: on the host's stream."""

from __future__ import annotations

from typing import ClassVar

from events.types.base import Audit, Event, event


@event("host.refresh_requested")
class HostRefreshRequested(Event, frozen=True, kw_only=True):
    """The agent is to say hello again, and with it what its host can do (addressed to it)."""

    name: str


@event("host.refreshed")
class HostRefreshed(Event, frozen=True, kw_only=True):
    """The agent said hello again; what differs from before is in the events beside this one."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=606,
            name="HOST_REFRESHED_CAPABILITIES",
            message="Host {name} has said anew what it can do.",
        ),
    )
