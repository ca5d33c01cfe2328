"""What is known of a VM's attempts to leave its host: those that failed, by migration or shutdown.

From this alone follows how often it was tried to get a VM off a host, and when it is tried again.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from events.envelope import Recorded
from events.types.vm_migration import VmMigrationFailed, VmMigrationRetried
from events.types.vm_power import VmShutdownFailed

KEPT_MAX = 8
"""So many failures are remembered of a VM."""


class FailedLeave(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that failed. `begun`: a host took part; otherwise there was no host for it."""

    operation: str
    position: int
    time: dt.datetime
    begun: bool
    reason: str


class Leaving(msgspec.Struct, frozen=True, kw_only=True):
    """The last attempts that failed, oldest first; `count` counts all there ever were.

    `elsewhere` is the operation of the last one that had a host in vain, and looked for another.
    """

    count: int = 0
    failed: tuple[FailedLeave, ...] = ()
    elsewhere: str = ""

    def since(self, position: int) -> tuple[FailedLeave, ...]:
        """Return the attempts that failed after a position."""
        return tuple(each for each in self.failed if each.position > position)


def evolve(state: Leaving, recorded: Recorded) -> Leaving:
    """Fold one event of a VM's stream."""
    event = recorded.event
    if isinstance(event, VmMigrationRetried):
        return msgspec.structs.replace(state, elsewhere=recorded.correlation or "")
    if not isinstance(event, VmMigrationFailed | VmShutdownFailed):
        return state
    begun = isinstance(event, VmShutdownFailed) or bool(event.destination)
    begun = begun or bool(recorded.correlation and recorded.correlation == state.elsewhere)
    failed = FailedLeave(
        operation=recorded.correlation or "",
        position=recorded.position,
        time=recorded.time,
        begun=begun,
        reason=event.reason,
    )
    before = state.failed
    if before and before[-1].operation == failed.operation:
        # One attempt may fail at several hosts in turn.
        failed = msgspec.structs.replace(failed, begun=begun or before[-1].begun)
        return Leaving(count=state.count, failed=(*before[:-1], failed), elsewhere=state.elsewhere)
    return Leaving(
        count=state.count + 1, failed=(*before, failed)[-KEPT_MAX:], elsewhere=state.elsewhere
    )
