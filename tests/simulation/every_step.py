"""A kill at every step: each process dies at its first turn, its second, and so on to the last.

`python -m tests.simulation --every-step [--scene migrate] [--stride 1]`. A scene is a small script.
It is played once to count the turns that each process gets in it, and then again for each of those:
at that turn the process is gone, and a second later another takes its place. A turn is what runs
between two awaits, so that is every place where a process can die but within a call. At the end all
must have come to rest as `verdict` says, with the outcome that the scene asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

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
from tests.simulation.enrolment import simulated_steps
from tests.simulation.loop import Freezer, VirtualLoop
from tests.simulation.patches import replaced
from tests.simulation.process import Process
from tests.simulation.verdict import consumers, history, in_the_end, operations
from tests.simulation.world import World

SEED = 1
AWAY_S = 1.0
LIMIT_S = 600.0
QUIET_S = 3.0
REST_S = 240.0
MIB = 1024 * 1024
ENGINE, POLICIES = "engine", "policies"


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


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """Who dies, and at which of its turns; 0: at none."""

    victim: str
    turn: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one play: the turns of each process in it, and the promises that broke."""

    turns: dict[str, int]
    broken: tuple[str, ...]
    told: tuple[str, ...]


# ------------------------------------------------------------------ the scenes


async def _new_vm(world: World, **more: Any) -> str:
    return await world.do(
        CreateVm(name="vm", cluster=world.cluster, disks=(DiskInput(size_bytes=64 * MIB),), **more)
    )


async def _down(world: World) -> str:
    vm = await _new_vm(world)
    await _until(world, lambda: _status(world, vm) is VmStatus.DOWN, "the VM to be made")
    return vm


async def _up(world: World) -> str:
    vm = await _down(world)
    await world.do(StartVm(id=vm))
    await _until(world, lambda: _status(world, vm) is VmStatus.UP, "the VM to be up")
    return vm


async def _suspended(world: World) -> str:
    vm = await _up(world)
    await world.do(SuspendVm(id=vm))
    await _until(world, lambda: _status(world, vm) is VmStatus.SUSPENDED, "the VM to be suspended")
    return vm


async def highly_available(world: World) -> str:
    """Return a highly available VM that is up."""
    vm = await _new_vm(world, high_availability=HighAvailabilityInput(priority=50))
    await _until(world, lambda: _status(world, vm) is VmStatus.DOWN, "the VM to be made")
    await world.do(StartVm(id=vm))
    await _until(world, lambda: _status(world, vm) is VmStatus.UP, "the VM to be up")
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
        Scene(name="enrol", prepare=_nothing, act=_enrol, met=_enrolled, enrols=True),
        Scene(name="remove_host", prepare=_up, act=_empty_and_remove, met=_runs_elsewhere),
    )
}


# ------------------------------------------------------------------ playing them


def play(scene: Scene, death: Death) -> Outcome:
    """Play a scene once, with somebody dying in it."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False
    )
    shared_memory = Path("/dev/shm")
    parent = shared_memory if shared_memory.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="chronovisor-step-", dir=parent))
    loop = VirtualLoop()
    try:
        with contextlib.chdir(folder), replaced(SEED, loop.time), simulated_steps():
            return loop.run_until_complete(_play(scene, death))
    finally:
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)


async def _play(scene: Scene, death: Death) -> Outcome:
    world = World(SEED, Path())
    world.share_storage()
    world.enrols = scene.enrols
    if scene.fenced:
        world.give_boards()
    await world.open(scene.hosts)
    if world.boards is not None:
        for host in world.hosts.values():
            await world.boards.attach(host)
    for host in world.hosts.values():
        host.faults(HypervisorFaults(start_s=0.2, boot_s=0.2, save_s=0.2, migration_s=0.4))
    subject = await scene.prepare(world)
    await asyncio.sleep(QUIET_S)
    fuses = _Fuses(world, death)
    fuses.arm()
    await scene.act(world, subject)
    await _until(world, lambda: scene.met(world, subject), f"{scene.name}, without any mending")
    await _until_quiet(world)
    turns = fuses.count()
    await asyncio.sleep(AWAY_S + QUIET_S)
    await world.mend()
    await asyncio.sleep(REST_S)
    in_the_end(world)
    await consumers(world)
    if not scene.met(world, subject):
        states = [(vm.name, str(vm.status), vm.incarnation) for vm in world.vms().values()]
        world.break_promise(f"it did not come to what the scene is for: {states}")
    broken = (*world.broken, *(str(error) for error in world.loop_errors()))
    await world.close()
    return Outcome(turns=turns, broken=broken, told=tuple(world.told))


class _Fuses:
    """Counts the turns of every process from now on, and kills one at one of them."""

    def __init__(self, world: World, death: Death) -> None:
        self._world = world
        self._death = death
        self._counted: dict[str, list[Freezer]] = {}

    def arm(self) -> None:
        """Begin to count; whoever is to die has a fuse from now on."""
        for victim, process in self._processes().items():
            freezer = process.freezer
            assert freezer is not None
            freezer.turns = 0
            self._counted[victim] = [freezer]
            if victim == self._death.victim and self._death.turn:
                freezer.fuse = (self._death.turn, lambda victim=victim: self._dies(victim))

    def count(self) -> dict[str, int]:
        """Return how many turns each process got."""
        return {victim: sum(one.turns for one in ones) for victim, ones in self._counted.items()}

    def _processes(self) -> dict[str, Process]:
        world = self._world
        assert world.engine is not None
        agents = {host.name: host.process for host in world.hosts.values()}
        return {ENGINE: world.engine, POLICIES: world.policies[-1], **agents}

    def _dies(self, victim: str) -> None:
        world = self._world
        world.note(f"{victim} dies at its turn {self._death.turn}")
        if victim == ENGINE:
            world.kill_engine()
        elif victim == POLICIES:
            world.kill_policies()
        else:
            next(one for one in world.hosts.values() if one.name == victim).kill_agent()
        world.begin(self._is_replaced(victim))

    async def _is_replaced(self, victim: str) -> None:
        await asyncio.sleep(AWAY_S)
        world = self._world
        if victim == ENGINE:
            world.start_engine()
        elif victim == POLICIES:
            world.start_policies()
        else:
            host = next(one for one in world.hosts.values() if one.name == victim)
            if host.powered and not host.alive:
                host.boot()


async def _until(world: World, met: Callable[[], bool], what: str) -> None:
    began = world.loop.time()
    while not met():
        if world.loop.time() - began > LIMIT_S:
            world.break_promise(f"{what}: not after {LIMIT_S:g} s")
            return
        await asyncio.sleep(0.1)


async def _until_quiet(world: World) -> None:
    """Wait until no operation is open, and nothing has happened for a while."""
    began = since = world.loop.time()
    head = -1
    while world.loop.time() - since < QUIET_S:
        now = await world.log.head()
        if now != head or any(one.open for one in operations(history(world)).values()):
            head, since = now, world.loop.time()
        if world.loop.time() - began > LIMIT_S:
            return
        await asyncio.sleep(0.5)


def _vm(world: World, vm: str) -> VmState:
    return world.vms()[vm]


def _status(world: World, vm: str) -> VmStatus | None:
    state = world.vms().get(vm)
    return state.status if state is not None else None


# ------------------------------------------------------------------ all of it


def deaths(scene: Scene, stride: int = 1, offset: int = 0) -> Iterator[Death]:
    """Yield who dies at which turn: each `stride`-th of each process, from the one at `offset`."""
    turns = play(scene, Death(victim="", turn=0)).turns
    for victim, count in sorted(turns.items()):
        for turn in range(1 + offset % stride, count + 1, stride):
            yield Death(victim=victim, turn=turn)


def run(scenes: list[str], stride: int, say: Callable[[str], None]) -> int:
    """Play scenes with each death in them; return how many broke a promise."""
    failed = 0
    for name in scenes:
        scene = SCENES[name]
        whole = play(scene, Death(victim="", turn=0))
        turns = ", ".join(f"{victim} {count}" for victim, count in sorted(whole.turns.items()))
        say(f"{name}: turns of {turns}")
        played = 0
        for death in (Death(victim="", turn=0), *deaths(scene, stride)):
            outcome = play(scene, death)
            played += 1
            if outcome.broken:
                failed += 1
                say("\n".join(outcome.told))
                say(f"{name}, {death.victim} dies at its turn {death.turn}:")
                for text in outcome.broken:
                    say(f"  BROKEN: {text}")
        say(f"{name}: {played} plays")
    return failed
