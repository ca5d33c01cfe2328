"""Moves migrations again that wait for their turn, when a turn may have come."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from commands.policies.facts import Facts
from commands.policies.saga import Timeouts
from commands.policies.traffic import KIND, copies_elsewhere, ends_of, waits
from commands.policies.watch import Watch
from commands.state.cluster import ClusterState
from commands.state.host import HostState
from commands.state.operation import OperationState
from commands.state.vm import VmState, VmStatus


class MigrationQueue(Watch):
    """Wakes all that wait, the most urgent first, after whatever may let one of them go on."""

    def __init__(self, timeouts: Timeouts) -> None:
        del timeouts
        self._changed = True

    def vm(self, before: VmState | None, after: VmState | None) -> None:
        """Note migrations that begin and end, and those that come to stand in nobody's way."""
        self._changed = self._changed or _busy(before) != _busy(after)

    def operation(self, before: OperationState | None, after: OperationState | None) -> None:
        """Note who comes to wait, and who does not any more."""
        if KIND in {state.kind for state in (before, after) if state is not None}:
            self._changed = self._changed or waits(before) != waits(after)

    def host(self, before: HostState | None, after: HostState | None) -> None:
        """Note hosts that may take VMs in now."""
        if before is None or after is None or _offer(before) != _offer(after):
            self._changed = True

    def cluster(self, before: ClusterState | None, after: ClusterState | None) -> None:
        """Note changes of limits."""
        if before is None or after is None or before.migration != after.migration:
            self._changed = True

    def woken(self, facts: Facts, now: dt.datetime) -> Sequence[str]:
        """Return the migrations that wait, if anything changed that they wait for."""
        del now
        changed, self._changed = self._changed, False
        return facts.traffic.waiting() if changed else ()

    def next_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return that it is to be asked again at once, where something changed."""
        return now if self._changed else None


def _busy(vm: VmState | None) -> tuple[object, ...]:
    """Return what of a VM others may wait for."""
    waiting = vm is not None and vm.status is VmStatus.MIGRATING
    return (*ends_of(vm), copies_elsewhere(vm) if vm is not None and waiting else ())


def _offer(host: HostState) -> tuple[object, ...]:
    return (host.status, host.capabilities)
