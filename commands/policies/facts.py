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
from events.types.host import HostConfirmedOff


class Facts:
    """The fold. `position` is that of the last event taken in."""

    def __init__(self) -> None:
        self.position = 0
        self.hosts: dict[str, HostState] = {}
        self.vms: dict[str, VmState] = {}
        self.operations: dict[str, OperationState] = {}
        self.proved_off: dict[str, int] = {}
        self._by_target: dict[str, set[str]] = defaultdict(set)
        self._on_host: dict[str, set[str]] = defaultdict(set)
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
            for vm in self._on_host.get(recorded.object_id, ()):
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
            memory = self.vms[vm].configuration.memory_bytes
            self._reserved[vm] = (host, memory, position)

    def names_on(self, host: str) -> list[str]:
        """Return the names of the VMs that may run on a host."""
        return [self.vms[vm].name for vm in self._on_host.get(host, ())]

    def lost(self) -> list[tuple[str, str]]:
        """Return (VM, host) for each run on a host that was proved off since it was placed."""
        return [
            (vm, host)
            for host, position in self.proved_off.items()
            for vm in sorted(self._on_host.get(host, ()))
            if (run := self.vms[vm].run) is not None and run.position < position
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
            self._memory[host] += sign * vm.configuration.memory_bytes
            if sign > 0:
                self._on_host[host].add(vm.id)
            else:
                self._on_host[host].discard(vm.id)

    def _take_host(self, recorded: Recorded) -> None:
        after = HOST.evolve(self.hosts.get(recorded.object_id), recorded)
        if after is None:
            return
        if isinstance(recorded.event, HostConfirmedOff):
            self.proved_off[recorded.object_id] = recorded.position
        if after.removed:
            self.hosts.pop(recorded.object_id, None)
            self.proved_off.pop(recorded.object_id, None)
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

    def _hosts_of(self, vm: str) -> tuple[str, ...]:
        state = self.vms.get(vm)
        return state.may_run_on if state is not None else ()


def _named_host(recorded: Recorded) -> set[str]:
    host = getattr(recorded.event, "host", None)
    return {host} if isinstance(host, str) else set()
