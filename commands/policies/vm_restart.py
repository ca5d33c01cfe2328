"""Starting a VM that nobody asked to start: it failed and is highly available, or its host booted.

As any start, but that it waits: for its time after attempts that failed, for its turn while hosts
are starting others, and for room. It ends by running, by failing on hosts (then high availability
tries again, later and later), because somebody calls it off, or starts the VM by hand.
"""

from __future__ import annotations

import collections
import datetime as dt
import re
from collections.abc import Callable

import msgspec

from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.policies import vm_start
from commands.policies.saga import RestartRules, Saga, Scene, Step
from commands.scheduler.need import Choice, Need, need_of
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import HOST, HostState
from commands.state.operation import OperationState, StepState, begin
from commands.state.vm import VM, VmState, VmStatus
from commands.state.vm_availability import RESTART_KINDS
from events.envelope import NewEvent
from events.types import operation as e
from events.types.operation import Outcome
from events.types.vm import DownReason, VmStartRequested
from events.types.vm_availability import RestartCause, VmRestartDecided

STEPS = (
    Step(
        name="wait",
        does="wait for the time of the attempt",
        undo="none needed",
        cancellable=True,
    ),
    *vm_start.STEPS,
)
REASONS_TOLD_MAX = 6
"""So many different reasons why hosts cannot take a VM are told in one sentence each."""
VERDICTS_KEPT_MAX = 20
"""So many hosts' reasons are kept: thousands of VMs may wait, each with a word for each host."""
EXPLAINED_MAX = 200
"""So many hosts' reasons are worked out and summed up, for the same reason."""
_RESTART, _TURN, _HOST = "restart", "turn", "host"


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of a start that a policy began."""
    vm = scene.world.get(VM, scene.operation.target_id)
    assert vm is not None  # noqa: S101 - an operation is begun on what exists
    launching = scene.is_("launch", StepState.RUNNING, StepState.UNDOING)
    if launching or scene.is_("boot", StepState.RUNNING):
        return vm_start.advance(scene)
    if vm.operation != scene.operation.id and vm.status is not VmStatus.DOWN:
        return scene.ended(Outcome.CANCELLED, "Somebody started the VM by hand meanwhile.")
    over = vm_start.over(scene, vm)
    if over is not None:
        return over
    if not scene.is_("wait", StepState.DONE):
        return _wait(scene, vm)
    return _place(scene, vm)


SAGAS = tuple(Saga(kind=kind, steps=STEPS, advance=advance) for kind in RESTART_KINDS.values())


def restart(
    vm_id: str, cause: RestartCause, rules: RestartRules, host: HostState | None = None
) -> Callable[[World, Context], Decision]:
    """Return the decision to start a VM: after it fell, or with `host`."""

    def decide(world: World, context: Context) -> Decision:
        state = lookup.vm(world, vm_id)
        lookup.require_vm_status(world, state, {VmStatus.DOWN}, "started")
        attempt, wait_s = (1, 0.0) if host is not None else attempt_of(state, rules)
        fell_at = state.availability.fell_at or context.time
        not_before = max(context.time, fell_at + dt.timedelta(seconds=wait_s))
        decided = VmRestartDecided(
            name=state.name,
            cause=cause,
            attempt=attempt,
            not_before=not_before,
            reason=None if host is not None else state.availability.reason,
            host_name=state.availability.host_name if host is None else host.name,
            slowed=attempt == rules.short_tries + 1,
        )
        begun = begin(
            context,
            RESTART_KINDS[cause],
            f"vm/{vm_id}",
            state.name,
            *(step.name for step in STEPS),
            cancellable=True,
            host=host.id if host is not None else None,
        )
        requested = VmStartRequested(name=state.name)
        return Decision.of(
            vm_id, *on(f"vm/{vm_id}", requested, decided), begun, operation=str(context.command)
        )

    return decide


def attempt_of(vm: VmState, rules: RestartRules) -> tuple[int, float]:
    """Return which attempt in a row a restart is, and how long after the fall it may begin.

    After a run that was up for a while, or that its host ended while it was up, counting begins
    anew: the VM itself is well.
    """
    state = vm.availability
    if state.up_at is not None and state.fell_at is not None:
        up_s = (state.fell_at - state.up_at).total_seconds()
        if up_s >= rules.well_s or state.reason is not DownReason.CRASHED:
            return 1, 0.0
    attempt = state.attempts + 1
    if attempt == 1:
        return attempt, 0.0
    slow = attempt > rules.short_tries
    return attempt, rules.long_interval_s if slow else rules.short_interval_s


def need_for(
    vm: VmState,
    cluster: ClusterState,
    operation: OperationState,
    host_of: Callable[[str], HostState | None],
    rules: RestartRules,
    now: dt.datetime,
) -> Need:
    """Return what such a start needs of a host."""
    return msgspec.structs.replace(
        need_of(vm, cluster, operation.tried),
        starts_at_once_max=rules.starts_per_host,
        shutting_down=_shutting_down(vm, host_of, rules, now),
    )


def _shutting_down(
    vm: VmState,
    host_of: Callable[[str], HostState | None],
    rules: RestartRules,
    now: dt.datetime,
) -> tuple[str, ...]:
    """Return the host that shut down under the VM, while it has not booted since."""
    state = vm.availability
    if state.reason is not DownReason.HOST_SHUTDOWN or state.host is None:
        return ()
    host, until = host_of(state.host), _believed_until(vm, rules)
    booted = host is None or host.booted > state.ended
    return () if booted or until is None or now >= until else (state.host,)


def _believed_until(vm: VmState, rules: RestartRules) -> dt.datetime | None:
    fell_at = vm.availability.fell_at
    return None if fell_at is None else fell_at + dt.timedelta(seconds=rules.shutting_down_s)


def _wait(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    not_before = vm.availability.not_before
    if not_before is None or not_before <= scene.context.time or _RESTART in scene.operation.fired:
        return scene.own(scene.done("wait"))
    if scene.is_("wait", StepState.RUNNING):
        return ()
    timer = e.OperationTimerSet(timer=_RESTART, due=not_before, input=scene.input)
    return scene.own(scene.started("wait"), timer)


def _place(scene: Scene, vm: VmState) -> tuple[NewEvent, ...]:
    copies = vm_start.copies_first(scene, vm)
    if copies is not None:
        return copies
    cluster = lookup.cluster(scene.world, vm.cluster)
    rules, now = scene.timeouts.restarts, scene.context.time
    need = need_for(
        vm, cluster, scene.operation, lambda host: scene.world.get(HOST, host), rules, now
    )
    choice = _choose(scene, msgspec.structs.replace(need, explained=False))
    if choice.host is not None:
        timers = [name for name in (_TURN, _HOST) if name in scene.operation.timers]
        cleared = (e.OperationTimerCleared(timer=name, input=scene.input) for name in timers)
        return (*scene.own(*cleared), *vm_start.placed(scene, vm, cluster, choice))
    unlimited = msgspec.structs.replace(need, starts_at_once_max=0, explained_max=EXPLAINED_MAX)
    choice = scene.choose(unlimited)
    if choice.host is not None:
        return _await_turn(scene)
    if scene.operation.tried:
        return vm_start.refuse(scene, choice)
    return _await_room(scene, vm, cluster, choice)


def _choose(scene: Scene, need: Need) -> Choice:
    """Choose a host; where the VM starts with its host, that one if it can take the VM."""
    own = scene.operation.host
    if own is not None:
        only = msgspec.structs.replace(need, only_host=own, for_files=False)
        choice = vm_start.choose(scene, only)
        if choice.host is not None:
            return choice
    return vm_start.choose(scene, need)


def _await_turn(scene: Scene) -> tuple[NewEvent, ...]:
    """Wait until a host that could take the VM has started others; the highest priority first."""
    if scene.is_("place", StepState.RUNNING) and _TURN in scene.operation.timers:
        return ()
    limit = scene.timeouts.restarts.starts_per_host
    waiting = scene.started(
        "place",
        detail=f"Each host that could take it is starting {limit} others; it goes on as soon as one"
        " of them is up, in the order of priorities.",
    )
    return scene.own(waiting, scene.timer(_TURN, scene.timeouts.restarts.turn_s))


def _await_room(
    scene: Scene, vm: VmState, cluster: ClusterState, choice: Choice
) -> tuple[NewEvent, ...]:
    """Wait until a host can take the VM, saying why none can now."""
    reason = f"No host can run it now. {told(choice)}"
    if scene.operation.attention and _says_the_same(scene.operation.attention, reason):
        return ()
    kept = msgspec.structs.replace(choice, verdicts=choice.verdicts[:VERDICTS_KEPT_MAX])
    refused = scene.refused("place", reason, kept)
    attention = scene.attention(
        reason,
        f"room in cluster {cluster.name}",
        "It is started, in the order of priorities, as soon as a host can take it: when one comes"
        " up, or a VM goes down or leaves. Activate or add a host, or end other VMs; 'vm placement'"
        " says of each host why not; 'vm stop' calls it off, 'vm start' starts it by hand.",
    )
    return (*scene.own(refused, *_look_again(scene, vm)), *attention)


def _look_again(scene: Scene, vm: VmState) -> tuple[e.OperationTimerSet, ...]:
    """Look again when a host that was shutting down may be taken to stay up after all."""
    rules, now = scene.timeouts.restarts, scene.context.time
    until = _believed_until(vm, rules)
    shutting_down = _shutting_down(vm, lambda host: scene.world.get(HOST, host), rules, now)
    if not shutting_down or until is None or _HOST in scene.operation.timers:
        return ()
    return (e.OperationTimerSet(timer=_HOST, due=until, input=scene.input),)


def told(choice: Choice) -> str:
    """Return why no host can take a VM: each first reason once, and for about how many hosts.

    Numbers are rough, so that thousands of waiting VMs need not be told of each host that changes.
    """
    if not choice.verdicts:
        return "The cluster has no host."
    groups: dict[str, list[str]] = collections.defaultdict(list)
    examples: dict[str, str] = {}
    for verdict in choice.verdicts:
        reason = verdict.reasons[0]
        alike = re.sub(r"\d+", "0", reason)
        groups[alike].append(verdict.host_name)
        examples.setdefault(alike, reason)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    sentences = [
        f"{names[0]}: {examples[alike]}"
        if len(names) == 1
        else f"{_about(len(names))} hosts, such as {names[0]}: {examples[alike]}"
        for alike, names in ordered[:REASONS_TOLD_MAX]
    ]
    others = choice.hosts - sum(len(names) for _alike, names in ordered[:REASONS_TOLD_MAX])
    if others > 0:
        sentences.append(f"{_about(others)} more hosts cannot take it either.")
    return " ".join(sentences)


def _about(hosts: int) -> str:
    """Return a number of hosts, or from 3 on the number of the 1-2-5 series that it reaches."""
    if hosts <= _EXACT_MAX:
        return str(hosts)
    return f"at least {max(step for step in _ROUGH if step <= hosts)}"


_EXACT_MAX = 2
_ROUGH = (3, *(step * 10**power for power in range(6) for step in (1, 2, 5)))


def _says_the_same(one: str, other: str) -> bool:
    """Tell whether two explanations differ in examples alone."""
    return _without_examples(one) == _without_examples(other)


def _without_examples(text: str) -> str:
    return re.sub(r"such as [^:]+:|(?<!at least )\b\d+", "", text)
