"""What the policies know of everything: a fold over all streams, kept in memory.

Placement looks at all hosts at once, so it works on this fold and not on single streams. What was
placed but is not folded yet is held as a reservation, so that two placements in a row never count
the same memory twice; the append checks everything again.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from commands.kernel.fold import Fold, Loaded, World
from commands.kernel.shapes import Shape, Tables
from commands.policies.affinity_facts import AffinityFacts
from commands.policies.cluster_facts import ClusterFacts
from commands.policies.host_endings import ended_with_host, given_up
from commands.policies.observer import Observer
from commands.policies.timers import Timer, Timers
from commands.policies.traffic import Traffic
from commands.scheduler.fleet import Fleet, Share, share_at
from commands.scheduler.need import Choice, Need
from commands.state.affinity import AFFINITY_GROUP, AFFINITY_LABEL
from commands.state.cluster import CLUSTER, ClusterState
from commands.state.host import HOST, HostState
from commands.state.operation import OPERATION, OperationState
from commands.state.orders import is_outdated
from commands.state.scheduling_policy import SCHEDULING_POLICY
from commands.state.strays import strays_told
from commands.state.vm import VM, VmState, VmStatus, removed_vm
from events.envelope import Recorded
from events.types.host import HostConfirmedOff, HostRemoved, HostStateConfirmed
from events.types.operation import OperationTimerSet
from events.types.vm import VmPlaced
from events.types.vm_copies import VmStaleCopyFound
from events.types.vm_jobs import VmDisksAssigned
from events.types.vm_migration import VmMigrationStarted
from events.types.vm_tuning import Dedicated

State = TypeVar("State")


SHAPE = Shape.of(
    "facts",
    1,
    (CLUSTER, HOST, VM, OPERATION, AFFINITY_GROUP, AFFINITY_LABEL, SCHEDULING_POLICY),
    versions=int,
)


STARTING = frozenset({VmStatus.WAITING_FOR_LAUNCH, VmStatus.POWERING_UP, VmStatus.RESTORING_STATE})
"""States of a VM with a run in which its host is busy with starting it."""
_CONFIRMING = (HostStateConfirmed, HostConfirmedOff, HostRemoved)
"""What may end the wait for a host that a restore left unconfirmed."""


class FactsWorld(World):
    """The world as the facts have it: nothing is loaded, and what is appended is checked."""

    def __init__(self, facts: Facts) -> None:
        super().__init__({})
        self._facts = facts

    def get(self, fold: Fold[State], object_id: str) -> State | None:
        """Return the state of an object as of the facts' position, None if there is none now."""
        loaded = self._facts.loaded(fold.kind, object_id)
        if fold.kind != OPERATION.kind or loaded.state is not None:
            # Of an operation that has ended nothing is kept, not even its version.
            self.reads[fold.stream(object_id)] = loaded.version
        return cast("State | None", loaded.state)


class Facts:
    """The fold. `position` is that of the last event taken in; the observers see each change."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self.position = 0
        self._observers = tuple(observers)
        self.of_clusters = ClusterFacts()
        self.clusters = self.of_clusters.clusters
        self._versions: dict[str, int] = {}
        self._fleet = Fleet()
        self.affinity = AffinityFacts(self._fleet)
        self.hosts: dict[str, HostState] = {}
        self.vms: dict[str, VmState] = {}
        self.operations: dict[str, OperationState] = {}
        self._timers = Timers(self.operations)
        self._proved_off: dict[str, HostState] = {}
        self._unconfirmed: dict[str, HostState] = {}
        self.incarnations_from = 0
        self._by_target: dict[str, set[str]] = defaultdict(set)
        self._on_host: dict[str, set[str]] = defaultdict(set)
        self._waits_for: dict[str, set[str]] = defaultdict(set)
        self._reserved: dict[str, tuple[str, Share, bool]] = {}
        self.starting: Counter[str] = Counter()
        self.traffic = Traffic()

    def take(self, recorded: Recorded) -> None:
        """Fold one event; positions rise by one."""
        self.position = recorded.position
        if recorded.kind in _FOLDED:
            self._versions[recorded.stream] = recorded.version
        match recorded.kind:
            case "vm":
                self._take_vm(recorded)
            case "host":
                self._take_host(recorded)
            case "operation":
                self._take_operation(recorded)
            case "cluster" | "scheduling_policy":
                for before, after in self.of_clusters.take(recorded):
                    self._show_cluster(before, after)
            case "affinity_group" | "affinity_label":
                self.affinity.take(recorded)

    def tables(self) -> Tables:
        """Return what a snapshot holds; all else follows from it."""
        return {
            **self.of_clusters.tables(),
            "host": dict(self.hosts),
            "vm": dict(self.vms),
            "operation": dict(self.operations),
            "versions": dict(self._versions),
            **self.affinity.tables(),
        }

    def restore(self, position: int, tables: Tables) -> None:
        """Take up a snapshot; the facts are empty."""
        self.position = position
        self._versions.update(tables["versions"])
        self.affinity.restore(tables)
        self.of_clusters.policies.update(tables["scheduling_policy"])
        for key, cluster in tables["cluster"].items():
            self._show_cluster(*self.of_clusters.put(key, cluster))
        for host in tables["host"].values():
            self._put_host(host)
            if host.removed:  # it was kept for what goes on referring to it
                self.hosts[host.id] = self._proved_off[host.id] = host
        for key, vm in tables["vm"].items():
            self.vms[key] = vm
            self._account(vm, 1)
            self._show_vm(None, vm)
        for key, operation in tables["operation"].items():
            self._put_operation(key, operation)
            for timer, due in operation.timers.items():
                self._timers.set(due, key, timer)

    def loaded(self, kind: str, object_id: str) -> Loaded:
        """Return a stream's version and state; KeyError for a kind that is not folded here."""
        states: dict[str, Any] = _FOLDED[kind](self)
        version = self._versions.get(f"{kind}/{object_id}", 0)
        return Loaded(version, states.get(object_id))

    def due(self, now: dt.datetime) -> list[Timer]:
        """Return the timers whose time has come."""
        return self._timers.due(now)

    def next_due(self) -> dt.datetime | None:
        """Return when the next timer is due, None if none is set."""
        return self._timers.next_due()

    def concerned(self, recorded: Recorded) -> set[str]:
        """Return the open operations that an event may move."""
        if recorded.kind == "operation":
            return {recorded.object_id} & self.operations.keys()
        concerned = set(self._by_target.get(recorded.stream, ()))
        if recorded.kind == "host":
            if isinstance(recorded.event, _CONFIRMING) and recorded.object_id in self._unconfirmed:
                return set(self.operations)
            for vm in (*self._waits_for.get(recorded.object_id, ()), *strays_told(recorded.event)):
                concerned |= self._by_target.get(f"vm/{vm}", set())
        elif recorded.kind == "vm":
            for host in {*self._hosts_of(recorded.object_id), *_named_host(recorded)}:
                concerned |= self._by_target.get(f"host/{host}", set())
        return concerned

    def choose(self, need: Need) -> Choice:
        """Return the host that a VM is placed on; see `Fleet.choose`.

        Hosts that start as many VMs as the need allows are left out of those that it may have.
        """
        if need.starts_at_once_max:
            limit = need.starts_at_once_max
            busy = tuple(host for host, starts in self.starting.items() if starts >= limit)
            need = msgspec.structs.replace(need, busy=busy)
        if need.incoming_max:
            coming = self.traffic.incoming.items()
            full = tuple(host for host, vms in coming if vms >= need.incoming_max)
            need = msgspec.structs.replace(need, full=full)
        return self._fleet.choose(need)

    @property
    def fleet(self) -> Fleet:
        """All hosts with what is taken of them, reservations included."""
        return self._fleet

    def reserve(
        self, vm: str, host: str, *, runs: bool = True, own: Dedicated | None = None
    ) -> None:
        """Count a VM on a host, where these CPUs are its own, from the decision to place it there
        until that is folded. If not `runs`, its disks alone will lie there.
        """
        self.give_back(vm)
        share = share_at(self.vms[vm], own)
        self._reserved[vm] = (host, share, runs)
        self._fleet.take(host, share, runs=runs)
        if not runs:
            return
        self._fleet.expect(vm, host)
        self.starting[host] += 1
        run = self.vms[vm].run
        if run is not None:
            self.traffic.reserve(vm, run.host, host)

    def give_back(self, vm: str) -> None:
        """Count a reservation no more: its append was refused, or is folded."""
        self.traffic.give_back(vm)
        reserved = self._reserved.pop(vm, None)
        if reserved is None:
            return
        host, share, runs = reserved
        self._fleet.take(host, share, -1, runs=runs)
        self._fleet.expect(vm, None)
        if runs:
            self._count_start(host, -1)

    def vms_on(self, host: str) -> list[VmState]:
        """Return the VMs that may run on a host, stale copies included, by name."""
        found = (self.vms[vm] for vm in self._on_host.get(host, ()))
        return sorted(found, key=lambda vm: (vm.name, vm.id))

    def unconfirmed(self) -> list[HostState]:
        """Return the hosts of which, since a restore, nobody has told what they run."""
        return list(self._unconfirmed.values())

    def outdated(self) -> list[str]:
        """Return the VMs with jobs about a run that were ordered before a restore."""
        return [vm for vm in self.vms if self.has_outdated(vm)]

    def has_outdated(self, vm: str) -> bool:
        """Tell whether a VM has jobs about a run that were ordered before a restore."""
        return vm in self.vms and any(
            is_outdated(entry, self.hosts[entry.host].restored)
            for entry in self.vms[vm].jobs
            if entry.host in self.hosts
        )

    def lost(self) -> list[tuple[str, str]]:
        """Return (VM, host) for each VM with a copy that ended because its host was proved off, or
        with a job that will not be done because its host was removed.
        """
        return [
            (vm, host.id)
            for host in self._proved_off.values()
            for vm in sorted(self._waits_for.get(host.id, ()))
            if ended_with_host(self.vms[vm], host) or given_up(self.vms[vm], host)
        ]

    def _take_vm(self, recorded: Recorded) -> None:
        key = recorded.object_id
        before = self.vms.get(key)
        if before is None and isinstance(recorded.event, VmStaleCopyFound):
            before = removed_vm(key, recorded.event.name)
        after = VM.evolve(before, recorded)
        if after is None:
            return
        self._account(before, -1)
        self.vms[key] = after
        self._account(after, 1)
        self._show_vm(before, after)
        self._forget_removed(recorded.stream)
        if isinstance(recorded.event, VmPlaced | VmMigrationStarted | VmDisksAssigned):
            self.give_back(key)

    def _account(self, vm: VmState | None, sign: int) -> None:
        if vm is None:
            return
        self._fleet.account(vm, sign)
        if vm.run is not None and vm.status in STARTING:
            self._count_start(vm.run.host, sign)
        copies = {*vm.may_run_on, *(host for host, _incarnation in vm.stale_copies)}
        waits_for = copies | {entry.host for entry in vm.jobs}
        for index, hosts in ((self._on_host, copies), (self._waits_for, waits_for)):
            for host in hosts:
                if sign > 0:
                    index[host].add(vm.id)
                else:
                    index[host].discard(vm.id)

    def _count_start(self, host: str, sign: int) -> None:
        """Count a start under way on a host, from the choice of the host until the guest is up."""
        self.starting[host] += sign
        if not self.starting[host]:
            del self.starting[host]

    def _take_host(self, recorded: Recorded) -> None:
        after = HOST.evolve(self.hosts.get(recorded.object_id), recorded)
        if after is not None:
            self._put_host(after)

    def _put_host(self, host: HostState) -> None:
        for observer in self._observers:
            observer.host(self.hosts.get(host.id), host)
        self._fleet.put(host)
        self._proved_off.pop(host.id, None)
        self._unconfirmed.pop(host.id, None)
        if host.unconfirmed and not host.removed:
            self._unconfirmed[host.id] = host
        self.incarnations_from = max(self.incarnations_from, host.incarnations_from)
        left = host.removed and bool(self._waits_for.get(host.id))
        if host.proved_off or left:
            # Also where it was removed: what lay there, or was to be done, goes on referring to it.
            self._proved_off[host.id] = host
        if host.removed and not host.proved_off and not left:
            self.hosts.pop(host.id, None)
        else:
            self.hosts[host.id] = host

    def _take_operation(self, recorded: Recorded) -> None:
        key = recorded.object_id
        after = OPERATION.evolve(self.operations.get(key), recorded)
        if after is None:
            return
        if after.open:
            self._put_operation(key, after)
            if isinstance(recorded.event, OperationTimerSet):
                self._timers.set(recorded.event.due, key, recorded.event.timer)
            return
        self._show_operation(self.operations.pop(key, None), after)
        self._versions.pop(recorded.stream, None)
        waiting = self._by_target.get(after.target, set())
        waiting.discard(key)
        if not waiting:
            self._by_target.pop(after.target, None)
            self._forget_removed(after.target)

    def _put_operation(self, key: str, operation: OperationState) -> None:
        self._show_operation(self.operations.get(key), operation)
        self.operations[key] = operation
        self._by_target[operation.target].add(key)

    def _forget_removed(self, target: str) -> None:
        """Forget a VM that was removed, once no operation looks at it any more."""
        key = target.partition("/")[2]
        vm = self.vms.get(key)
        if vm is None or vm.status is not VmStatus.REMOVED or vm.stale_copies:
            return
        if target not in self._by_target:
            self._account(vm, -1)
            del self.vms[key]
            self._show_vm(vm, None)

    def _show_cluster(self, before: ClusterState | None, after: ClusterState) -> None:
        for observer in self._observers:
            observer.cluster(before, after)

    def _show_vm(self, before: VmState | None, after: VmState | None) -> None:
        self.traffic.vm(before, after)
        for observer in self._observers:
            observer.vm(before, after)

    def _show_operation(self, before: OperationState | None, after: OperationState) -> None:
        self.traffic.operation(before, after)
        for observer in self._observers:
            observer.operation(before, after)

    def _hosts_of(self, vm: str) -> set[str]:
        state = self.vms.get(vm)
        if state is None:
            return set()
        return {*state.may_run_on, *(host for host, _incarnation in state.stale_copies)}


def _named_host(recorded: Recorded) -> set[str]:
    host = getattr(recorded.event, "host", None)
    return {host} if isinstance(host, str) else set()


_FOLDED: dict[str, Callable[[Facts], dict[str, Any]]] = {
    "vm": lambda facts: facts.vms,
    "host": lambda facts: facts.hosts,
    "cluster": lambda facts: facts.clusters,
    "affinity_group": lambda facts: facts.affinity.groups,
    "affinity_label": lambda facts: facts.affinity.labels,
    "operation": lambda facts: facts.operations,
    "scheduling_policy": lambda facts: facts.of_clusters.policies,
}
"""The kinds of streams that are folded, and where their states are."""
