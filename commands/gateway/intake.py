"""Taking in what hosts report: in which order, and what decides about each item."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from commands.gateway.fencing import decide_fence
from commands.gateway.reports import (
    ReportingHost,
    decide_host,
    decide_job,
    decide_vm_state,
)
from commands.gateway.restored import decide_confirmed, strays
from commands.gateway.sessions import require_session, require_speaker
from commands.gateway.turns import Turns
from commands.kernel.command import Context, Decision
from commands.kernel.fold import World
from commands.kernel.handler import Decide
from events.wire.agent import FenceItem, Item, JobItem, Report, VmStateItem

REPORT_WAIT_S_MAX = 10.0


class Desk:
    """One host's reports, taken in one after the other."""

    def __init__(self) -> None:
        self._turns = Turns(1, wait_s=REPORT_WAIT_S_MAX, retry_after_s=1.0)
        self._session = ""
        self._sequence = 0

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Wait for the report before this one, which its sender may have given up on."""
        return self._turns.taken()

    def is_outdated(self, report: Report) -> bool:
        """Tell whether a report comes late, after one that told newer things.

        An agent has one report on its way; but a report that it sent twice, because the answer
        took too long, may be delivered once more at any time.
        """
        return report.session == self._session and report.sequence < self._sequence

    def taken(self, report: Report) -> None:
        """Note that a report was taken in whole."""
        self._session, self._sequence = report.session, report.sequence


def decider(
    host_id: str,
    fingerprint: str,
    report: Report,
    item: Item | None,
    suspects: Sequence[VmStateItem] = (),
    *,
    confirms: tuple[str, ...] | None = None,
) -> Decide:
    """Return the decision about an item of a report; with `confirms`, that the host has told all
    that it runs, of which these VMs are missing.
    """

    def decide(world: World, context: Context) -> Decision:
        state = require_speaker(world, host_id, fingerprint)
        require_session(state, report.session)
        if confirms is not None:
            return decide_confirmed(state, confirms)
        host = ReportingHost(world, host_id)
        match item:
            case VmStateItem():
                return decide_vm_state(world, context, host, item, report.applied_position)
            case JobItem():
                return decide_job(world, context, host, item)
            case FenceItem():
                return decide_fence(world, host_id, item)
            case _:
                found = strays(world, host_id, suspects)
                return decide_host(context, host, item, report.time, found)

    return decide
