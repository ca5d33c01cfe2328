"""Ending background tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

CANCEL_INTERVAL_S = 0.5


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until all have ended.

    One cancel is not enough: Python's and the pool's own time limits swallow one that comes at the
    very moment at which what they wait for is there.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_INTERVAL_S)
