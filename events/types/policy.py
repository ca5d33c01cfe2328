"""Events of policies: stream `policy/<name>`, which fences a policy process that lost its place."""

from __future__ import annotations

from events.types.base import Event, event


@event("policy.elected")
class PolicyElected(Event, frozen=True, kw_only=True):
    """A process took the policy over; every append of an earlier one fails from here on."""

    policy: str
    process: str
