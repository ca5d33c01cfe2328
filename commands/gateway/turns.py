"""A bound on how many do something at once, and on how long the others wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from events.log.port import OverloadedError


class Turns:
    """Lets `at_once` in; whoever waits longer than `wait_s` is told to come again later.

    Work that is begun is brought to its end, so that it is of use before its client gives up: a
    thousand that are served at the same time are all served too late.
    """

    def __init__(self, at_once: int, *, wait_s: float, retry_after_s: float) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._wait_s = wait_s
        self._retry_after_s = retry_after_s

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the block; raises OverloadedError."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._places.acquire()
        except TimeoutError:
            raise OverloadedError(self._retry_after_s) from None
        try:
            yield
        finally:
            self._places.release()
