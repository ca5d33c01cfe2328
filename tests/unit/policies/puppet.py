"""Hosts that do what they are told: what they say follows from their intent and nothing else.

So a stage that is built from any prefix of a log can go on as if nothing had happened. A puppet can
be told to fail, at starts or at jobs of a kind.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from commands.state.operation import OPERATION, OperationState
from commands.state.vm import VM, VmState, VmStatus
from events.codec import CODEC
from events.envelope import NewEvent, Recorded
from events.log.claims import ClaimTable, Holding, plan
from events.log.memory import MemoryLog
from events.log.port import Append, Appended
from events.types.job import Job, JobKind
from events.types.vm import DownReason
from events.wire.agent import FenceItem, IntentVm, JobItem, Role, VmStateItem
from tests.unit.policies.puppet_power import answer, boot_of, confirmation, open_orders
from tests.unit.policies.puppet_ssh import KINDS, next_of
from tests.unit.policies.stage import Stage, absent, done, failed, running

ROUNDS_MAX = 30
HOPS = "hops"
"""A VM of this name is taken in by the second host that is tried."""
Item = VmStateItem | JobItem | FenceItem
SETTLED = frozenset(
    {
        VmStatus.UP,
        VmStatus.DOWN,
        VmStatus.PAUSED,
        VmStatus.SUSPENDED,
        VmStatus.IMAGE_ILLEGAL,
        VmStatus.REMOVED,
    }
)
"""Where a VM is when nothing goes on with it."""


async def answers(stage: Stage, host: str, failing: Collection[str] = ()) -> list[Item]:
    """Return what a host says to its intent; `failing` holds kinds of jobs, and "start"."""
    intent = await stage.intent(host)
    items: list[Item] = [answer(order, failing) for order in await open_orders(stage, host)]
    ended: set[str] = set()
    for job in intent.jobs:
        if job.kind in failing:
            items.append(failed(job.id, job.vm))
            continue
        items += await _work(stage, job)
        if job.kind in {JobKind.VM_SHUTDOWN, JobKind.VM_SUSPEND, JobKind.VM_MIGRATE}:
            ended.add(job.vm)
    for item in intent.vms:
        vm = await stage.vm(item.vm)
        over = _ended_by_job(vm)
        if item.role is Role.INCOMING:
            continue  # it waits for what the source sends
        if over is not None:
            items.append(absent(vm.id, item.incarnation, reason=over))
        elif item.vm not in ended and not (vm.status is VmStatus.PAUSED and item.role is Role.RUN):
            items.insert(0, _state(item, failing))
    return items


def _ended_by_job(vm: VmState) -> DownReason | None:
    """Return why the run is over by the host's own word, as its journal says."""
    for job in vm.finished_jobs:
        operation, _, rest = job.id.partition("/")
        step = rest.partition("/")[0]
        if job.done and vm.operation == operation:
            if step == "shutdown":
                return DownReason.ADMIN
            if step == "suspend":
                return DownReason.SUSPENDED
            if step == "copy" and vm.migration is not None and not vm.migration.departed:
                return DownReason.MIGRATED
    return None


async def _work(stage: Stage, job: Job) -> list[Item]:
    outcome = done(job.id, job.vm)
    match job.kind:
        case JobKind.VM_SHUTDOWN:
            return [outcome, absent(job.vm, job.incarnation, reason=DownReason.ADMIN)]
        case JobKind.VM_SUSPEND:
            return [outcome, absent(job.vm, job.incarnation, reason=DownReason.SUSPENDED)]
        case JobKind.VM_MIGRATE:
            return await _sent(stage, job)
        case JobKind.VM_REBOOT:
            if (await stage.vm(job.vm)).status is not VmStatus.REBOOT_IN_PROGRESS:
                return [outcome]  # as its journal says, it did reset the guest
            return [running(job.vm, job.incarnation, resets=1), outcome]
        case JobKind.VM_CONTINUE:
            return [running(job.vm, job.incarnation), outcome]
        case _:
            return [outcome]


async def _sent(stage: Stage, job: Job) -> list[Item]:
    """Return what a host says that sends a VM away."""
    if job.sending is not None and job.sending.cancelled:
        return [failed(job.id, job.vm, "it was cancelled"), running(job.vm, job.incarnation)]
    if job.id.endswith("/copy") and (await stage.vm(job.vm)).name == HOPS:
        refused = failed(job.id, job.vm, "it was not taken in")
        return [msgspec.structs.replace(refused, elsewhere=True), running(job.vm, job.incarnation)]
    gone = absent(job.vm, job.incarnation, reason=DownReason.MIGRATED)
    return [done(job.id, job.vm), gone]


def _state(item: IntentVm, failing: Collection[str]) -> VmStateItem:
    if item.role is Role.ABSENT:
        return absent(item.vm, item.incarnation, reason=item.reason or DownReason.ADMIN)
    if "start" in failing and not item.started:
        return absent(
            item.vm, item.incarnation, reason=DownReason.START_FAILED, detail="QEMU would not."
        )
    return running(item.vm, item.incarnation)


async def play_on(
    stage: Stage, *, failing: Collection[str] = (), mute: Collection[str] = ()
) -> None:
    """Let policies and hosts answer each other until nobody has anything to say."""
    for _round in range(ROUNDS_MAX):
        before = await stage.log.head()
        await stage.settle()
        for host in await hosts_of(stage):
            state = await stage.host(host)
            said = next_of(state, failing) or confirmation(state, stage)
            if said is not None:
                await stage.append(f"host/{host}", said)
                await stage.settle()
            state = await stage.host(host)
            if host not in mute and state.refresh and boot_of(state) is not None:
                await stage.hello(host, boot_of(state))
            if host not in mute:
                await stage.report(host, *await answers(stage, host, failing))
        if await stage.log.head() == before:
            return
    message = f"it never comes to rest: {(await stage.names())[-20:]}"
    raise AssertionError(message)


async def hosts_of(stage: Stage) -> list[str]:
    """Return the ids of all hosts that are one: what was uninstalled is none any more."""
    added = [r.object_id for r in await stage.history() if r.name == "host.added"]
    return [host for host in added if (await stage.host(host)).identity is not None]


async def cuts(log: MemoryLog, after: int = 0) -> list[int]:
    """Return the positions at which an append ended, from `after` on."""
    stored = await log.read(0, 100_000)
    ends = [
        one.position
        for one, following in zip(stored, [*stored[1:], None], strict=True)
        if following is None or following.command != one.command
    ]
    return [position for position in ends if position >= after]


async def copied(stage: Stage, length: int, name: str = "second") -> Stage:
    """Return a stage on the first `length` events, as a process would that starts there."""
    log = MemoryLog(stage.log.log_id)
    group: list[NewEvent] = []
    versions: dict[str, int] = {}
    reads: dict[str, int] = {}
    stored = (await stage.log.read(0, 100_000))[:length]
    for one, following in zip(stored, [*stored[1:], None], strict=True):
        reads.setdefault(one.stream, versions.get(one.stream, 0))
        versions[one.stream] = one.version
        group.append(NewEvent(one.stream, CODEC.decode(one).event, one.addressee))
        if following is not None and following.command == one.command:
            continue
        outcome = await log.append(
            Append(
                command=one.command,
                principal="copy",
                actor=one.actor,
                reads=reads,
                events=tuple(group),
                correlation=one.correlation,
                causation=one.causation,
                time=one.time,
            )
        )
        assert isinstance(outcome, Appended), outcome
        group, reads = [], {}
    copy = Stage(log, name=name, ids_from=1_000_000 + 1_000 * length)
    copy.now, copy.cluster, copy.operation = stored[-1].time, stage.cluster, stage.operation
    await copy.runner.begin()
    return copy


async def operations(stage: Stage) -> dict[str, OperationState]:
    """Return every operation there ever was, by id."""
    states: dict[str, OperationState] = {}
    for recorded in await stage.history():
        if recorded.kind == "operation":
            after = OPERATION.evolve(states.get(recorded.object_id), recorded)
            assert after is not None
            states[recorded.object_id] = after
    return states


async def vms(stage: Stage) -> dict[str, VmState]:
    """Return every VM there ever was, by id."""
    states: dict[str, VmState] = {}
    for recorded in await stage.history():
        if recorded.kind == "vm":
            after = VM.evolve(states.get(recorded.object_id), recorded)
            assert after is not None
            states[recorded.object_id] = after
    return states


async def check(stage: Stage) -> None:
    """Check what holds whenever the policies have nothing to do (contract B's invariants)."""
    assert rebuilt_claims(await stage.history()) == stage.log.claims()
    everything = await operations(stage)
    machines = await vms(stage)
    for operation in everything.values():
        if not operation.open:
            continue
        vm = machines.get(operation.target_id)
        if operation.kind in KINDS:
            order = (await stage.host(operation.target_id)).ssh.order
            assert order is not None, f"{operation.kind} waits for no order"
            assert order.order == operation.id
            continue
        reasons = (
            operation.timers,
            operation.attention,
            vm is not None and _has_open_order(operation, vm),
            await _vms_leave(stage, operation, machines, everything),
            _vms_move(operation, machines, everything),
            any(
                other.open and other.cancel_requested and other.target == operation.target
                for other in everything.values()
                if other.id != operation.id
            ),
        )
        assert any(reasons), f"{operation.kind} waits for nothing: {operation}"
    for vm in machines.values():
        owner = everything.get(vm.operation or "")
        if vm.status not in SETTLED:
            assert owner is not None, f"{vm.status} without an operation"
            assert any(o.open for o in everything.values() if o.target_id == vm.id), (
                f"{vm.name} is {vm.status}, and no operation is open"
            )


async def _vms_leave(
    stage: Stage,
    maintenance: OperationState,
    machines: dict[str, VmState],
    everything: dict[str, OperationState],
) -> bool:
    """Tell whether a maintenance waits for what goes on with VMs, or for the next attempt."""
    if maintenance.kind != "host.maintenance":
        return False
    host = await stage.host(maintenance.target_id)
    there = [vm for vm in machines.values() if host.id in vm.may_run_on]
    targets = {f"vm/{vm.id}" for vm in there}
    if any(other.open and other.target in targets for other in everything.values()):
        return True
    return any(vm.leaving.since(host.maintenance.position) for vm in there)


def _vms_move(
    balance: OperationState, machines: dict[str, VmState], everything: dict[str, OperationState]
) -> bool:
    """Tell whether the operation of a plan waits for what goes on with VMs of its cluster."""
    if balance.kind != "cluster.balance":
        return False
    targets = {f"vm/{vm.id}" for vm in machines.values() if vm.cluster == balance.target_id}
    return any(other.open and other.target in targets for other in everything.values())


def _has_open_order(operation: OperationState, vm: VmState) -> bool:
    if any(entry.job.id.startswith(operation.id) for entry in vm.jobs):
        return True
    if vm.run is None:
        return False
    if _ended_by_job(vm) is not None:
        return True  # the host owes the word that the run is over
    if vm.migration is not None and vm.migration.id == operation.id:
        return True  # the destination is to run it, or to drop it
    if operation.incarnation not in {0, vm.run.incarnation}:
        return False
    starting = operation.kind == "vm.start" and vm.status not in SETTLED
    return vm.run.stopping or vm.run.withdrawn or starting


def rebuilt_claims(history: Sequence[Recorded]) -> dict[tuple[str, str], Holding]:
    """Return the table of claims as it follows from the events alone."""
    table = ClaimTable()
    for recorded in history:
        table.apply(plan(recorded.event.claims(recorded.stream)).effects)
    return table.rows()
