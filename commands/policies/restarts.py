"""Which VMs are started by themselves, and whose turn it is.

High availability acts on a run that ended without anybody's having asked for it: it crashed, its
host shut down, or its host is proved off (contract D 4). A VM that starts with its host is started
after the host's next boot, unless an admin had stopped it. Each fall, and each boot, begins one
operation, at once; the operation waits for its time, its turn and for room (`vm_restart`), and is
moved again here when a host may take it, by priority.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from commands.policies.facts import STARTING, Facts
from commands.policies.saga import Timeouts
from commands.policies.vm_restart import need_for, restart
from commands.policies.watch import Beginning, Watch
from commands.scheduler.need import Need
from commands.state.cluster import ClusterState
from commands.state.host import HostState, HostStatus
from commands.state.operation import OperationState, StepState
from commands.state.vm import VmState, VmStatus
from commands.state.vm_availability import RESTART_KINDS
from events.types.vm import DownReason
from events.types.vm_availability import RestartCause

WOKEN_MAX = 128
"""So many waiting starts are moved at a time."""
TOLD_MAX = 32
"""So many explanations, why a VM waits, are brought up to date at a time."""
TELL_AGAIN_S = 5.0


class Restarts(Watch):
    """Begins the starts that nobody asks for."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._rules = timeouts.restarts
        self._fallen: dict[str, VmState] = {}
        self._at_home: dict[str, dict[str, VmState]] = defaultdict(dict)
        self._booted: dict[str, HostState] = {}

    def vm(self, before: VmState | None, after: VmState | None) -> None:
        """Note VMs that fell, and those that may start with their host."""
        if before is not None:
            self._fallen.pop(before.id, None)
            self._leave_home(before)
        if after is None or after.status is not VmStatus.DOWN:
            return
        state = after.availability
        if state.highly_available and state.fell:
            self._fallen[after.id] = after
        elif state.start_with_host.enabled and not state.stopped:
            self._at_home[_home(after)][after.id] = after

    def host(self, before: HostState | None, after: HostState | None) -> None:
        """Note hosts that are up."""
        if before is not None:
            self._booted.pop(before.id, None)
        if after is not None and after.status is HostStatus.UP and after.booted_at is not None:
            self._booted[after.id] = after

    def _leave_home(self, vm: VmState) -> None:
        vms = self._at_home.get(_home(vm))
        if vms is not None:
            vms.pop(vm.id, None)
            if not vms:
                del self._at_home[_home(vm)]

    def due(self, facts: Facts, now: dt.datetime) -> Sequence[Beginning]:
        """Return the VMs that fell, then those whose host booted; by priority, oldest first."""
        del facts
        fallen = sorted(self._fallen.values(), key=_urgency)
        return [self._after_fall(vm) for vm in fallen] + [
            self._with_host(vm, host) for due, _rank, vm, host in self._with_hosts() if due <= now
        ]

    def next_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return when the next VM is to start after its host."""
        return min((due for due, *_rest in self._with_hosts() if due > now), default=None)

    def _after_fall(self, vm: VmState) -> Beginning:
        cause = RestartCause.HIGH_AVAILABILITY
        return Beginning(
            cause=f"{cause}/{vm.availability.fell}",
            target=f"vm/{vm.id}",
            decide=restart(vm.id, cause, self._rules),
        )

    def _with_host(self, vm: VmState, host: HostState) -> Beginning:
        cause = RestartCause.START_WITH_HOST
        return Beginning(
            cause=f"{cause}/{host.id}/{host.booted}",
            target=f"vm/{vm.id}",
            decide=restart(vm.id, cause, self._rules, host),
        )

    def _with_hosts(self) -> list[tuple[dt.datetime, int, VmState, HostState]]:
        """Return who starts with a host that is up, when; the highest priority first."""
        found = [
            (_starts_at(vm, host), -vm.availability.start_with_host.priority, vm, host)
            for home, vms in self._at_home.items()
            if (host := self._booted.get(home)) is not None
            for vm in vms.values()
            if _down_since_before(vm, host)
        ]
        return sorted(found, key=lambda one: (one[1], one[0], one[2].id))


class Turns(Watch):
    """Moves starts that wait for their turn or for room, once a host may take them."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._rules = timeouts.restarts
        self._waiting: dict[str, dict[str, OperationState]] = defaultdict(dict)
        self._cluster_of: dict[str, str] = {}
        self._changed: dict[str, None] = {}
        self._news: dict[str, int] = defaultdict(int)
        self._told: dict[str, int] = {}
        self._tell_from: dt.datetime | None = None

    def vm(self, before: VmState | None, after: VmState | None) -> None:
        """Note where room was made, or where a start is over."""
        if after is not None:
            self._cluster_of[after.id] = after.cluster
        elif before is not None:
            self._cluster_of.pop(before.id, None)
        if before is None:
            return
        left = set(before.may_run_on) - set(after.may_run_on if after is not None else ())
        if left or (_is_starting(before) and not (after is not None and _is_starting(after))):
            self._changed[before.cluster] = None

    def host(self, before: HostState | None, after: HostState | None) -> None:
        """Note hosts that may take VMs now, and all news of hosts."""
        state = after or before
        assert state is not None  # noqa: S101 - one of both is there
        if before is None or after is None or _offer(before) != _offer(after):
            self._changed[state.cluster] = None
            self._news[state.cluster] += 1

    def cluster(self, before: ClusterState | None, after: ClusterState | None) -> None:
        """Note changes of how a cluster is scheduled."""
        if before is not None and after is not None:
            self._changed[after.id] = None
            self._news[after.id] += 1

    def operation(self, before: OperationState | None, after: OperationState | None) -> None:
        """Note which starts wait."""
        known = after or before
        if known is None or known.kind not in _KINDS:
            return
        waits = after is not None and after.open and _waits(after)
        cluster = self._cluster_of.get(known.target_id, "")
        if waits and after is not None:
            self._waiting[cluster][known.id] = after
            self._told.setdefault(known.id, self._news[cluster])
        else:
            self._waiting[cluster].pop(known.id, None)
            self._told.pop(known.id, None)

    def woken(self, facts: Facts, now: dt.datetime) -> Sequence[str]:
        """Return the waiting starts that a host can take now, and some whose words are old."""
        found: list[str] = []
        for cluster in list(self._changed):
            del self._changed[cluster]
            waiting = self._waiting.get(cluster)
            if waiting:
                fitting = self._fitting(facts, cluster, now)
                found += fitting
                if len(fitting) == WOKEN_MAX:
                    self._changed[cluster] = None
        return [*found, *self._to_be_told(now)]

    def next_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return when to look again: at once for more that fit, later for words that are old."""
        if any(self._waiting.get(cluster) for cluster in self._changed):
            return now
        if not any(True for _each in self._outdated()):
            return None
        return max(now, self._tell_from) if self._tell_from is not None else now

    def _fitting(self, facts: Facts, cluster_id: str, now: dt.datetime) -> list[str]:
        """Return the starts that hosts can take beside each other, by priority.

        A need that no host can meet is looked for once, however many VMs have it.
        """
        cluster = facts.clusters.get(cluster_id)
        if cluster is None or not self._any_may_start(facts, cluster_id):
            return []
        alike = not any(group.cluster == cluster_id for group in facts.affinity.groups.values())
        fitting: list[OperationState] = []
        unmet: set[Need] = set()
        for operation in self._by_priority(facts, cluster_id):
            vm = facts.vms.get(operation.target_id)
            if vm is None:
                continue
            need = need_for(vm, cluster, operation, facts.hosts.get, self._rules, now)
            need = msgspec.structs.replace(need, explained=False, vm=None if alike else vm.id)
            choice = None if need in unmet else facts.choose(need)
            if choice is None or choice.host is None:
                unmet.add(need)
                continue
            facts.reserve(vm.id, choice.host.id, own=choice.dedicated)
            fitting.append(operation)
            if len(fitting) == WOKEN_MAX:
                break
        for operation in fitting:
            facts.give_back(operation.target_id)
        return [operation.id for operation in fitting]

    def _any_may_start(self, facts: Facts, cluster: str) -> bool:
        """Tell whether a host is up that starts fewer VMs than it may."""
        return any(
            host.status is HostStatus.UP
            and facts.starting[host.id] < self._rules.starts_per_host
            and host.cluster == cluster
            for host in facts.hosts.values()
        )

    def _by_priority(self, facts: Facts, cluster: str) -> list[OperationState]:
        def rank(operation: OperationState) -> tuple[int, dt.datetime, str]:
            vm = facts.vms.get(operation.target_id)
            priority = _priority(vm, operation) if vm is not None else 0
            return (-priority, operation.started_at, operation.id)

        return sorted(self._waiting[cluster].values(), key=rank)

    def _outdated(self) -> Iterator[tuple[str, str]]:
        """Yield the starts that wait for room, and last said why before the latest news."""
        for cluster, waiting in self._waiting.items():
            news = self._news[cluster]
            for operation in waiting.values():
                if operation.attention is not None and self._told[operation.id] < news:
                    yield cluster, operation.id

    def _to_be_told(self, now: dt.datetime) -> list[str]:
        if self._tell_from is not None and now < self._tell_from:
            return []
        found = []
        for cluster, operation in self._outdated():
            self._told[operation] = self._news[cluster]
            found.append(operation)
            if len(found) == TOLD_MAX:
                break
        if found:
            self._tell_from = now + dt.timedelta(seconds=TELL_AGAIN_S)
        return found


_KINDS = frozenset(RESTART_KINDS.values())


def _home(vm: VmState) -> str:
    """Return the host that a VM starts with: where it last ran, else where its disks lie."""
    return vm.availability.host or vm.disks_host or ""


def _urgency(vm: VmState) -> tuple[int, int, str]:
    return (-vm.availability.priority, vm.availability.fell, vm.id)


def _priority(vm: VmState, operation: OperationState) -> int:
    state = vm.availability
    available = operation.kind == RESTART_KINDS[RestartCause.HIGH_AVAILABILITY]
    return state.priority if available else state.start_with_host.priority


def _down_since_before(vm: VmState, host: HostState) -> bool:
    """Tell whether a VM was down, or went down with its host, before the host's present boot."""
    state = vm.availability
    if state.start_with_host.since > host.booted:
        return False
    if state.ended < host.booted:
        return True
    return state.reason is DownReason.HOST_LOST and state.placed < host.booted


def _starts_at(vm: VmState, host: HostState) -> dt.datetime:
    assert host.booted_at is not None  # noqa: S101 - only such hosts are noted
    return host.booted_at + dt.timedelta(seconds=vm.availability.start_with_host.delay_s)


def _is_starting(vm: VmState) -> bool:
    return vm.run is not None and vm.status in STARTING


def _offer(host: HostState) -> tuple[HostStatus, object]:
    """Return what decides whether a host may take a VM."""
    return host.status, host.capabilities


def _waits(operation: OperationState) -> bool:
    place = operation.steps.get("place")
    launched = operation.steps.get("launch") is StepState.RUNNING
    if launched or operation.steps.get("wait") is not StepState.DONE:
        return False
    return place is StepState.REFUSED or (place is StepState.RUNNING)
