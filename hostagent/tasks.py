"""Running tasks together and ending them for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import structlog

CANCEL_ATTEMPTS_MAX = 5
CANCEL_WAIT_S = 2.0

_log = structlog.get_logger(__name__)


async def run_together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all until the first ends or fails, then end the others; its exception is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(tasks)
    for task in done:
        task.result()


def forget(task: asyncio.Future[None]) -> None:
    """Take note of a task's exception although nobody asks for it any more."""
    if not task.cancelled():
        task.exception()


async def end_tasks(tasks: Iterable[asyncio.Future[None]]) -> None:
    """Cancel tasks and wait until they are over.

    Asked again if need be: a task can lose a cancellation that comes in the same instant as what
    it waited for (asyncio.wait_for does so in Python 3.11).
    """
    left = set()
    for task in tasks:
        task.add_done_callback(forget)
        if not task.done():
            left.add(task)
    for _ in range(CANCEL_ATTEMPTS_MAX):
        for task in left:
            task.cancel()
        if not left:
            return
        _, left = await asyncio.wait(left, timeout=CANCEL_WAIT_S)
    if left:
        _log.error("tasks that do not end", tasks=[repr(task) for task in left])
