"""What must hold: while hosts are still away, and once everything is mended."""

from __future__ import annotations

import traceback
from collections import Counter

from commands.gateway.view import GatewayView
from commands.kernel.snapshots import StoredFold
from commands.policies.facts import Facts
from commands.policies.host_fence import KIND as FENCING
from commands.scheduler.fleet import share_of
from commands.scheduler.layout import UNKNOWN_CPU
from commands.state.host import HostStatus
from commands.state.operation import OPERATION, OperationState
from commands.state.strays import runs_stray, stray_name
from commands.state.vm import VM, VmState, VmStatus
from commands.state.vm_availability import RESTART_KINDS
from events.codec import CODEC
from events.envelope import Recorded
from events.log.claims import ClaimTable, plan
from events.types.host import HostSessionStarted, HostUnmanagedDomainsFound
from events.types.vm import VmPlaced
from events.types.vm_copies import VmStaleCopyFound
from events.types.vm_migration import VmMigrationStarted
from tests.simulation.projection import differences, rebuilt
from tests.simulation.world import World

RUNNING = frozenset({VmStatus.UP, VmStatus.PAUSED})
RESTING = frozenset(
    {VmStatus.DOWN, VmStatus.SUSPENDED, VmStatus.IMAGE_ILLEGAL, VmStatus.REMOVED, *RUNNING}
)
_IN_THE_END = frozenset(
    {
        HostStatus.UP,
        HostStatus.MAINTENANCE,
        HostStatus.PREPARING_FOR_MAINTENANCE,
        HostStatus.REMOVED,
    }
)
WAITS_FOR_PEOPLE = frozenset({"host.maintenance"})


def history(world: World) -> list[Recorded]:
    """Return the whole log."""
    return [CODEC.decode(stored) for stored in world.log._events]


def operations(recorded: list[Recorded]) -> dict[str, OperationState]:
    """Return every operation there ever was."""
    states: dict[str, OperationState] = {}
    for one in recorded:
        if one.kind == "operation":
            after = OPERATION.evolve(states.get(one.object_id), one)
            if after is not None:
                states[one.object_id] = after
    return states


def while_hosts_are_away(world: World) -> None:
    """Check that every operation that waits for a host which is off says so."""
    away = {host.id for host in world.hosts.values() if host.away}
    vms = world.vms()
    for operation in operations(history(world)).values():
        if not operation.open:
            continue
        vm = vms.get(operation.target_id)
        hosts = _waits_for(operation, vm) if vm is not None else set()
        if hosts & away and not operation.attention and not operation.timers:
            assert world.engine is not None
            states = [world.engine.view.hosts[key] for key in sorted(hosts & away)]
            said = [(s.name, s.status, s.duty, s.silent, s.session is not None) for s in states]
            world.break_promise(f"{operation.kind} waits without a word for {said}")


def _waits_for(operation: OperationState, vm: VmState) -> set[str]:
    hosts = {entry.host for entry in vm.jobs if entry.job.id.startswith(operation.id)}
    if vm.run is not None:
        hosts.add(vm.run.host)
    return hosts


def in_the_end(world: World) -> None:
    """Check that everything came to rest, and that log, claims, folds and hosts agree."""
    world.look_at_proofs()
    world.client.check()
    recorded = history(world)
    _claims(world, recorded)
    _operations(world, recorded)
    _machines(world, recorded)
    _doubles(world, recorded)
    _reports(world, recorded)
    _own_cpus(world, recorded)
    _folds(world, recorded)
    consumers = world.consumers.all if world.consumers is not None else ()
    for process in (world, *world.listening(), world.projection, *world.policies, *consumers):
        if process.failure is not None:
            world.note("".join(traceback.format_exception(process.failure)))
            world.break_promise(f"a process failed: {process.failure!r}")
    for host in world.hosts.values():
        for failure in host.failures:
            world.break_promise(f"the agent of {host.name} failed: {failure!r}")


async def consumers(world: World) -> None:
    """Check that what was consumed batch by batch, over deaths, is what a build in one go makes."""
    for words in differences(world.projection.store, await rebuilt(world.log)):
        world.break_promise(f"the inventory differs from one that is built anew: {words}")
    if world.projection.store.cursor.position != await world.log.head():
        world.break_promise("the inventory did not come to the log's end")
    if world.consumers is not None:
        world.consumers.check()


def _doubles(world: World, recorded: list[Recorded]) -> None:
    """Check that whatever ran twice, because somebody vouched falsely, was found and shown."""
    found = {
        (one.object_id, one.event.incarnation, one.event.host)
        for one in recorded
        if isinstance(one.event, VmStaleCopyFound)
    }
    shown = {
        (one.object_id, domain)
        for one in recorded
        if isinstance(one.event, HostUnmanagedDomainsFound)
        for domain in one.event.domains
    }
    for vm, incarnation, host in sorted(world.copies.doubled.keys() - found - world.copies.gone):
        # What a restored log has forgotten is shown as not managed.
        if (host, stray_name(vm, incarnation)) not in shown or not world.restores:
            copy = (vm, incarnation, host)
            world.break_promise(f"{copy} ran beside another and nobody was told")


def _own_cpus(world: World, recorded: list[Recorded]) -> None:
    """Check that at no time a CPU was two VMs' own, on any host where they might run."""
    vms: dict[str, VmState] = {}
    for one in recorded:
        after = VM.evolve(vms.get(one.object_id), one) if one.kind == "vm" else None
        if after is None:
            continue
        vms[one.object_id] = after
        if not isinstance(one.event, VmPlaced | VmMigrationStarted):
            continue
        for host in after.may_run_on:
            owners = Counter(
                cpu
                for vm in vms.values()
                # What may be left of a removed VM came in by a migration, and never runs.
                if host in vm.may_run_on and vm.status is not VmStatus.REMOVED
                for cpu in share_of(vm, host).special.dedicated
                if cpu != UNKNOWN_CPU
            )
            if any(count > 1 for count in owners.values()):
                world.break_promise(f"at {one.position} VMs have the same CPUs of {host}: {owners}")


def _reports(world: World, recorded: list[Recorded]) -> None:
    """Check that each host's reports were taken in as it sent them, by whatever engine."""
    sessions = {
        one.event.session: one.position
        for one in recorded
        if isinstance(one.event, HostSessionStarted)
    }
    taken: dict[str, list[tuple[int, tuple[int, int]]]] = {}
    for (principal, key), answer in world.log._answers.items():
        session, _, rest = key.partition(":")
        if session in sessions:
            told = (sessions[session], int(rest.partition(":")[0]))
            taken.setdefault(principal, []).append((answer.first, told))
    for principal, reports in sorted(taken.items()):
        latest = (0, 0)
        for position, told in sorted(reports):
            if told < latest:
                world.break_promise(
                    f"at {position} report {told} of {principal} was taken in after {latest}"
                )
            latest = max(latest, told)


def _claims(world: World, recorded: list[Recorded]) -> None:
    table = ClaimTable()
    for one in recorded:
        table.apply(plan(one.event.claims(one.stream)).effects)
    if table.rows() != world.log.claims():
        world.break_promise("the claims do not follow from the events")


def _operations(world: World, recorded: list[Recorded]) -> None:
    states = operations(recorded)
    for key in world.accepted:
        operation = states.get(key)
        if operation is None:
            world.break_promise(f"operation {key} was accepted and is not there")
        elif operation.open and not _waits_for_people(world, operation):
            world.break_promise(f"{operation.kind} of {operation.name} never ended: {operation}")
        elif operation.open and not operation.attention:
            world.break_promise(f"{operation.kind} waits without a word")
    for operation in states.values():
        if operation.open and operation.kind == FENCING:
            world.break_promise(f"the fencing of {operation.name} never ended: {operation}")
    for key, host in sorted(world.engine.view.hosts.items()) if world.engine else ():
        if host.status not in _IN_THE_END:
            world.break_promise(f"host {world.hosts[key].name} is {host.status} in the end")
    duplicates = [one.name for one in recorded if one.name == "host.duplicate_refused"]
    if duplicates:
        world.break_promise("a host was taken for a clone")


def _waits_for_people(world: World, operation: OperationState) -> bool:
    return operation.kind in WAITS_FOR_PEOPLE or _is_withheld(world, operation)


def _is_withheld(world: World, operation: OperationState) -> bool:
    """Tell whether a VM's removal waits, and says so, for a copy that a restored log has forgotten.

    Its files are not taken from under it, and only people can end it.
    """
    hosts = world.engine.view.hosts.values() if world.engine is not None else ()
    return operation.kind == "vm.remove" and any(
        f"Host {host.name} runs the VM" in (operation.attention or "")
        for host in hosts
        if runs_stray(host, operation.target_id)
    )


def _waiting(world: World, recorded: list[Recorded]) -> set[str]:
    """Return the VMs that wait to be started again or removed, and may: it is shown for what.

    Who waits for its time only is started again some time; but for one whose files were removed in
    what a restored log has forgotten: that is tried again and again, which each attempt tells.
    """
    states = operations(recorded).values()
    withheld = {one.target_id for one in states if one.open and _is_withheld(world, one)}
    restarts = [one for one in states if one.kind in RESTART_KINDS.values()]
    waiting = [one for one in restarts if one.open]
    gone = {one.target_id for one in restarts if not one.open and "does not exist" in one.reason}
    forgotten = gone if world.restores else set()
    shown = {one.target_id for one in waiting if one.attention or one.target_id in forgotten}
    return shown | withheld


def _machines(world: World, recorded: list[Recorded]) -> None:
    waiting = _waiting(world, recorded)
    actual = {key: host.id for host in world.hosts.values() for key in sorted(host.running())}
    for vm in world.vms().values():
        if vm.status not in RESTING and vm.id not in waiting:
            world.break_promise(f"{vm.name} never comes to rest: {vm.status}")
        run = vm.run
        if (run is not None) != (vm.status in RUNNING):
            world.break_promise(f"{vm.name} is {vm.status} with run {run}")
        if vm.may_run_on != ((run.host,) if run is not None else ()):
            world.break_promise(f"{vm.name} may run on {vm.may_run_on}, its run is {run}")
        if run is not None and actual.pop((vm.id, run.incarnation), None) != run.host:
            world.break_promise(f"{vm.name} is {vm.status}, but its host does not run it")
        if vm.stale_copies or (vm.jobs and vm.status is not VmStatus.REMOVING):
            world.break_promise(f"{vm.name} is left with {vm.stale_copies} and {vm.jobs}")
    for (vm_id, incarnation), host_id in sorted(actual.items()):
        if not _is_shown(world, host_id, stray_name(vm_id, incarnation)):
            name = world.hosts[host_id].name
            world.break_promise(f"{name} runs {vm_id} ({incarnation}), and nobody knows")
    for host in world.hosts.values():
        for vm_id, incarnation in host.halves():
            if not _is_shown(world, host.id, stray_name(vm_id, incarnation)):
                world.break_promise(f"{host.name} is left with half of {vm_id} ({incarnation})")


def _is_shown(world: World, host_id: str, stray: str) -> bool:
    """Tell whether a host shows a copy that a restored log has forgotten, as not managed."""
    if world.engine is None or not world.restores:
        return False
    return stray in world.engine.view.hosts[host_id].unmanaged


def _folds(world: World, recorded: list[Recorded]) -> None:
    view, facts = GatewayView(), Facts()
    for one in recorded:
        view.take(one)
        facts.take(one)
    for engine in world.listening():
        for host in sorted(world.hosts):
            if engine.view.intent(host).vms != view.intent(host).vms:
                world.break_promise("the gateway's view differs from a fresh fold of the log")
        _tables(world, "gateway's view", engine.view, view)
    (policies,) = [p for p in world.policies if p.tasks]
    live = policies.runner._facts
    if (live.vms, live.hosts, live.operations) != (facts.vms, facts.hosts, facts.operations):
        world.break_promise("the policies' facts differ from a fresh fold of the log")
    _tables(world, "policies' facts", live, facts)
    if live._fleet._candidates != facts._fleet._candidates:
        world.break_promise("the policies count another memory than the log says")


def _tables(world: World, whose: str, live: StoredFold, fresh: StoredFold) -> None:
    """Check that a fold, begun from whatever snapshot, has what one from the beginning has."""
    expected = fresh.tables()
    for name, states in live.tables().items():
        if states != expected[name]:
            world.break_promise(f"the {whose} differ in '{name}' from a fresh fold of the log")
