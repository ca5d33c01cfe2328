"""Processes of the simulation: bundles of tasks that are killed, frozen and woken as one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from tests.simulation.loop import Freezer, start_in


class Process:
    """A bundle of tasks that die together, in the midst of whatever they do."""

    def __init__(self, freezer: Freezer | None = None) -> None:
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.failure: BaseException | None = None
        self.freezer = freezer

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in this process."""
        task = start_in(self.freezer, work)
        self.tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something in this process that nobody waits for."""
        self.spawn(work).set_name("background")

    def kill(self) -> None:
        """End all at once; what is frozen dies as well."""
        for task in list(self.tasks):
            task.cancel()
        if self.freezer is not None:
            self.freezer.thaw()

    async def end(self) -> None:
        """Kill the process, and wait until it has let go of its files."""
        tasks = list(self.tasks)
        self.kill()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            self.failure = task.exception()
