"""Keeps one connection to libvirt: opens it, notices its end, opens it anew.

Knows nothing of libvirt itself: how to connect is given by whoever does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import structlog

from hostagent.driver import UnknownStateError
from hostagent.libvirt_threads import Threads, TooManyCallsError

OPEN_TIMEOUT_S = 10.0
FIRST_ATTEMPT_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 1.0  # closing asks a libvirtd that may hang; the process's end closes as well

log = structlog.get_logger()


class Keeper:
    """`connect` opens a connection and registers what has to be told of (it blocks, and is handed
    what to call, from any thread, when the connection is over). `on_up` takes up a new connection;
    an error of it means another attempt. `on_down` is told once for each loss.
    """

    def __init__(
        self,
        *,
        connect: Callable[[Callable[[], None]], Any],
        disconnect: Callable[[Any], None],
        on_up: Callable[[Any], Awaitable[None]],
        on_down: Callable[[], None],
        retry_min_s: float,
        retry_max_s: float,
    ) -> None:
        self._connect = connect
        self._disconnect = disconnect
        self._on_up = on_up
        self._on_down = on_down
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        # A thread of its own: `connect` hangs for as long as a paused libvirtd does not answer.
        self._thread = Threads("libvirt-connect", 1)
        self._opening: Future[Any] | None = None
        self._connection: Any = None
        self._over = asyncio.Event()
        self._tried = asyncio.Event()
        self._told_lost = False
        self._task: asyncio.Task[None] | None = None

    def require(self) -> None:
        """Raise UnknownStateError while there is no connection."""
        if self._connection is None:
            raise UnknownStateError("libvirt does not answer on this host")

    async def start(self) -> None:
        """Begin, and give the first attempt a moment to succeed."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name="libvirt connection")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), FIRST_ATTEMPT_TIMEOUT_S)
        if self._connection is None:
            self._say_lost()

    async def stop(self) -> None:
        """Let go of the connection, or of the attempt to open one."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._opening is not None:
            self._opening.add_done_callback(self._drop_late)
            self._opening = None
        await self._let_go(STOP_TIMEOUT_S)

    def over(self) -> None:
        """Give the connection up; it is opened anew."""
        self._over.set()

    async def _keep(self) -> None:
        pause_s = self._retry_min_s
        while True:
            try:
                await self._open()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may work
                log.warning("libvirt_not_reached", error=str(error) or repr(error))
                await self._let_go()
                self._say_lost()
                self._tried.set()
                # Jittered, since all the agents of a site may be doing this at once.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - not secret
                pause_s = min(pause_s * 2, self._retry_max_s)
                continue
            pause_s = self._retry_min_s
            self._told_lost = False
            self._tried.set()
            await self._over.wait()
            log.warning("libvirt_lost")
            await self._let_go()
            self._say_lost()

    async def _open(self) -> None:
        self._over.clear()
        if self._opening is None:
            loop, over = asyncio.get_running_loop(), self._over

            def tell_over() -> None:
                with contextlib.suppress(RuntimeError):  # the agent has ended meanwhile
                    loop.call_soon_threadsafe(over.set)

            self._opening = self._thread.submit(lambda: self._connect(tell_over))
        waiting = asyncio.shield(asyncio.wrap_future(self._opening))
        try:
            connection = await asyncio.wait_for(waiting, OPEN_TIMEOUT_S)
        finally:
            if self._opening.done():
                self._opening = None
        self._connection = connection
        await self._on_up(connection)

    async def _let_go(self, limit_s: float = OPEN_TIMEOUT_S) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(Exception):
            await self._thread.run(lambda: self._disconnect(connection), limit_s)

    def _drop_late(self, opening: Future[Any]) -> None:
        """Close a connection that came to be after nobody wanted it any more."""
        if not opening.cancelled() and opening.exception() is None:
            with contextlib.suppress(TooManyCallsError):
                self._thread.submit(lambda: self._disconnect(opening.result()))

    def _say_lost(self) -> None:
        if not self._told_lost:
            self._told_lost = True
            self._on_down()
