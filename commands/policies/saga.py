"""What a saga is: a table of steps, and a pure function that says what comes next.

A saga is level-triggered: it looks at its operation and at the streams that matter as they are
now, and returns the events of its next move, or none while it waits. The runner appends them in
one go, reading the operation and every stream that was looked at, so that a move is made once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence

import msgspec

from commands.kernel.command import Context
from commands.kernel.fold import World
from commands.policies.fence_rules import FenceRules
from commands.policies.traffic import Traffic
from commands.scheduler.need import Choice, Need
from commands.scheduler.plans import Plan
from commands.state.host import HOST, Duty, HostState
from commands.state.operation import OperationState, StepState
from commands.state.vm import VmState
from events.envelope import NewEvent
from events.types import operation as e
from events.types.base import Event


class RestartRules(msgspec.Struct, frozen=True, kw_only=True):
    """How VMs are started by themselves; the numbers are oVirt's where it has them.

    The first restart is at once, the next `short_tries` minus one `short_interval_s` apart, later
    ones `long_interval_s`; they are counted anew after a run that was up for `well_s`. A host
    starts `starts_per_host` such VMs at a time. One that shut down under a VM is not given it again
    until it has booted, for at most `shutting_down_s`. Who waits for a turn looks again after
    `turn_s` at the latest.
    """

    short_interval_s: float = 30.0
    short_tries: int = 10
    long_interval_s: float = 1_800.0
    well_s: float = 600.0
    starts_per_host: int = 4
    shutting_down_s: float = 600.0
    turn_s: float = 600.0


class EvacuationRules(msgspec.Struct, frozen=True, kw_only=True):
    """How VMs are got off a host that goes into maintenance, or that is not fit for its cluster.

    A VM whose migration, or shutdown, failed `attempts_max` times stays, until somebody sees to it;
    each failure lengthens the wait for the next attempt by `retry_s`. A guest has `shutdown_s` to
    shut down.
    """

    attempts_max: int = 3
    retry_s: float = 30.0
    shutdown_s: float = 300.0


class BalanceRules(msgspec.Struct, frozen=True, kw_only=True):
    """How clusters are looked at; what a cluster says in seconds or minutes counts `scale` times.

    Whether highly available VMs would fit elsewhere is looked at every `reservation_s`, over
    `vms_at_once` VMs at a time, `turn_s` apart.
    """

    scale: float = 1.0
    reservation_s: float = 300.0
    turn_s: float = 1.0
    vms_at_once: int = 500


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long sagas wait, in seconds; the settings' time scale is already in them."""

    launch_s: float = 60.0
    retry_s: float = 30.0
    restarts: RestartRules = RestartRules()
    fencing: FenceRules = FenceRules()
    evacuation: EvacuationRules = EvacuationRules()
    balance: BalanceRules = BalanceRules()


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a saga's table. `cancellable`: a cancel during the step has an effect.

    `point_of_no_return`: once the step is done, the saga can only go forward.
    """

    name: str
    does: str
    undo: str
    cancellable: bool
    point_of_no_return: bool = False


def _no_plan(_cluster: str) -> Plan:
    return Plan()


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What a saga sees when it is asked for its next move.

    `input` is the position up to which the log was taken in; `choose` finds a host among all,
    with what is placed on them, reservations of unfinished starts included. After a restore,
    `unconfirmed` are the hosts that have not told yet what they run, and incarnations count from
    `incarnations_from` on at least. `hosts` are all there are; whoever decides by one, reads it.
    `traffic` knows the migrations that go on and that wait; `plan` says which VMs of a cluster
    would be better off elsewhere.
    """

    operation: OperationState
    world: World
    context: Context
    input: int
    choose: Callable[[Need], Choice]
    vms_on_target: Sequence[VmState] = ()
    timeouts: Timeouts = Timeouts()
    unconfirmed: Sequence[HostState] = ()
    incarnations_from: int = 0
    hosts: Mapping[str, HostState] = {}
    traffic: Traffic = msgspec.field(default_factory=Traffic)
    plan: Callable[[str], Plan] = _no_plan

    def is_(self, step: str, *states: StepState) -> bool:
        """Tell whether a step is in one of the states."""
        return self.operation.steps.get(step) in states

    def own(self, *events: Event) -> tuple[NewEvent, ...]:
        """Put events on the operation's stream."""
        return tuple(NewEvent(f"operation/{self.operation.id}", event) for event in events)

    def target(self, *events: Event, addressee: str | None = None) -> tuple[NewEvent, ...]:
        """Put events on the target's stream."""
        return tuple(NewEvent(self.operation.target, event, addressee) for event in events)

    def started(
        self, step: str, host: str | None = None, incarnation: int = 0, detail: str = ""
    ) -> e.OperationStepStarted:
        """Return the event that a step is begun (again), naming the run that it acts on."""
        return e.OperationStepStarted(
            step=step,
            input=self.input,
            attempt=self.operation.attempts.get(step, 0) + 1,
            host=host,
            incarnation=incarnation,
            detail=detail,
        )

    def done(self, step: str, detail: str = "") -> e.OperationStepDone:
        """Return the event that a step is done."""
        return e.OperationStepDone(step=step, input=self.input, detail=detail)

    def refused(
        self, step: str, reason: str, choice: Choice | None = None
    ) -> e.OperationStepRefused:
        """Return the event that a step could not be done; `choice`: each host's verdict with it."""
        return e.OperationStepRefused(
            step=step,
            input=self.input,
            reason=reason,
            verdicts=choice.verdicts if choice is not None else (),
            verdicts_left_out=choice.left_out if choice is not None else 0,
        )

    def timer(self, name: str, after_s: float) -> e.OperationTimerSet:
        """Return the event that sets a timer."""
        due = self.context.time + dt.timedelta(seconds=after_s)
        return e.OperationTimerSet(timer=name, due=due, input=self.input)

    def ended(self, outcome: e.Outcome, reason: str = "") -> tuple[NewEvent, ...]:
        """Return the end of the operation."""
        return self.own(
            e.OperationEnded(
                kind=self.operation.kind,
                target=self.operation.target,
                name=self.operation.name,
                outcome=outcome,
                reason=reason,
                input=self.input,
            )
        )

    def attention(self, reason: str, waits_for: str, remedy: str) -> tuple[NewEvent, ...]:
        """Ask for a person's attention, unless that was done already with the same words."""
        if self.operation.attention == reason:
            return ()
        return self.own(
            e.OperationNeedsAttention(
                name=self.operation.name,
                reason=reason,
                waits_for=waits_for,
                remedy=remedy,
                input=self.input,
            )
        )

    def await_host(self, host: str) -> tuple[NewEvent, ...]:
        """Wait for a host: in silence while it answers, asking for attention while it does not."""
        state = self.world.get(HOST, host)
        if state is None or not state.mute:
            return ()
        if state.unconfirmed:
            return self.await_confirmation(state)
        return self.attention(
            f"Host {state.name} does not answer, and what runs there is not known.",
            f"host {state.name}",
            f"It goes on when the host answers; if its machine is off, say so with"
            f" 'chronovisor host confirm-off {state.name}'.",
        )

    def await_confirmation(self, host: HostState) -> tuple[NewEvent, ...]:
        """Wait for a host that has not told, since the log was restored, what it runs."""
        return self.attention(
            f"Host {host.name} has not reported since Chronovisor was restored from a backup, and"
            " what runs there is not known.",
            f"host {host.name}",
            "It goes on when the host has reported. If its machine is off, say so with"
            f" 'chronovisor host confirm-off {host.name}'; if you have seen that it runs nothing"
            " that was started after the backup, with 'chronovisor host confirm-state"
            f" {host.name}'.",
        )

    def await_files(self, *hosts: str) -> tuple[NewEvent, ...]:
        """Wait for work on files on hosts, which no proof that their machines are off can end.

        The first of them that may be away is named.
        """
        for host in hosts:
            state = self.world.get(HOST, host)
            if state is None or not (state.mute or state.duty is Duty.MAINTENANCE):
                continue
            why = "does not answer" if state.mute else "is in maintenance, where it may be off"
            return self.attention(
                f"Host {state.name} {why}, and the VM's files lie there.",
                f"host {state.name}",
                "It goes on when the host answers.",
            )
        return ()


Advance = Callable[[Scene], tuple[NewEvent, ...]]


class Saga(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of operation: its table, and its next move."""

    kind: str
    steps: tuple[Step, ...]
    advance: Advance
