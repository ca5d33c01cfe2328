"""Which migrations go on, and which wait for their turn: an index of the policies' facts.

A host sends so many VMs at a time, and takes in so many. Who waits to leave the same host goes by
priority, then by the time of its request. Who cannot go, because another host still may have a copy
from before, is in nobody's way: that host may not answer for days.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter

from commands.state.operation import OperationState, StepState
from commands.state.vm import VmState, VmStatus

KIND = "vm.migrate"
_NOT_BEGUN = frozenset({StepState.PENDING, StepState.RUNNING, StepState.REFUSED})
Rank = tuple[int, dt.datetime, str]


class Traffic:
    """The index. `outgoing` and `incoming` count a host's migrations, those included that are
    decided and not folded yet.
    """

    def __init__(self) -> None:
        self.outgoing: Counter[str] = Counter()
        self.incoming: Counter[str] = Counter()
        self._reserved: dict[str, tuple[str, str]] = {}
        self._vms: dict[str, VmState] = {}
        self._waiting: dict[str, OperationState] = {}
        self._ahead: dict[str, int] | None = None

    def vm(self, before: VmState | None, after: VmState | None) -> None:
        """Take in a change of a VM."""
        ends = ends_of(before), ends_of(after)
        if ends[0] != ends[1]:
            self._count(*ends[0], -1)
            self._count(*ends[1], 1)
            self._changed()
        state = after or before
        if state is None:
            return
        known = self._vms.get(state.id)
        if after is not None and after.status is VmStatus.MIGRATING:
            self._vms[after.id] = after
            if known is None or _standing(known) != _standing(after):
                self._changed()
        elif known is not None:
            del self._vms[known.id]
            self._changed()

    def operation(self, before: OperationState | None, after: OperationState | None) -> None:
        """Take in a change of an operation."""
        state = after or before
        if state is None or state.kind != KIND:
            return
        known = state.id in self._waiting
        if after is not None and waits(after):
            self._waiting[state.id] = after
        elif known:
            del self._waiting[state.id]
        if waits(after) != known:
            self._changed()

    def reserve(self, vm: str, source: str, destination: str) -> None:
        """Count a migration from the decision to begin it until that is folded."""
        self.give_back(vm)
        self._reserved[vm] = (source, destination)
        self._count(source, destination, 1)

    def give_back(self, vm: str) -> None:
        """Count a reservation no more."""
        ends = self._reserved.pop(vm, None)
        if ends is not None:
            self._count(*ends, -1)

    def ahead(self, operation: str) -> int:
        """Return how many that wait to leave the same host go before a migration."""
        if self._ahead is None:
            self._ahead = self._ranked()
        return self._ahead.get(operation, 0)

    def waiting(self) -> list[str]:
        """Return the ids of all migrations that wait, the most urgent first."""
        return sorted(self._waiting, key=lambda key: self._rank(self._waiting[key]))

    def _ranked(self) -> dict[str, int]:
        places: Counter[str] = Counter()
        ahead: dict[str, int] = {}
        for key in self.waiting():
            vm = self._vms.get(self._waiting[key].target_id)
            source = vm.run.host if vm is not None and vm.run is not None else ""
            ahead[key] = places[source]
            places[source] += vm is None or not copies_elsewhere(vm)
        return ahead

    def _rank(self, operation: OperationState) -> Rank:
        vm = self._vms.get(operation.target_id)
        priority = _priority(vm) if vm is not None else 0
        return (-priority, operation.started_at, operation.id)

    def _changed(self) -> None:
        self._ahead = None

    def _count(self, source: str, destination: str, sign: int) -> None:
        for counter, host in ((self.outgoing, source), (self.incoming, destination)):
            if host:
                counter[host] += sign
                if not counter[host]:
                    del counter[host]


def waits(operation: OperationState | None) -> bool:
    """Tell whether a migration has not begun."""
    if operation is None or not operation.open:
        return False
    return operation.steps.get("prepare") in _NOT_BEGUN


def copies_elsewhere(vm: VmState) -> tuple[str, ...]:
    """Return the hosts beside that of its run where a copy of a VM may be, each to be dropped."""
    home = vm.run.host if vm.run is not None else ""
    hosts = (*vm.may_run_on, *(host for host, _incarnation in vm.stale_copies))
    return tuple(host for host in hosts if host != home)


def ends_of(vm: VmState | None) -> tuple[str, str]:
    """Return the hosts that are busy with a VM's migration: the sending one, the taking one."""
    migration = vm.migration if vm is not None else None
    if migration is None or migration.departed:
        return "", ""
    source = "" if migration.failed or migration.dropped else migration.source
    return source, "" if migration.dropped else migration.destination


def _standing(vm: VmState) -> tuple[object, ...]:
    """Return what decides who goes before whom."""
    return (_priority(vm), copies_elsewhere(vm))


def _priority(vm: VmState) -> int:
    own = vm.migrates.priority
    return vm.availability.priority if own is None else own
