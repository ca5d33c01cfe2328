"""How a VM shows what is done about its failures: high availability, starting with its host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from events.envelope import Recorded
from events.types import vm_availability as e
from events.types.base import Event
from events.types.vm import DownReason
from projections.views.parts import Change, Changes, Time

if TYPE_CHECKING:
    from projections.views.vm_document import VmDocument


class HighAvailability(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whether the VM is restarted when it fails; of priorities 1 to 100 the highest goes first.

    `tied_to` names the host that alone had its files when this was set: nothing else can take it.
    """

    enabled: bool = False
    priority: int = 1
    tied_to: str = ""


class StartWithHost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whether the VM starts once its host is back after a boot, and how long after that."""

    enabled: bool = False
    priority: int = 1
    delay_s: float = 0.0


class Restart(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A start by a policy: why, for the how-manieth time in a row, and not before when."""

    cause: e.RestartCause
    attempt: int
    decided_at: Time
    not_before: Time
    reason: DownReason | None = None
    host_name: str = ""


def _high_availability(
    document: VmDocument, event: e.VmHighAvailabilityChanged, recorded: Recorded
) -> Changes:
    shown = HighAvailability(enabled=event.enabled, priority=event.priority, tied_to=event.tied_to)
    return {"high_availability": shown}


def _start_with_host(
    document: VmDocument, event: e.VmStartWithHostChanged, recorded: Recorded
) -> Changes:
    shown = StartWithHost(enabled=event.enabled, priority=event.priority, delay_s=event.delay_s)
    return {"start_with_host": shown}


def _restart_decided(
    document: VmDocument, event: e.VmRestartDecided, recorded: Recorded
) -> Changes:
    restart = Restart(
        cause=event.cause,
        attempt=event.attempt,
        decided_at=recorded.time,
        not_before=event.not_before,
        reason=event.reason,
        host_name=event.host_name,
    )
    return {"restart": restart}


CHANGES: dict[type[Event], Change] = {
    e.VmHighAvailabilityChanged: _high_availability,
    e.VmStartWithHostChanged: _start_with_host,
    e.VmRestartDecided: _restart_decided,
}


def waiting_words(restart: Restart) -> tuple[str, str]:
    """Return why a VM that a policy starts is down, and what happens next."""
    if restart.cause is e.RestartCause.START_WITH_HOST:
        reason = f"It starts with host {restart.host_name}, which has booted."
    else:
        why = f" ({restart.reason})" if restart.reason else ""
        reason = f"It failed{why}, and is restarted by itself: attempt {restart.attempt} in a row."
    if restart.not_before <= restart.decided_at:
        return reason, "A host is being chosen; 'vm stop' calls it off."
    when = f"{restart.not_before:%Y-%m-%d %H:%M:%S} UTC"
    return reason, (
        f"A host is chosen at {when}; 'vm start' starts it now, 'vm stop' calls it off."
    )


def unknown_words(document: VmDocument, host: str) -> str:
    """Return what happens next with a VM whose host does not answer."""
    shown = "It is shown as it is once the host answers."
    proof = f"with 'host confirm-off {host}' if you have seen that it is"
    if document.high_availability.enabled:
        priority = document.high_availability.priority
        return (
            f"{shown} It is highly available, with priority {priority}: it is restarted elsewhere"
            " by itself once the host's machine is proved off, by its power management or"
            f" {proof}. Until then it waits, since it may still run there."
        )
    return (
        f"{shown} If the host's machine is off for certain, run 'host confirm-off {host}': then it"
        " can be started elsewhere."
    )
