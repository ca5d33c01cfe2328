"""Threads for calls that block: libvirt's, and files on storage that may hang."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
WAITING_MAX = 1_000


class TooManyCallsError(Exception):
    """All threads are busy and too many calls wait already."""


class Threads:
    """A bounded pool of threads that never keep the process from ending.

    The standard library's pool is joined when the interpreter exits: one call that hangs in a
    paused libvirtd would then hold the agent for ever.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._started = 0
        self._lock = threading.Lock()
        self._jobs: queue.Queue[tuple[Future[Any], Callable[[], Any]]] = queue.Queue(WAITING_MAX)

    async def run(self, function: Callable[[], T], timeout_s: float | None = None) -> T:
        """Call a function in a thread. Raises TimeoutError when the time is over: then the call
        goes on by itself if it had begun, and is never made if it had not.
        """
        return await asyncio.wait_for(asyncio.wrap_future(self.submit(function)), timeout_s)

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Queue a call; raises TooManyCallsError."""
        future: Future[T] = Future()
        try:
            self._jobs.put_nowait((future, function))
        except queue.Full:
            raise TooManyCallsError from None
        with self._lock:
            if self._started < self._count:
                self._started += 1
                name = f"{self._name}-{self._started}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            future, function = self._jobs.get()
            if future.set_running_or_notify_cancel():
                # Whoever waited may be gone by now; the thread goes on.
                with contextlib.suppress(BaseException):
                    _fulfil(future, function)


def _fulfil(future: Future[T], function: Callable[[], T]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the result
        future.set_exception(error)
    else:
        future.set_result(result)
