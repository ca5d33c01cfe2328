"""What the policies know of everything: a fold over all streams, kept in memory.

Placement looks at all hosts at once, so it works on this fold and not on single streams. What was
placed but is not folded yet is held as a reservation, so that two placements in a row never count
the same memory twice; the append checks everything again.
"""

from __future__ import annotations

from collections import defaultdict

from commands.scheduler.first_fit import Candidate
from commands.state.host import HOST, HostState
from commands.state.operation import OPERATION, OperationState
from commands.state.vm import VM, VmState, VmStatus
from events.envelope import Recorded


class Facts:
    """The fold. `position` is that of the last event taken in."""

    def __init__(self) -> None:
        self.position = 0
        self.hosts: dict[str, HostState] = {}
        self.vms: dict[str, VmState] = {}
        self.operations: dict[str, OperationState] = {}
        self._proved_off: dict[str, HostState] = {}
        self._by_target: dict[str, set[str]] = defaultdict(set)
        self._on_host: dict[str, set[str]] = defaultdict(set)
        self._waits_for: dict[str, set[str]] = defaultdict(set)
        self._memory: dict[str, int] = defaultdict(int)
        self._reserved: dict[str, tuple[str, int, int]] = {}

    def take(self, recorded: Recorded) -> None:
        """Fold one event; positions rise by one."""
        self.position = recorded.position
        match recorded.kind:
            case "vm":
                self._take_vm(recorded)
            case "host":
                self._take_host(recorded)
            case "operation":
                self._take_operation(recorded)

    def concerned(self, recorded: Recorded) -> set[str]:
        """Return the open operations that an event may move."""
        if recorded.kind == "operation":
            return {recorded.object_id} & self.operations.keys()
        concerned = set(self._by_target.get(recorded.stream, ()))
        if recorded.kind == "host":
            for vm in self._waits_for.get(recorded.object_id, ()):
                concerned |= self._by_target.get(f"vm/{vm}", set())
        elif recorded.kind == "vm":
            for host in {*self._hosts_of(recorded.object_id), *_named_host(recorded)}:
                concerned |= self._by_target.get(f"host/{host}", set())
        return concerned

    def candidates(self) -> list[Candidate]:
        """Return every host with the memory that is placed on it or reserved."""
        reserved: dict[str, int] = defaultdict(int)
        for host, memory, _position in self._reserved.values():
            reserved[host] += memory
        return [
            Candidate(host=host, memory_taken_bytes=self._memory[key] + reserved[key])
            for key, host in self.hosts.items()
        ]

    def reserve(self, vm: str, host: str, position: int) -> None:
        """Count a VM on a host until the event at `position` that placed it is folded."""
        if position > self.position:
            self._reserved[vm] = (host, _memory_bytes(self.vms[vm]), position)

    def names_on(self, host: str) -> list[str]:
        """Return the names of the VMs that may run on a host, stale copies included."""
        return [self.vms[vm].name for vm in self._on_host.get(host, ())]

    def lost(self) -> list[tuple[str, str]]:
        """Return (VM, host) for each VM with a copy that ended because its host was proved off."""
        return [
            (vm, host.id)
            for host in self._proved_off.values()
            for vm in sorted(self._on_host.get(host.id, ()))
            if ended_with_host(self.vms[vm], host)
        ]

    def _take_vm(self, recorded: Recorded) -> None:
        key = recorded.object_id
        before = self.vms.get(key)
        after = VM.evolve(before, recorded)
        if after is None:
            return
        self._account(before, -1)
        if after.status is VmStatus.REMOVED:
            self.vms.pop(key, None)
        else:
            self.vms[key] = after
            self._account(after, 1)
        reserved = self._reserved.get(key)
        if reserved is not None and recorded.position >= reserved[2]:
            del self._reserved[key]

    def _account(self, vm: VmState | None, sign: int) -> None:
        if vm is None:
            return
        for host in vm.may_run_on:
            self._memory[host] += sign * _memory_bytes(vm)
        copies = {*vm.may_run_on, *(host for host, _incarnation in vm.stale_copies)}
        waits_for = copies | {entry.host for entry in vm.jobs}
        for index, hosts in ((self._on_host, copies), (self._waits_for, waits_for)):
            for host in hosts:
                if sign > 0:
                    index[host].add(vm.id)
                else:
                    index[host].discard(vm.id)

    def _take_host(self, recorded: Recorded) -> None:
        after = HOST.evolve(self.hosts.get(recorded.object_id), recorded)
        if after is None:
            return
        self._proved_off.pop(recorded.object_id, None)
        if after.proved_off and not after.removed:
            self._proved_off[recorded.object_id] = after
        if after.removed:
            self.hosts.pop(recorded.object_id, None)
        else:
            self.hosts[recorded.object_id] = after

    def _take_operation(self, recorded: Recorded) -> None:
        key = recorded.object_id
        after = OPERATION.evolve(self.operations.get(key), recorded)
        if after is None:
            return
        if after.open:
            self.operations[key] = after
            self._by_target[after.target].add(key)
            return
        self.operations.pop(key, None)
        waiting = self._by_target.get(after.target, set())
        waiting.discard(key)
        if not waiting:
            self._by_target.pop(after.target, None)

    def _hosts_of(self, vm: str) -> set[str]:
        state = self.vms.get(vm)
        if state is None:
            return set()
        return {*state.may_run_on, *(host for host, _incarnation in state.stale_copies)}


def ended_with_host(vm: VmState, host: HostState) -> bool:
    """Tell whether a copy of the VM ended for certain because the host was proved off.

    What was placed there afterwards did not; stale copies were all found before.
    """
    if not host.proved_off:
        return False
    run = vm.run
    placed_before = run is not None and run.host == host.id and run.position < host.proved_off
    return placed_before or any(where == host.id for where, _incarnation in vm.stale_copies)


def _memory_bytes(vm: VmState) -> int:
    """Return what the VM takes of a host: as much as its run was given, whatever is set now."""
    configuration = vm.run.spec.configuration if vm.run is not None else vm.configuration
    return configuration.memory_bytes


def _named_host(recorded: Recorded) -> set[str]:
    host = getattr(recorded.event, "host", None)
    return {host} if isinstance(host, str) else set()
