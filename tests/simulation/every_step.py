"""A kill at every step: each process dies at its first turn, its second, and so on to the last.

`python -m tests.simulation --every-step [--scene migrate] [--stride 1] [--every-turn]`. A scene is
played once undisturbed, to see which turns each process gets in it, and then again for each of
those that finds something new: at that turn the process is gone, and a second later another takes
its place. A turn is what runs between two awaits, so that is every place where a process can die
but within a call. At the end all must have come to rest as `verdict` says, with the outcome that
the scene asks for.

A turn finds something new unless, at an earlier one of the same process, the log was as long, what
the process has on its machine (an agent's journal, its domains) was the same, and each of its tasks
stood at the same line. What died there left the same behind, seconds earlier: waiting processes
look around again and again. `--every-turn` plays those as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import msgspec

from tests.simulation.enrolment import simulated_steps
from tests.simulation.loop import Freezer
from tests.simulation.machine import SimulatedHost
from tests.simulation.play import play
from tests.simulation.process import Process
from tests.simulation.scenes import FAULTS, LIMIT_S, SCENES, Scene, until
from tests.simulation.verdict import consumers, history, in_the_end, operations
from tests.simulation.world import World

SEED = 1
AWAY_S = 1.0
QUIET_S = 3.0
REST_S = 240.0
ENGINE, POLICIES = "engine", "policies"


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """Who dies, and at which of its turns; 0: at none."""

    victim: str = ""
    turn: int = 0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one play: the turns of each process in it, those that found something new, and
    the promises that broke.
    """

    turns: dict[str, int]
    new: dict[str, list[int]]
    broken: tuple[str, ...]
    told: tuple[str, ...]


# ------------------------------------------------------------------ playing them


def play_scene(scene: Scene, death: Death) -> Outcome:
    """Play a scene once, with somebody dying in it."""
    return play(SEED, lambda world: _play(world, scene, death), simulated_steps())


async def _play(world: World, scene: Scene, death: Death) -> Outcome:
    world.share_storage()
    world.enrols = scene.enrols
    if scene.fenced:
        world.give_boards()
    await world.open(scene.hosts)
    if world.boards is not None:
        for host in world.hosts.values():
            await world.boards.attach(host)
    for host in world.hosts.values():
        host.faults(FAULTS)
    subject = await scene.prepare(world)
    await asyncio.sleep(QUIET_S)
    fuses = _Fuses(world, death)
    fuses.arm()
    await scene.act(world, subject)
    await until(world, lambda: scene.met(world, subject), f"{scene.name}, without any mending")
    await _until_quiet(world)
    fuses.disarm()
    await asyncio.sleep(AWAY_S + QUIET_S)
    await world.mend()
    await asyncio.sleep(REST_S)
    in_the_end(world)
    await consumers(world)
    if not scene.met(world, subject):
        states = [(vm.name, str(vm.status), vm.incarnation) for vm in world.vms().values()]
        world.break_promise(f"it did not come to what the scene is for: {states}")
    return Outcome(
        turns={victim: process.turns for victim, process in fuses.counted.items()},
        new=fuses.new,
        broken=(*world.broken, *world.loop_errors()),
        told=tuple(world.told),
    )


class _Fuses:
    """Counts the turns of every process from now on, and kills one at one of them.

    The agent of a host that comes to be meanwhile counts from its first boot on.
    """

    def __init__(self, world: World, death: Death) -> None:
        self._world = world
        self._death = death
        self._seen: dict[str, set[object]] = {}
        self.counted: dict[str, Freezer] = {}
        self.new: dict[str, list[int]] = {}

    def arm(self) -> None:
        """Begin to count; whoever is to die has a fuse from now on."""
        for victim, process in self._processes().items():
            self._take_up(victim, process)
        self._world.on_boot = self._booted

    def disarm(self) -> None:
        """End counting."""
        self._world.on_boot = lambda _host: None
        for freezer in self.counted.values():
            freezer.fuse = freezer.watch = None

    def _booted(self, host: SimulatedHost) -> None:
        if host.name not in self.counted:
            self._take_up(host.name, host.process)

    def _take_up(self, victim: str, process: Process) -> None:
        freezer = process.freezer
        assert freezer is not None
        freezer.turns = 0
        self.counted[victim] = freezer
        if not self._death.turn:
            self._seen[victim], self.new[victim] = set(), []
            freezer.watch = lambda: self._look(victim)
        elif victim == self._death.victim:
            freezer.fuse = (self._death.turn, lambda: self._dies(victim))

    def _look(self, victim: str) -> None:
        """Take note of a turn that finds something new."""
        freezer, world = self.counted[victim], self._world
        agents = (host for host in world.hosts.values() if host.name == victim)
        left = tuple(host.shown() for host in agents)
        found = (len(world.log._events), left, freezer.standing())
        if found not in self._seen[victim]:
            self._seen[victim].add(found)
            self.new[victim].append(freezer.turns)

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


# ------------------------------------------------------------------ all of it


def deaths(whole: Outcome, stride: int, *, every_turn: bool = False) -> Iterator[Death]:
    """Yield who dies at which turn of the undisturbed play: each `stride`-th of each process."""
    for victim, count in sorted(whole.turns.items()):
        turns = range(1, count + 1) if every_turn else whole.new[victim]
        for turn in turns[::stride]:
            yield Death(victim=victim, turn=turn)


def run(
    scenes: list[str], stride: int, say: Callable[[str], None], *, every_turn: bool = False
) -> int:
    """Play scenes with each death in them; return how many broke a promise."""
    failed = 0
    for name in scenes:
        scene = SCENES[name]
        whole = play_scene(scene, Death())
        turns = ", ".join(
            f"{victim} {count} ({len(whole.new[victim])} new)"
            for victim, count in sorted(whole.turns.items())
        )
        say(f"{name}: turns of {turns}")
        played = 0
        for death in (Death(), *deaths(whole, stride, every_turn=every_turn)):
            outcome = play_scene(scene, death) if death.turn else whole
            played += 1
            if outcome.broken:
                failed += 1
                say("\n".join(outcome.told))
                say(f"{name}, {death.victim} dies at its turn {death.turn}:")
                for text in outcome.broken:
                    say(f"  BROKEN: {text}")
        say(f"{name}: {played} plays")
    return failed
