"""Keeps all parts of Chronovisor running on one machine.

Parts start as soon as those that they wait for are ready, side by side otherwise, and stop in the
reverse order. A part that ends is started again, at once the first time and then ever more slowly.
A part that is silent or paused is left alone: only the part itself knows whether it is stuck, and
killing a paused process would turn an admin's debugging into an outage.

    async with Supervisor(folder, parts, on_change=show) as supervisor:
        await supervisor.start()          # PartFailed if one does not come up
        await supervisor.wait_for_stop()  # Ctrl-C, SIGTERM, or request_stop()

Parts die with the supervisor, even with kill -9. What they started elsewhere does not: virtual
machines are libvirt's children, not the host agent's.
"""

import asyncio
import contextlib
import datetime as dt
import fcntl
import os
import random
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog

from chronovisor.supervisor_parts import (
    BROKEN_SETTING_EXIT_CODE,
    AlreadyRunning,
    Part,
    PartFailed,
    PartState,
    PartStatus,
    SupervisorStatus,
    start_order,
)
from chronovisor.supervisor_probes import PROBE_TIMEOUT_S
from chronovisor.supervisor_process import Child, describe_exit, last_words, rotate_log

LOCK_NAME = "chronovisor.lock"
STATUS_NAME = "parts.json"
START_ATTEMPTS_MAX = 3
RESTART_DELAY_S = 0.1
RESTART_DELAY_MAX_S = 30.0
# Whoever was ready for so long is restarted at once again.
STABLE_S = 5.0
PROBE_INTERVAL_S = 0.05
PROBE_INTERVAL_MAX_S = 0.5
LOG_CHECK_INTERVAL_S = 5.0
_log = structlog.get_logger(__name__)


class Supervisor:
    """Runs `parts`. Its lock, its status file and the logs lie in `folder`.

    `on_change` is called with a part's status whenever it changes, for a CLI that shows progress.
    """

    def __init__(
        self,
        folder: Path,
        parts: tuple[Part, ...],
        *,
        on_change: Callable[[PartStatus], None] | None = None,
        restart_delay_max_s: float = RESTART_DELAY_MAX_S,
    ) -> None:
        self._folder = folder
        self._on_change = on_change
        self._stop_requested = asyncio.Event()
        self._hurry = asyncio.Event()
        self._resources = contextlib.ExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._runners = {
            part.name: _Runner(
                part, folder / "log" / f"{part.name}.log", self._changed, restart_delay_max_s
            )
            for part in start_order(parts)
        }

    async def __aenter__(self) -> Self:
        """Take the folder's lock (AlreadyRunning if another holds it) and the signals."""
        (self._folder / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._resources.enter_context(folder_lock(self._folder))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.request_stop)
            self._resources.callback(loop.remove_signal_handler, number)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop everything that still runs."""
        try:
            await self.stop()
        finally:
            self._resources.close()

    async def start(self) -> bool:
        """Start all parts; True once every one is ready, False if a stop was requested meanwhile.

        PartFailed if one does not become ready in its time, or ends three times before.
        """
        ready = {name: runner.first_ready for name, runner in self._runners.items()}
        for runner in self._runners.values():
            waits_for = [ready[name] for name in runner.part.after]
            self._tasks.append(_spawn(runner.run(waits_for)))
        self._tasks.append(_spawn(self._rotate_logs()))
        all_ready = _spawn(_all_set([runner.first_ready for runner in self._runners.values()]))
        stop = _spawn(_all_set([self._stop_requested]))
        try:
            await asyncio.wait([all_ready, stop, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            self._raise_failure()
            return all_ready.done() and not self._stop_requested.is_set()
        finally:
            all_ready.cancel()
            stop.cancel()

    async def wait_for_stop(self) -> None:
        """Until a stop is requested. An error in the supervisor itself is raised here."""
        stop = _spawn(_all_set([self._stop_requested]))
        try:
            # A part that has failed for good leaves the others running, visibly.
            working = {task for task in self._tasks if not _ended_as_failed(task)}
            while not stop.done() and working:
                done, _ = await asyncio.wait([stop, *working], return_when=asyncio.FIRST_COMPLETED)
                for task in done & working:
                    if not _ended_as_failed(task):
                        task.result()
                    working.discard(task)
        finally:
            stop.cancel()

    def request_stop(self) -> None:
        """Ask for an orderly stop; asked a second time, kill what is still running."""
        if self._stop_requested.is_set():
            self._hurry.set()
        self._stop_requested.set()

    async def stop(self) -> None:
        """Stop all parts, each after those that need it. Safe to call at any time, and again."""
        self._stop_requested.set()
        stopping: dict[str, asyncio.Task[None]] = {}
        for name, runner in reversed(self._runners.items()):
            users = [
                stopping[other] for other in stopping if name in self._runners[other].part.after
            ]
            stopping[name] = _spawn(runner.stop(users, self._hurry))
        await asyncio.gather(*stopping.values())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def status(self) -> SupervisorStatus:
        """How all parts are doing."""
        parts = tuple(runner.status for runner in self._runners.values())
        return SupervisorStatus(pid=os.getpid(), parts=parts)

    def _changed(self, status: PartStatus) -> None:
        _log.info("part", name=status.name, state=status.state.value, pid=status.pid)
        write_status(self._folder, self.status())
        if self._on_change is not None:
            self._on_change(status)

    def _raise_failure(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_INTERVAL_S)
            for runner in self._runners.values():
                with contextlib.suppress(OSError):  # a full disk is the database's to report
                    await asyncio.to_thread(rotate_log, runner.log)


class _Runner:
    """One part: its process, its state, its restarts."""

    def __init__(
        self,
        part: Part,
        log: Path,
        changed: Callable[[PartStatus], None],
        restart_delay_max_s: float,
    ) -> None:
        self.part = part
        self.log = log
        self.first_ready = asyncio.Event()
        self.status = PartStatus(name=part.name, state=PartState.STOPPED, since=_now())
        self._changed = changed
        self._restart_delay_max_s = restart_delay_max_s
        self._child: Child | None = None
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    async def run(self, waits_for: list[asyncio.Event]) -> None:
        """Start the part and keep it running until cancelled; PartFailed if it is given up."""
        self._task = asyncio.current_task()
        await _all_set(waits_for)
        while True:
            error = await self._run_once()
            self._failures += 1
            self._give_up_if_hopeless(error)
            delay_s = min(
                RESTART_DELAY_S * 2 ** min(self._failures - 1, 20), self._restart_delay_max_s
            )
            self._set(
                PartState.RESTARTING,
                pid=None,
                restarts=self.status.restarts + 1,
                last_error=error.reason,
            )
            # Jitter, so that parts that fell together do not all rise together.
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311

    async def stop(self, users: list[asyncio.Task[None]], hurry: asyncio.Event) -> None:
        """Stop the part, once the parts that use it have stopped."""
        await asyncio.gather(*users)
        if self._task is not None:
            # From here on nothing restarts it.
            self._task.cancel()
            await asyncio.wait([self._task])
        last = PartState.FAILED if self.status.state is PartState.FAILED else PartState.STOPPED
        if self._child is not None:
            self._set(PartState.STOPPING)
            await self._child.stop(self.part.stop_signal, self.part.stop_timeout_s, hurry)
            self._child = None
        if self.status.state is not last:
            self._set(last, pid=None)

    async def _run_once(self) -> "_Ended":
        """One life of the process; says how it ended, or why it never began."""
        self._set(PartState.STARTING, pid=None)
        try:
            if self.part.before_start is not None:
                await asyncio.to_thread(self.part.before_start)
            child = Child(self.part, self.log)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this part's reason
            return _Ended(reason=str(error) or repr(error))
        self._child = child
        self._set(PartState.STARTING, pid=child.pid)
        exited = _spawn(child.wait())
        try:
            ready_at = None
            if await self._becomes_ready(child, exited):
                ready_at = asyncio.get_running_loop().time()
                self.first_ready.set()
                self._set(PartState.READY)
            code = await exited
        finally:
            exited.cancel()
        self._child = None
        if ready_at is not None and asyncio.get_running_loop().time() - ready_at >= STABLE_S:
            self._failures = 0
        said = last_words(self.part, child.launched.log_text())
        how = describe_exit(code)
        return _Ended(reason=f"{how}; it said: {said}" if said else how, code=code)

    async def _becomes_ready(self, child: Child, exited: "asyncio.Task[int]") -> bool:
        """Probe until ready (True) or ended (False); PartFailed if the first start takes too long.

        A later start may take as long as it needs: a database that recovers, a process paused by
        an admin. That it is not ready is shown, and killing it would only make it begin anew.
        """
        if self.part.ready is None:
            return True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.part.ready_timeout_s
        interval_s = PROBE_INTERVAL_S
        while not exited.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    if await self.part.ready(child.launched):
                        return not exited.done()
            if loop.time() >= deadline and not self.first_ready.is_set():
                reason = f"it was not ready within {self.part.ready_timeout_s:g} s"
                said = last_words(self.part, child.launched.log_text())
                raise self._failed(f"{reason}; it said: {said}" if said else reason)
            await asyncio.wait([exited], timeout=interval_s)
            interval_s = min(interval_s * 1.5, PROBE_INTERVAL_MAX_S)
        return False

    def _give_up_if_hopeless(self, ended: "_Ended") -> None:
        never_ready = not self.first_ready.is_set()
        if ended.code == BROKEN_SETTING_EXIT_CODE or (
            never_ready and self._failures >= START_ATTEMPTS_MAX
        ):
            raise self._failed(ended.reason)

    def _failed(self, reason: str) -> PartFailed:
        self._set(PartState.FAILED, last_error=reason)
        return PartFailed(self.part.name, reason, self.log)

    def _set(self, state: PartState, **others: Any) -> None:  # noqa: ANN401
        self.status = msgspec.structs.replace(self.status, state=state, since=_now(), **others)
        self._changed(self.status)


class _Ended(msgspec.Struct, frozen=True, kw_only=True):
    reason: str
    code: int | None = None


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder against a second supervisor; AlreadyRunning names the first one's process.

    The kernel gives the lock back when its holder ends, however it ends.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise AlreadyRunning(
                f"Chronovisor already runs in {folder} (process {holder})"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def write_status(folder: Path, status: SupervisorStatus) -> None:
    """Publish the status for other processes (the API's health answer). It is not flushed."""
    temporary = folder / f".{STATUS_NAME}.tmp"
    with contextlib.suppress(OSError):  # on a full disk the parts go on, and this is stale
        temporary.touch(mode=0o600)  # the last words of a part are not for everybody
        temporary.write_bytes(msgspec.json.encode(status))
        temporary.replace(folder / STATUS_NAME)


def read_status(folder: Path) -> SupervisorStatus | None:
    """The status that a supervisor last published in `folder`, None if there is none."""
    try:
        return msgspec.json.decode((folder / STATUS_NAME).read_bytes(), type=SupervisorStatus)
    except (OSError, msgspec.DecodeError):
        return None


def _spawn(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(work)


async def _all_set(events: list[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def _ended_as_failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and isinstance(task.exception(), PartFailed)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
