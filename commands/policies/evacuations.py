"""Has the VMs leave a host that goes into maintenance, or is not fit: by priority, few at a time.

As many migrate as the cluster lets one host send at a time; the next begins when one has ended. VMs
that are bound to the host are asked to shut down; what is left at the deadline is powered off, if
that was asked for. An attempt that failed is repeated a few times, later and later. Each attempt is
an operation of its own, begun once: its cause counts the failures before it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence

from commands.kernel.command import Context, Decision
from commands.kernel.fold import World
from commands.kernel.refusal import WrongState
from commands.policies.evacuation import (
    Evacuation,
    Fate,
    not_before,
    of_maintenance,
    of_unfit,
    outlook,
    urgency,
)
from commands.policies.facts import Facts
from commands.policies.saga import EvacuationRules, Timeouts
from commands.policies.watch import Beginning, Watch
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import Duty, HostState, HostStatus
from commands.state.vm import VmState, VmStatus
from commands.vm.migrate import request
from commands.vm.shutdown import ShutDownVm
from commands.vm.stop import StopVm
from events.types.host_maintenance import VmsThatStay

_LEFT = frozenset({HostStatus.PREPARING_FOR_MAINTENANCE, HostStatus.NON_OPERATIONAL})
Decide = Callable[[World, Context], Decision]
_POWERED_OFF_FROM = frozenset(
    {
        VmStatus.WAITING_FOR_LAUNCH,
        VmStatus.POWERING_UP,
        VmStatus.RESTORING_STATE,
        VmStatus.UP,
        VmStatus.PAUSED,
        VmStatus.REBOOT_IN_PROGRESS,
        VmStatus.POWERING_DOWN,
    }
)
"""Of what runs at the deadline: a migration under way is let end first."""


class Evacuations(Watch):
    """Begins the migrations, shutdowns and power-offs of hosts that are to be without VMs."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._rules = timeouts.evacuation
        self._hosts: dict[str, HostState] = {}
        self._changed = True
        self._wanted: list[Beginning] = []
        self._again_at: dt.datetime | None = None
        self._news = False
        self._told_at: dt.datetime | None = None

    def host(self, before: HostState | None, after: HostState | None) -> None:
        """Note which hosts are to be without VMs."""
        if before is not None:
            self._hosts.pop(before.id, None)
        if after is not None and after.status in _LEFT:
            self._hosts[after.id] = after
        self._changed = True

    def vm(self, before: VmState | None, after: VmState | None) -> None:
        """Note that something changed; while no host is evacuated, that is of no interest."""
        del before, after
        self._changed = self._changed or bool(self._hosts)

    def cluster(self, before: ClusterState | None, after: ClusterState | None) -> None:
        """Note that how a cluster's VMs migrate may have changed."""
        del before, after
        self._changed = True

    def due(self, facts: Facts, now: dt.datetime) -> Sequence[Beginning]:
        """Return which VMs are to leave now, the most urgent first."""
        if not self._hosts:
            return ()
        if self._changed or (self._again_at is not None and self._again_at <= now):
            self._news = self._news or self._changed
            self._changed, self._again_at = False, None
            self._wanted = [each for host in self._evacuated(facts) for each in host.due(now)]
        return self._wanted

    def woken(self, facts: Facts, now: dt.datetime) -> Sequence[str]:
        """Return the maintenances that are to tell anew what blocks: now and then, after news."""
        del facts
        tell_at = self._tell_at()
        if tell_at is None or now < tell_at:
            return ()
        self._news, self._told_at = False, now
        return [
            host.maintenance.operation
            for host in self._hosts.values()
            if host.duty is Duty.PREPARING
        ]

    def next_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return when an attempt is to be repeated, a deadline ends, or news are to be told."""
        if not self._hosts:
            return None
        tell_at = self._tell_at()
        wanted = (self._again_at, None if tell_at is None else max(now, tell_at))
        return min((each for each in wanted if each is not None), default=None)

    def _tell_at(self) -> dt.datetime | None:
        if not self._news or not self._hosts:
            return None
        if self._told_at is None:
            return dt.datetime.min.replace(tzinfo=dt.UTC)
        return self._told_at + dt.timedelta(seconds=self._rules.retry_s)

    def _evacuated(self, facts: Facts) -> Iterator[_Leaving]:
        for host in self._hosts.values():
            cluster = facts.clusters.get(host.cluster)
            if cluster is not None:
                preparing = host.duty is Duty.PREPARING
                evacuation = (of_maintenance if preparing else of_unfit)(host, cluster)
                yield _Leaving(evacuation, facts, self._rules, self._look_again)

    def _look_again(self, at: dt.datetime) -> None:
        self._again_at = at if self._again_at is None else min(at, self._again_at)


class _Leaving:
    """What is to leave one host now."""

    def __init__(
        self,
        evacuation: Evacuation,
        facts: Facts,
        rules: EvacuationRules,
        look_again: Callable[[dt.datetime], None],
    ) -> None:
        self._evacuation = evacuation
        self._facts = facts
        self._rules = rules
        self._look_again = look_again
        self._vms = sorted(facts.vms_on(evacuation.host.id), key=urgency)

    def due(self, now: dt.datetime) -> Iterator[Beginning]:
        """Yield what is to be begun now; remember when to look again."""
        if self._is_over(now):
            yield from (self._power_off(vm) for vm in self._vms if self._can_be_powered_off(vm))
            return
        host, cluster = self._evacuation.host, self._evacuation.cluster
        free = cluster.migration.outgoing_max - sum(_leaves(vm, host.id) for vm in self._vms)
        for vm in self._vms:
            if vm.status is not VmStatus.UP or not self._is_its_time(vm, now):
                continue
            found = outlook(self._evacuation, vm, self._rules, self._facts.choose)
            if found.fate is Fate.SHUTS_DOWN:
                yield self._begin(vm, ShutDownVm(id=vm.id, timeout_s=self._rules.shutdown_s).decide)
            elif found.fate is Fate.MOVES and free > 0:
                free -= 1
                yield self._begin(vm, self._move(vm))

    def _is_over(self, now: dt.datetime) -> bool:
        deadline = self._evacuation.deadline
        if deadline is None or self._evacuation.vms_that_stay is not VmsThatStay.POWER_OFF:
            return False
        if now < deadline:
            self._look_again(deadline)
        return now >= deadline

    def _is_its_time(self, vm: VmState, now: dt.datetime) -> bool:
        due = not_before(self._evacuation, vm, self._rules)
        if due is not None and now < due:
            self._look_again(due)
            return False
        return True

    def _can_be_powered_off(self, vm: VmState) -> bool:
        run = vm.run
        if run is None or run.host != self._evacuation.host.id or run.stopping:
            return False
        return vm.status in _POWERED_OFF_FROM

    def _power_off(self, vm: VmState) -> Beginning:
        return Beginning(
            cause=f"{self._evacuation.key}/off/{vm.incarnation}",
            target=f"vm/{vm.id}",
            decide=self._still(StopVm(id=vm.id).decide),
        )

    def _begin(self, vm: VmState, decide: Decide) -> Beginning:
        return Beginning(
            cause=self._evacuation.attempt(vm), target=f"vm/{vm.id}", decide=self._still(decide)
        )

    def _move(self, vm: VmState) -> Decide:
        cause = self._evacuation.cause
        return lambda world, context: request(world, context, vm.id, cause=cause)

    def _still(self, decide: Decide) -> Decide:
        """Read the host, so that nothing is begun once it is called off."""
        evacuation = self._evacuation

        def checked(world: World, context: Context) -> Decision:
            host, known = lookup.host(world, evacuation.host.id), evacuation.host
            asked = (host.status, host.maintenance, host.unfit_since)
            if asked != (known.status, known.maintenance, known.unfit_since):
                raise WrongState(f"Host {host.name} is not to be without VMs any more.")
            return decide(world, context)

        return checked


def _leaves(vm: VmState, host: str) -> bool:
    return vm.status is VmStatus.MIGRATING and vm.run is not None and vm.run.host == host
