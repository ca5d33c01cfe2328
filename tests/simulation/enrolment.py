"""Machines that are enrolled over SSH: the real book and work of an order, on simulated machines.

It runs in the engine's process, and dies with it; another engine's takes the order over. Steps do
nothing but take their time, except for those that make the machine a host: it joins, its agent
starts, and it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING
from unittest import mock

from commands.kernel.handler import Handler
from commands.remote import work as work_module
from commands.remote.book import Book, SupersededError
from commands.remote.steps import Plan, Site, Step
from commands.remote.work import Work
from commands.state.ssh_work import INSTALL_STEPS
from events.types.host_ssh import SshTask

if TYPE_CHECKING:
    from tests.simulation.engine import EngineProcess
    from tests.simulation.world import World

LOOK_S = 0.5
STEP_S = 0.05


class Machine(Site):
    """A machine that is logged in to."""

    def __init__(self, world: World, engine: EngineProcess, host: str) -> None:
        self._world = world
        self._engine = engine
        self.host = host
        self.greeting = "Logged in."

    async def forget(self) -> None:
        """See `Site.forget`."""

    async def do(self, step: str) -> str:
        """Take one step; each may be taken again."""
        await asyncio.sleep(STEP_S)
        if step == "join":
            await self._world.join_once(self.host)
        elif step == "start":
            machine = self._world.machine_of(self.host)
            if not machine.alive:
                machine.boot()
        elif step == "answer":
            while self._engine.view.hosts[self.host].session is None:
                await asyncio.sleep(STEP_S)
        return f"It did {step}."


class Worker:
    """Carries out what is ordered over SSH, as long as its engine lives."""

    def __init__(self, world: World, engine: EngineProcess, name: str) -> None:
        self._world = world
        self._engine = engine
        self._name = name
        self._taken: set[str] = set()

    async def run(self) -> None:
        """Look for orders for ever."""
        while True:
            for host in list(self._engine.view.hosts.values()):
                order = host.ssh.order
                if order is not None and order.order not in self._taken:
                    self._taken.add(order.order)
                    self._engine.begin(self._carry_out(host.id, order.order))
            await asyncio.sleep(LOOK_S)

    async def _carry_out(self, host: str, order: str) -> None:
        world = self._world
        source = world.sources.source_for("ssh")
        book = Book(Handler(world.log), source, lambda _token: "d", host, order, self._name)

        @contextlib.asynccontextmanager
        async def open_site() -> AsyncIterator[Site]:
            yield Machine(world, self._engine, host)

        with contextlib.suppress(SupersededError):
            await book.begin()
            state = await book.state()
            assert state.ssh.order is not None
            await Work(book, state, state.ssh.order, open_site, retry_s=STEP_S).run()


def _step(name: str) -> Step:
    async def do(site: Site) -> str:
        assert isinstance(site, Machine)
        return await site.do(name)

    return Step(name=name, begins="", do=do)


@contextlib.contextmanager
def simulated_steps() -> Iterator[None]:
    """Have the steps of an installation be those of simulated machines."""
    plan = Plan(undoes=True, steps=tuple(_step(name) for name in INSTALL_STEPS))
    with mock.patch.object(work_module, "PLANS", {SshTask.INSTALL: plan}):
        yield
