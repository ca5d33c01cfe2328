"""The scenes in which somebody dies: small scripts, with what must come of them whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from commands.host.add import AddHost
from commands.host.maintenance import MaintainHost
from commands.host.remove import RemoveHost
from commands.kernel.refusal import Refusal
from commands.state.availability_input import HighAvailabilityInput
from commands.state.host import HostStatus
from commands.state.vm import VmState, VmStatus
from commands.vm.create import CreateVm, DiskInput
from commands.vm.migrate import MigrateVm
from commands.vm.remove import RemoveVm
from commands.vm.resume import ResumeVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from commands.vm.suspend import SuspendVm
from hostagent.simulated_state import Faults as HypervisorFaults
from hostagent.simulated_state import MigrationFault
from tests.simulation.verdict import history, operations
from tests.simulation.world import World

LIMIT_S = 600.0
AWAY_S = 10.0
NOTICE_S = 12.0
MIB = 1024 * 1024
FAULTS = HypervisorFaults(start_s=0.2, boot_s=0.2, save_s=0.2, migration_s=0.4)
"""What things take while a scene is played."""


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """A script: what there is before, what is then done, and what must come of it.

    `prepare` returns the id of the VM or host that it is about. `act` is done while processes die;
    `met` tells that all is as it should be, whoever died.
    """

    name: str
    prepare: Callable[[World], Awaitable[str]]
    act: Callable[[World, str], Awaitable[None]]
    met: Callable[[World, str], bool]
    hosts: int = 2
    fenced: bool = False
    enrols: bool = False


async def until(world: World, met: Callable[[], bool], what: str) -> None:
    began = world.loop.time()
    while not met():
        if world.loop.time() - began > LIMIT_S:
            world.break_promise(f"{what}: not after {LIMIT_S:g} s")
            return
        await asyncio.sleep(0.1)


async def _new_vm(world: World, **more: Any) -> str:
    return await world.do(
        CreateVm(name="vm", cluster=world.cluster, disks=(DiskInput(size_bytes=64 * MIB),), **more)
    )


async def _down(world: World) -> str:
    vm = await _new_vm(world)
    await until(world, lambda: _status(world, vm) is VmStatus.DOWN, "the VM to be made")
    return vm


async def _up(world: World) -> str:
    vm = await _down(world)
    await world.do(StartVm(id=vm))
    await until(world, lambda: _status(world, vm) is VmStatus.UP, "the VM to be up")
    return vm


async def _suspended(world: World) -> str:
    vm = await _up(world)
    await world.do(SuspendVm(id=vm))
    await until(world, lambda: _status(world, vm) is VmStatus.SUSPENDED, "the VM to be suspended")
    return vm


async def highly_available(world: World) -> str:
    """Return a highly available VM that is up."""
    vm = await _new_vm(world, high_availability=HighAvailabilityInput(priority=50))
    await until(world, lambda: _status(world, vm) is VmStatus.DOWN, "the VM to be made")
    await world.do(StartVm(id=vm))
    await until(world, lambda: _status(world, vm) is VmStatus.UP, "the VM to be up")
    return vm


async def _nothing(world: World) -> str:
    del world
    return ""


async def _create(world: World, _nothing: str) -> None:
    await _new_vm(world)


async def _move(world: World, vm: str) -> None:
    run = _vm(world, vm).run
    assert run is not None
    other = next(host for host in sorted(world.hosts) if host != run.host)
    await world.do(MigrateVm(id=vm, host=other))


async def _part(world: World, vm: str) -> None:
    """Have a migration break off in post-copy, and the source lose its power then.

    An agent that dies may have the VM stay where it is; then nothing is lost.
    """
    run = _vm(world, vm).run
    assert run is not None
    source = world.hosts[run.host]
    source.faults(msgspec.structs.replace(FAULTS, migration_fault=MigrationFault.BREAK))
    await _move(world, vm)
    for _look in range(int(LIMIT_S)):
        state = _vm(world, vm)
        if state.status is not VmStatus.MIGRATING:
            return
        if state.migration is not None and state.migration.held is not None:
            source.lose_power()
            return
        await asyncio.sleep(0.1)


def _parted(backup: str) -> Callable[[World, str], Awaitable[None]]:
    """Return an act: a migration breaks off in post-copy, and then a backup is restored that was
    taken right before the first event of a name; "": right before the restore.

    The lines between the hosts are mended after that.
    """

    async def act(world: World, vm: str) -> None:
        run = _vm(world, vm).run
        assert run is not None
        source = world.hosts[run.host]
        source.faults(msgspec.structs.replace(FAULTS, migration_fault=MigrationFault.BREAK))
        await _move(world, vm)
        await until(world, lambda: _held(world, vm), "the migration to break off")
        await world.restore(_before(world, backup))
        world.start_engines()
        world.start_policies()
        await asyncio.sleep(AWAY_S)
        source.faults(FAULTS)

    return act


async def _part_unnoticed(world: World, vm: str) -> None:
    """Have a migration break off in post-copy, and the source be there again from another boot
    before the destination's hypervisor notices that the line broke.
    """
    run = _vm(world, vm).run
    assert run is not None
    source = world.hosts[run.host]
    source.faults(
        msgspec.structs.replace(FAULTS, migration_fault=MigrationFault.BREAK, notice_s=NOTICE_S)
    )
    await _move(world, vm)

    def parted() -> bool:
        halves = [host for host in world.hosts.values() if host.halves()]
        return len(halves) == 2 or _vm(world, vm).status is not VmStatus.MIGRATING

    await until(world, parted, "the migration to break off")
    if source.halves():
        source.lose_power()
        source.boot()


def _held(world: World, vm: str) -> bool:
    """Tell whether the VM is in halves by the log, or is not on its way any more."""
    state = _vm(world, vm)
    held = state.migration is not None and state.migration.held is not None
    return held or state.status is not VmStatus.MIGRATING


def _before(world: World, name: str) -> int:
    """Return the position before the command of which came the first event of a name."""
    events = world.log._events
    found = next((one for one in events if one.name == name), None)
    commands = [one.command for one in events]
    return len(events) if found is None else commands.index(found.command)


def _is_up_and_whole(world: World, vm: str) -> bool:
    """Tell whether it runs, and no half of it is left anywhere."""
    halves = [key for host in world.hosts.values() for key in host.halves()]
    return _status(world, vm) is VmStatus.UP and not halves


def _is_whole(world: World, vm: str) -> bool:
    """Tell whether it runs: as another incarnation, if its source has lost half of it."""
    lost = any(one.name == "vm.migration_lost" for one in history(world))
    off = any(not host.powered for host in world.hosts.values())
    incarnation = 2 if lost or off else 1
    state = _vm(world, vm)
    return state.status is VmStatus.UP and state.incarnation >= incarnation


async def _lose_its_host(world: World, vm: str) -> None:
    """Cut the VM's host off from everything; it runs on, until its board turns it off."""
    run = _vm(world, vm).run
    assert run is not None
    host = world.hosts[run.host]
    host.partitioned = host.isolated = True
    world.network.break_lines(host.id)
    world.network.cut.add(host.id)


async def _empty_and_remove(world: World, vm: str) -> None:
    """Evacuate the VM's host, and remove it from the cluster."""
    run = _vm(world, vm).run
    assert run is not None
    await world.do(MaintainHost(id=run.host, reason="it goes"))
    for _attempt in range(int(LIMIT_S)):
        with contextlib.suppress(Refusal):
            await world.do(RemoveHost(id=run.host))
            return
        await asyncio.sleep(1.0)


async def _enrol(world: World, _nothing: str) -> None:
    await world.do(AddHost(name="host3", cluster=world.cluster, address="192.0.2.3"))


def _enrolled(world: World, _nothing: str) -> bool:
    """Tell whether the new host is up, and its installation has ended well."""
    ended = [one for one in operations(history(world)).values() if one.kind == "host.install"]
    if world.engine is None:
        return False
    up = [host for host in world.engine.view.hosts.values() if host.status is HostStatus.UP]
    return [str(one.outcome) for one in ended] == ["succeeded"] and len(up) == len(world.hosts) == 3


def _does(command: Callable[[str], Any]) -> Callable[[World, str], Awaitable[None]]:
    async def act(world: World, vm: str) -> None:
        await world.do(command(vm))

    return act


def _is(*statuses: VmStatus) -> Callable[[World, str], bool]:
    return lambda world, vm: _status(world, vm) in statuses


def _made(world: World, _nothing: str) -> bool:
    return [vm.status for vm in world.vms().values()] == [VmStatus.DOWN]


def _resumed(world: World, vm: str) -> bool:
    """Tell whether it is up; or down, where the agent died in the midst of restoring its memory.

    The simulated hypervisor dies with it, and whether the guest ran for a moment is not known: its
    memory must never be restored again (contract D), and the operation says what happened.
    """
    if _status(world, vm) is VmStatus.UP:
        return True
    starts = [one for one in operations(history(world)).values() if one.kind == "vm.start"]
    interrupted = "interrupted on the host" in starts[-1].reason
    return _status(world, vm) is VmStatus.DOWN and interrupted


def _runs_elsewhere(world: World, vm: str) -> bool:
    state = _vm(world, vm)
    return state.status is VmStatus.UP and state.run is not None and state.run.host != _first(state)


def _restarted(world: World, vm: str) -> bool:
    """It runs, as another incarnation; its host was turned off once, and is on again."""
    assert world.boards is not None
    again = _status(world, vm) is VmStatus.UP and _vm(world, vm).incarnation > 1
    return again and len(world.boards.turned_off) == 1


def _first(state: VmState) -> str:
    assert state.run is not None
    return state.run.spec.first_host


SCENES = {
    scene.name: scene
    for scene in (
        Scene(name="create", prepare=_nothing, act=_create, met=_made),
        Scene(
            name="start",
            prepare=_down,
            act=_does(lambda vm: StartVm(id=vm)),
            met=_is(VmStatus.UP),
        ),
        Scene(
            name="stop", prepare=_up, act=_does(lambda vm: StopVm(id=vm)), met=_is(VmStatus.DOWN)
        ),
        Scene(
            name="suspend",
            prepare=_up,
            act=_does(lambda vm: SuspendVm(id=vm)),
            met=_is(VmStatus.SUSPENDED),
        ),
        Scene(
            name="resume",
            prepare=_suspended,
            act=_does(lambda vm: ResumeVm(id=vm)),
            met=_resumed,
        ),
        # An agent that dies while it sends or takes in may have the VM stay where it is.
        Scene(name="migrate", prepare=_up, act=_move, met=_is(VmStatus.UP)),
        Scene(
            name="remove",
            prepare=_down,
            act=_does(lambda vm: RemoveVm(id=vm)),
            met=_is(VmStatus.REMOVED),
        ),
        Scene(
            name="fence",
            prepare=highly_available,
            act=_lose_its_host,
            met=_restarted,
            hosts=3,
            fenced=True,
        ),
        Scene(
            name="halves",
            prepare=highly_available,
            act=_part,
            met=_is_whole,
            hosts=3,
            fenced=True,
        ),
        Scene(
            name="unnoticed_halves",
            prepare=highly_available,
            act=_part_unnoticed,
            met=_is_up_and_whole,
            hosts=3,
        ),
        # What a backup that is restored then may know: all; the migration; the run; the VM alone.
        *(
            Scene(
                name=name,
                prepare=highly_available,
                act=_parted(backup),
                met=_is_up_and_whole,
                hosts=3,
            )
            for name, backup in (
                ("restored_halves", ""),
                ("restored_migration", "vm.migration_held"),
                ("restored_run", "vm.migration_requested"),
                ("restored_vm", "vm.start_requested"),
            )
        ),
        Scene(name="enrol", prepare=_nothing, act=_enrol, met=_enrolled, enrols=True),
        Scene(name="remove_host", prepare=_up, act=_empty_and_remove, met=_runs_elsewhere),
    )
}


def _vm(world: World, vm: str) -> VmState:
    return world.vms()[vm]


def _status(world: World, vm: str) -> VmStatus | None:
    state = world.vms().get(vm)
    return state.status if state is not None else None
