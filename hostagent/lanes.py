"""Who works on which VM: one task for each VM, a bounded number of hypervisor calls at once.

A lane whose work failed unexpectedly rests for a while, longer each time, before it is used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog

from hostagent.driver import UnknownStateError
from hostagent.tasks import end_tasks

CALLS_AT_ONCE_MAX = 8
COPIES_AT_ONCE_MAX = 2
SENDINGS_AT_ONCE_MAX = 10
"""The engine asks for as many VMs to be sent at a time as the cluster allows, never for more."""

_log = structlog.get_logger(__name__)


class Lane(msgspec.Struct, kw_only=True):
    """The task that works on a VM. `label` says at what; `ends_run` marks the end of a run."""

    task: asyncio.Task[None]
    label: str
    ends_run: bool = False


class Lanes:
    """Tasks by VM; `on_free` is called whenever one has ended."""

    def __init__(
        self, on_free: Callable[[], None], *, retry_min_s: float, retry_max_s: float
    ) -> None:
        self.calls = asyncio.Semaphore(CALLS_AT_ONCE_MAX)
        self.copies = asyncio.Semaphore(COPIES_AT_ONCE_MAX)
        self.sendings = asyncio.Semaphore(SENDINGS_AT_ONCE_MAX)
        self._on_free = on_free
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._lanes: dict[str, Lane] = {}
        self._touched: set[str] = set()
        self._failures: dict[str, int] = {}
        self._resting: dict[str, asyncio.TimerHandle] = {}
        self._resting_ends: set[str] = set()

    def watch(self) -> None:
        """Begin to note which VMs are worked on; see `unsettled`."""
        self._touched = set(self._lanes)

    def unsettled(self) -> frozenset[str]:
        """Return the VMs worked on now or at any time since `watch`, and those at rest."""
        return frozenset((*self._touched, *self._lanes, *self._resting))

    def lane(self, vm: str) -> Lane | None:
        """Return who works on a VM, if anybody does."""
        return self._lanes.get(vm)

    def run(
        self, vm: str, label: str, work: Coroutine[Any, Any, None], *, ends_run: bool = False
    ) -> None:
        """Let `work` have the VM's lane, which must be free."""
        self._touched.add(vm)
        self._resting_ends.discard(vm)
        rest = self._resting.pop(vm, None)
        if rest is not None:
            rest.cancel()
        task = asyncio.create_task(self._guard(vm, label, work, ends_run=ends_run))
        self._lanes[vm] = Lane(task=task, label=label, ends_run=ends_run)
        # Closed because a task that is cancelled at once never begins its work.
        task.add_done_callback(lambda _task: work.close())
        task.add_done_callback(lambda task: self._free(vm, task))

    def may_end(self, vm: str) -> bool:
        """Whether an ordered end may begin now: not if one is under way or failed just before."""
        lane = self._lanes.get(vm)
        return vm not in self._resting_ends and not (lane is not None and lane.ends_run)

    def cancel(self, vm: str) -> None:
        """Ask the VM's task to stop; its lane is free once it has."""
        lane = self._lanes.get(vm)
        if lane is not None:
            lane.task.cancel()

    async def close(self) -> None:
        """Stop all tasks, and wait a little for them."""
        for rest in self._resting.values():
            rest.cancel()
        self._resting.clear()
        await end_tasks([lane.task for lane in self._lanes.values()])

    async def _guard(
        self, vm: str, label: str, work: Coroutine[Any, Any, None], *, ends_run: bool
    ) -> None:
        try:
            await work
            self._failures.pop(vm, None)
        except UnknownStateError as error:
            _log.info("put off until the hypervisor answers", work=label, vm=vm, error=str(error))
            self._rest(vm, ends_run=ends_run)
        except Exception as error:  # noqa: BLE001
            # Whatever it was, nothing is lost: the next comparison finds what is left to do.
            _log.warning("work failed, to be tried again", work=label, vm=vm, error=repr(error))
            self._rest(vm, ends_run=ends_run)

    def _rest(self, vm: str, *, ends_run: bool) -> None:
        if ends_run:
            self._resting_ends.add(vm)
        failures = self._failures[vm] = self._failures.get(vm, 0) + 1
        delay = min(self._retry_max_s, self._retry_min_s * 2 ** min(failures - 1, 16))
        loop = asyncio.get_running_loop()
        self._resting[vm] = loop.call_later(delay, self._rested, vm)

    def _rested(self, vm: str) -> None:
        self._resting.pop(vm, None)
        self._resting_ends.discard(vm)
        self._on_free()

    def _free(self, vm: str, task: asyncio.Task[None]) -> None:
        lane = self._lanes.get(vm)
        if lane is not None and lane.task is task:
            del self._lanes[vm]
        self._on_free()
