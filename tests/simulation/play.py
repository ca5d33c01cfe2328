"""One play: a loop whose time is a number, a folder, a world from a seed, and a script."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import structlog

from tests.simulation.loop import VirtualLoop
from tests.simulation.patches import replaced
from tests.simulation.world import World

T = TypeVar("T")
SILENT = 50
"""Above every level that anything logs at."""


def play(
    seed: int,
    script: Callable[[World], Coroutine[Any, Any, T]],
    *around: AbstractContextManager[object],
) -> T:
    """Return what a script finds in a new world, which ends with it.

    `around` is entered for the time of the play. Paths are in events, and must not tell one play
    from another: the world's are relative to its folder.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(SILENT), cache_logger_on_first_use=False
    )
    shared_memory = Path("/dev/shm")
    parent = shared_memory if shared_memory.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="chronovisor-simulation-", dir=parent))
    loop = VirtualLoop()
    try:
        with contextlib.chdir(folder), replaced(seed, loop.time), contextlib.ExitStack() as stack:
            for each in around:
                stack.enter_context(each)
            return loop.run_until_complete(_in_a_world(seed, script))
    finally:
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)


async def _in_a_world(seed: int, script: Callable[[World], Coroutine[Any, Any, T]]) -> T:
    world = World(seed, Path())
    found = await script(world)
    await world.close()
    return found
