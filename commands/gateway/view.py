"""What the gateway knows: a fold over hosts and VMs from which each host's intent is read off.

It follows the log in this process. It answers who has which session and what should be on a host;
whatever is appended is decided again on the streams themselves.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, cast

from commands.gateway.aftermath import Aftermath
from commands.gateway.fencing import Fences
from commands.gateway.intents import intent_vms
from commands.gateway.memory import MemoryPolicies
from commands.kernel.fold import Fold, Loaded, MissingStreamError, World
from commands.kernel.shapes import Shape, Tables
from commands.state.host import HOST, HostState
from commands.state.host_power import FenceTry
from commands.state.mac_book import MacBook
from commands.state.vm import VM, VmState, VmStatus, removed_vm
from events.envelope import Recorded
from events.types.cluster import ClusterCreated, ClusterRemoved
from events.types.host import HostEnrolmentTokenIssued
from events.types.host_memory import MemoryPolicy
from events.types.job import Job
from events.types.vm_copies import VmStaleCopyFound
from events.types.vm_jobs import VmJobWithdrawn
from events.wire.agent import Intent, IntentVm

State = TypeVar("State")
WITHDRAWN_JOBS_MAX = 1_000
"""How many withdrawn jobs are remembered per host, for agents that poll."""


SHAPE = Shape.of(
    "gateway",
    1,
    (HOST, VM),
    changed=dict[str, int],
    withdrawn=tuple[tuple[int, str], ...],
    versions=int,
    memory=MemoryPolicy,
    told=int,
    clusters=str,
)


class TooOldError(Exception):
    """The agent's position is too far back for an answer of changes: it must say hello again."""


class ViewWorld(World):
    """The world of hosts and VMs as the view has it: good for looking, not for appending."""

    def __init__(self, view: GatewayView) -> None:
        super().__init__({})
        self._states: dict[str, Mapping[str, object]] = {"host": view.hosts, "vm": view.vms}

    def get(self, fold: Fold[State], object_id: str) -> State | None:
        """Return the state of an object as of the view's position."""
        states = self._states.get(fold.kind)
        if states is None:
            raise MissingStreamError(fold, fold.stream(object_id))
        return cast("State | None", states.get(object_id))


class GatewayView:
    """The fold. `position` is that of the last event taken in."""

    def __init__(self) -> None:
        self.position = 0
        self.hosts: dict[str, HostState] = {}
        self.vms: dict[str, VmState] = {}
        self.clusters: dict[str, str] = {}
        """The data center of each cluster."""
        self.macs = MacBook()
        self._versions: dict[str, int] = {}
        self._tokens: dict[str, str] = {}
        self._vms_of: dict[str, set[str]] = defaultdict(set)
        self._changed: dict[str, dict[str, int]] = defaultdict(dict)
        self._withdrawn: dict[str, deque[tuple[int, str]]] = defaultdict(
            lambda: deque(maxlen=WITHDRAWN_JOBS_MAX)
        )
        self._restore = Aftermath()
        self._memory = MemoryPolicies()
        self._fences = Fences()
        self._signals: dict[str, asyncio.Event] = {}
        self._awaited: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waited = itertools.count()
        self.on_barred: Callable[[str], None] | None = None
        """Told of each host that is heard no more, by its certificate or at all."""

    def take(self, recorded: Recorded) -> None:
        """Fold one event; positions rise by one."""
        self.position = recorded.position
        if recorded.kind in {"host", "vm"}:
            self._versions[recorded.stream] = recorded.version
        if recorded.kind == "host":
            self._take_host(recorded)
        elif recorded.kind == "vm":
            self._take_vm(recorded)
        elif recorded.kind == "cluster":
            self._take_cluster(recorded)
        while self._awaited and self._awaited[0][0] <= self.position:
            reached = heapq.heappop(self._awaited)[-1]
            if not reached.done():
                reached.set_result(None)

    def vms_on(self, host: str) -> list[VmState]:
        """Return the VMs that may run on a host, stale copies included."""
        found = (self.vms.get(key) for key in self._vms_of.get(host, ()))
        return [
            vm
            for vm in found
            if vm is not None
            and (host in vm.may_run_on or any(where == host for where, _n in vm.stale_copies))
        ]

    async def reach(self, position: int, timeout_s: float) -> None:
        """Return once a position is taken in; raises TimeoutError."""
        if self.position >= position:
            return
        reached = asyncio.get_running_loop().create_future()
        heapq.heappush(self._awaited, (position, next(self._waited), reached))
        async with asyncio.timeout(timeout_s):
            await reached

    def known(self, stream: str) -> Loaded | None:
        """Return a host's or VM's version and state, None where its stream has to be read."""
        kind, _, object_id = stream.partition("/")
        state: HostState | VmState | None = None
        if kind == "host":
            state = self.hosts.get(object_id)
        elif kind == "vm":
            state = self.vms.get(object_id)
            if state is not None and state.status is VmStatus.REMOVED:
                return None  # of a VM that is gone, no more is kept than its stale copies need
        return Loaded(self._versions[stream], state) if state is not None else None

    def tables(self) -> Tables:
        """Return what a snapshot holds; all else follows from it."""
        return {
            "host": dict(self.hosts),
            "vm": dict(self.vms),
            "changed": {host: dict(vms) for host, vms in self._changed.items() if vms},
            "withdrawn": {host: tuple(jobs) for host, jobs in self._withdrawn.items() if jobs},
            "versions": dict(self._versions),
            "memory": dict(self._memory.policies),
            "told": dict(self._memory.told),
            "clusters": dict(self.clusters),
        }

    def restore(self, position: int, tables: Tables) -> None:
        """Take up a snapshot; the view is empty."""
        self.position = position
        for key, host in tables["host"].items():
            self.hosts[key] = host
            self._restore.take(host)
            self._fences.take(None, host)
            if host.token is not None:
                self._tokens[host.token.id] = key
        for key, vm in tables["vm"].items():
            self.vms[key] = vm
            self.macs.take(None, vm)
            for where in _hosts(vm):
                self._vms_of[where].add(key)
        self._changed.update(tables["changed"])
        self._versions.update(tables["versions"])
        self._memory.policies.update(tables["memory"])
        self._memory.told.update(tables["told"])
        self.clusters.update(tables["clusters"])
        for where, jobs in tables["withdrawn"].items():
            self._withdrawn[where].extend(jobs)

    def host_of_token(self, token: str) -> HostState | None:
        """Return the host whose newest enrolment token has this id."""
        host = self.hosts.get(self._tokens.get(token, ""))
        current = host is not None and host.token is not None and host.token.id == token
        return host if current else None

    def intent(self, host: str) -> Intent:
        """Return all that should be on a host as of `position`; nothing while it is unconfirmed."""
        if self._restore.waits_for(host):
            return Intent(position=self.position)
        return self._intent_of(host, self._vms_of.get(host, set()), (), told=True)

    def changes(self, host: str, after: int) -> Intent | None:
        """Return what changed on a host after a position, None if nothing did.

        Raises TooOldError where that cannot be told any more.
        """
        if self._restore.waits_for(host):
            return None
        vms = {vm for vm, position in self._changed.get(host, {}).items() if position > after}
        withdrawn = self._withdrawn[host]
        if len(withdrawn) == WITHDRAWN_JOBS_MAX and withdrawn[0][0] > after:
            raise TooOldError
        jobs = tuple(job for position, job in withdrawn if position > after)
        told = self._memory.told.get(host, 0) > after
        if not vms and not jobs and not told and not self._fences.orders(host, after):
            return None
        return self._intent_of(host, vms, jobs, told=told)

    def fences(self, host: str, after: int = 0) -> tuple[FenceTry, ...]:
        """Return what a host is to do with the power of others, as ordered after a position."""
        return () if self._restore.waits_for(host) else self._fences.orders(host, after)

    def signal(self, host: str) -> asyncio.Event:
        """Return an event that is set when something is addressed to the host, or its session
        changes. Ask for it before looking at `changes`, so that nothing slips through.
        """
        return self._signals.setdefault(host, asyncio.Event())

    def note_strays(self, host: str, vms: Iterable[str]) -> None:
        """Note what a host runs and nobody may touch; it matters after a restore (`Aftermath`)."""
        self._restore.note_strays(host, vms)

    def expected(self, host: str) -> list[VmState]:
        """Return the VMs that should run on a host because of what was ordered before a restore."""
        state = self.hosts.get(host)
        restored = state.restored if state is not None else 0
        placed = (self.vms[vm] for vm in self._vms_of.get(host, ()) if vm in self.vms)
        return [
            vm
            for vm in placed
            if vm.run is not None and vm.run.host == host and vm.run.position <= restored
        ]

    def _wake(self, host: str) -> None:
        waiting = self._signals.pop(host, None)
        if waiting is not None:
            waiting.set()

    def _take_host(self, recorded: Recorded) -> None:
        key = recorded.object_id
        before = self.hosts.get(key)
        after = HOST.evolve(before, recorded)
        if after is None:
            return
        self.hosts[key] = after
        if isinstance(recorded.event, HostEnrolmentTokenIssued):
            self._tokens[recorded.event.token] = key
        self._restore.take(after)
        for proxy, withdrawn in self._fences.take(before, after).items():
            self._withdrawn[proxy].extend((recorded.position, each) for each in sorted(withdrawn))
            self._wake(proxy)
        if before is not None and before.unconfirmed and not after.unconfirmed:
            # All that was kept from it until now is news to it.
            self._changed[key].update(dict.fromkeys(self._vms_of.get(key, ()), recorded.position))
        for vm in self._restore.released(recorded, self.vms):
            for host in _hosts(self.vms[vm]):
                self._changed[host][vm] = recorded.position
                self._wake(host)
        other_memory = self._memory.take_host(before, after, recorded.position)
        if other_memory or before is None or _voice(before) != _voice(after):
            self._wake(key)
        if before is not None and _bars(before, after) and self.on_barred is not None:
            self.on_barred(key)

    def _take_cluster(self, recorded: Recorded) -> None:
        if isinstance(recorded.event, ClusterCreated):
            self.clusters[recorded.object_id] = recorded.event.data_center
        elif isinstance(recorded.event, ClusterRemoved):
            self.clusters.pop(recorded.object_id, None)
        for host in self._memory.take_cluster(recorded, self.hosts):
            self._wake(host)

    def _take_vm(self, recorded: Recorded) -> None:
        key = recorded.object_id
        before = self.vms.get(key)
        if before is None and isinstance(recorded.event, VmStaleCopyFound):
            before = removed_vm(key, recorded.event.name)
        after = VM.evolve(before, recorded)
        if after is None:
            return
        self.macs.take(before, after)
        hosts = _hosts(after)
        for host in hosts:
            self._vms_of[host].add(key)
        for host in (_hosts(before) if before is not None else set()) - hosts:
            self._vms_of[host].discard(key)
            self._changed[host].pop(key, None)
        if after.status is VmStatus.REMOVED and not hosts:
            self.vms.pop(key, None)
            self._versions.pop(recorded.stream, None)
        else:
            self.vms[key] = after
        if recorded.addressee is not None:
            self._address(recorded, recorded.addressee)

    def _address(self, recorded: Recorded, host: str) -> None:
        if isinstance(recorded.event, VmJobWithdrawn):
            self._withdrawn[host].append((recorded.position, recorded.event.job))
        else:
            self._changed[host][recorded.object_id] = recorded.position
        self._wake(host)

    def _intent_of(
        self, host: str, vms: set[str], withdrawn: tuple[str, ...], *, told: bool
    ) -> Intent:
        """Put an intent together; with `told` it says what to do where memory runs short."""
        items: list[IntentVm] = []
        jobs: list[Job] = []
        state = self.hosts.get(host)
        restored = state.restored if state is not None else 0
        for key in sorted(vms):
            vm = self.vms.get(key)
            if vm is not None:
                in_doubt = state is not None and self._restore.in_doubt(vm, state)
                items += intent_vms(vm, host, restored, in_doubt=in_doubt)
                jobs += [
                    entry.job
                    for entry in vm.jobs
                    if entry.host == host and self._restore.may_be_done(vm, entry, restored)
                ]
        return Intent(
            position=self.position,
            vms=tuple(items),
            jobs=tuple(jobs),
            jobs_withdrawn=withdrawn,
            memory=self._memory.of(state) if told else None,
        )


def _voice(host: HostState) -> tuple[object, ...]:
    """Return what decides whether the host's session counts; a change of it wakes the agent."""
    heard = (host.session, host.silent, host.proved_off, host.unconfirmed, host.refresh)
    return (*heard, host.duplicate, host.removed)


def _bars(before: HostState, after: HostState) -> bool:
    """Tell whether who spoke for the host may not do so any more."""
    removed = after.removed and not before.removed
    cloned = after.duplicate and not before.duplicate
    replaced = before.identity is not None and before.identity != after.identity
    return removed or cloned or replaced


def _hosts(vm: VmState) -> set[str]:
    return {
        *vm.may_run_on,
        *(entry.host for entry in vm.jobs),
        *(host for host, _incarnation in vm.stale_copies),
    }
