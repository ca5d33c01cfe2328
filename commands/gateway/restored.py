"""After a restore: what hosts run is believed, and nothing that the log forgot is destroyed.

A restored log lacks what happened after its backup. So until a host has told all that it runs, it
gets no orders. What it then tells is one of these:

| the host runs                                 | what becomes of it                              |
|-----------------------------------------------|-------------------------------------------------|
| the run that the log knows                    | as ever                                         |
| an older one, which the log knows to be over  | as ever: a stale copy, destroyed                |
| a newer one, and the log knows of no other    | `vm.adopted`: it goes on there                  |
| that run, which the log has on another host   | `vm.adopted`: it has moved                      |
| a newer one, while another host runs the VM   | left alone, shown as not managed: for an admin  |
| a VM that the log does not know               | left alone, shown as not managed: for an admin  |
| what came so far of a newer one               | left alone: the host that sends it runs it      |
| half of the run, in a migration the log knows | `vm.migration_held`: it goes on by that         |
| half of the run, and nobody knows of the rest | `vm.migration_lost`: it is dropped, and down    |

Only one copy ran when the log was lost (contract D), so a newer run proves that every older one is
over; unless its host, having reported, says that it runs: then nobody but an admin can tell.
"""

from __future__ import annotations

from collections.abc import Iterable

from commands.kernel.command import Decision, on
from commands.kernel.fold import World
from commands.state import lookup, migrations
from commands.state.host import HOST, HostState
from commands.state.serial_input import serial_of
from commands.state.vm import VM, Run, VmState, VmStatus
from events.types.base import Event
from events.types.host import HostStateConfirmed
from events.types.migration import Held
from events.types.run_spec import RunSpec
from events.types.vm import DownReason, VmAdopted, VmDown
from events.wire.agent import FullStateItem, Report, VmStateItem
from events.wire.agent import VmState as Reported

_GOING = frozenset({VmStatus.REMOVING, VmStatus.REMOVED})


def adoption(world: World, host: HostState, state: VmState, item: VmStateItem) -> tuple[Event, ...]:
    """Return the events by which a run that the log does not know goes on; none if it may not."""
    if not _is_adoptable(world, host, state, item):
        return ()
    cluster = lookup.cluster(world, state.cluster)
    configuration = state.configuration
    adopted = VmAdopted(
        name=state.name,
        host=host.id,
        host_name=host.name,
        incarnation=item.incarnation,
        spec=RunSpec(
            vm=state.id,
            name=state.name,
            incarnation=item.incarnation,
            first_host=host.id,
            configuration=configuration,
            architecture=cluster.architecture,
            machine_type=cluster.machine_type,
            cpu_model=cluster.cpu_model,
            serial=serial_of(state, cluster, host),
        ),
        memory_host=state.memory.host if state.memory is not None else None,
        left_host=state.migration.destination if state.migration is not None else None,
        disks=bool(configuration.disks) and state.disks_host is None,
    )
    over = () if state.run is None else (_is_over(state, state.run),)
    return (*over, adopted)


def strays(world: World, host_id: str, items: Iterable[VmStateItem]) -> tuple[VmStateItem, ...]:
    """Return what a host runs and nobody may touch: the log does not know where it came from."""
    host = world.get(HOST, host_id)
    if host is None:
        return ()
    return tuple(item for item in items if _is_stray(world, host, item))


def tells_all(report: Report) -> bool:
    """Tell whether a report says all that is on its host."""
    return any(isinstance(item, FullStateItem) and item.known for item in report.items)


def missing(report: Report, expected: Iterable[VmState]) -> tuple[str, ...]:
    """Return the VMs that should be on a host, and that its report of all it runs leaves out."""
    mentioned = {
        state.vm
        for item in report.items
        if isinstance(item, FullStateItem)
        for state in item.vms
        if state.state is not Reported.ABSENT
    }
    return tuple(sorted(vm.id for vm in expected if vm.id not in mentioned))


def decide_confirmed(state: HostState, lost: tuple[str, ...]) -> Decision:
    """Record that a host has told all that it runs; from now on it gets orders."""
    if not state.unconfirmed:
        return Decision(id=state.id)
    confirmed = HostStateConfirmed(name=state.name, reported=True, missing=lost)
    return Decision(id=state.id, events=on(HOST.stream(state.id), confirmed))


def _is_adoptable(world: World, host: HostState, state: VmState, item: VmStateItem) -> bool:
    # What this log gives out itself is numbered from `incarnations_from` on: only what lies between
    # was lost, and a state that is merely not the newest is never taken for a restored one.
    lost = state.incarnation < item.incarnation < host.incarnations_from
    there = lost and item.state is not Reported.ABSENT and not _comes_in(item)
    if not (there or _has_moved(host, state, item)) or state.status in _GOING:
        return False
    run = state.run
    if run is None or not run.started:
        return True
    where = world.get(HOST, run.host)
    if where is None or where.unconfirmed or where.removed:
        return True
    return state.id in where.missing and run.position <= where.restored


def _comes_in(item: VmStateItem) -> bool:
    """Tell whether a host has only what came so far of a VM that another host still runs."""
    return item.state is Reported.STARTING and item.held is Held.SWITCH_OVER


def _has_moved(host: HostState, state: VmState, item: VmStateItem) -> bool:
    """Tell whether the newest run that the log knows goes on here, and the log has it elsewhere.

    It was migrated, then, in what the log has lost; only what runs counts, not what is held.
    """
    run, known = state.run, state.incarnation == item.incarnation
    if not (host.unconfirmed and known and item.state is Reported.RUNNING):
        return False
    elsewhere = run is None or run.host != host.id
    return elsewhere and migrations.moving(state, host.id, item.incarnation) is None


def _is_stray(world: World, host: HostState, item: VmStateItem) -> bool:
    if item.state is Reported.ABSENT:
        return False
    state = world.get(VM, item.vm)
    if state is None:
        return True
    run = state.run
    if run is not None and (run.host, run.incarnation) == (host.id, item.incarnation):
        return False
    return state.never_ordered(item.incarnation) and not _is_adoptable(world, host, state, item)


def _is_over(state: VmState, run: Run) -> VmDown:
    return VmDown(
        name=state.name,
        host=run.host,
        host_name=run.host_name,
        incarnation=run.incarnation,
        reason=DownReason.ADMIN if run.started else DownReason.WITHDRAWN,
        detail="It ended in what the restored log has lost: a newer run is known.",
        restored=run.restores,
    )
