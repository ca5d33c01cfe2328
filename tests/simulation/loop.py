"""An event loop whose time is only a number: it never waits, and the same seed runs the same.

What runs in it belongs to processes. One that is frozen (SIGSTOP) gets no turn: its tasks stand
where they are, at whatever await that is, and go on from there when it is woken, late for every
timer that it had set.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import weakref
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any


class StandstillError(Exception):
    """Nothing is left to happen, although something is still waited for."""


class Freezer:
    """Whether a process gets its turns; those that it missed wait here.

    With a fuse, at the turn of that number something is done in its place. Who watches is called
    before each turn.
    """

    def __init__(self) -> None:
        self.frozen = False
        self.missed: list[_Turn] = []
        self.turns = 0
        self.fuse: tuple[int, Callable[[], None]] | None = None
        self.watch: Callable[[], None] | None = None
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def standing(self) -> int:
        """Return a number for where the process stands: each of its tasks, at which line."""
        return hash(tuple(sorted(_line_of(task) for task in self.tasks if not task.done())))

    def freeze(self) -> None:
        """Let the process stand where it is."""
        self.frozen = True

    def thaw(self) -> None:
        """Let the process go on, with all that it missed, in order."""
        self.frozen = False
        missed, self.missed = self.missed, []
        for turn in missed:
            turn.loop.call_again(turn)


def _line_of(task: asyncio.Task[Any]) -> int:
    """Return a number for the line at which a task waits, and those that called it."""
    lines: list[tuple[str, str, int]] = []
    waiting: Any = task.get_coro()
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        lines.append((frame.f_code.co_filename, frame.f_code.co_qualname, frame.f_lineno))
        waiting = waiting.cr_await
    return hash(tuple(lines))


PROCESS: ContextVar[Freezer | None] = ContextVar("PROCESS", default=None)
"""The process that what is running belongs to; the world itself belongs to none."""


class _Turn:
    """A callback of a process, which is put off while the process is frozen."""

    __slots__ = ("args", "callback", "context", "handle", "loop", "process")

    def __init__(
        self,
        loop: VirtualLoop,
        process: Freezer,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context,
    ) -> None:
        self.loop = loop
        self.process = process
        self.callback = callback
        self.args = args
        self.context = context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if self.handle is not None and self.handle.cancelled():
            return
        if self.process.frozen:
            self.process.missed.append(self)
            return
        self.process.turns += 1
        if self.process.watch is not None:
            self.process.watch()
        if self.process.fuse is not None and self.process.fuse[0] == self.process.turns:
            copy_context().run(_in_no_process, self.process.fuse[1])
        self.callback(*self.args)


def _in_no_process(work: Callable[[], None]) -> None:
    PROCESS.set(None)
    work()


class _NoWaiting(selectors.SelectSelector):
    """Lets time pass in place of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Return nothing, the time-out being over."""
        if timeout is None:
            raise StandstillError
        self.now_s += max(0.0, timeout)
        return []


class _NumberedTask(asyncio.Task[Any]):
    """A task that sets have in the same order every time, not by where it lies in memory."""

    def __init__(self, *args: Any, number: int, **others: Any) -> None:
        self._number = number
        super().__init__(*args, **others)

    def __hash__(self) -> int:
        return self._number


class _NumberedFuture(asyncio.Future[Any]):
    """A future that sets have in the same order every time."""

    def __init__(self, *, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which a timer that is next is due at once."""

    def __init__(self) -> None:
        self._clock = _NoWaiting()
        super().__init__(self._clock)
        self.errors: list[Mapping[str, Any]] = []
        self._numbers = itertools.count()
        self.set_task_factory(self._make_task)
        self.set_exception_handler(lambda _loop, context: self.errors.append(context))

    def time(self) -> float:
        """Return the seconds that have passed since the loop was made."""
        return self._clock.now_s

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future with the next number."""
        return _NumberedFuture(number=next(self._numbers), loop=self)

    def _make_task(
        self, _loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = _NumberedTask(work, number=next(self._numbers), loop=self, context=context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.tasks.add(task)
        return task

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Give a callback its turn, once its process gets one."""
        turn = self._turn(callback, args, context)
        if turn is None:
            return super().call_soon(callback, *args, context=context)
        turn.handle = super().call_soon(turn, context=turn.context)
        return turn.handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Give a callback its turn at a time, or once its process gets one after that."""
        turn = self._turn(callback, args, context)
        if turn is None:
            return super().call_at(when, callback, *args, context=context)
        handle = super().call_at(when, turn, context=turn.context)
        turn.handle = handle
        return handle

    def call_again(self, turn: _Turn) -> None:
        """Give a turn that was missed."""
        super().call_soon(turn, context=turn.context)

    def _turn(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> _Turn | None:
        context = context if context is not None else copy_context()
        process = context.get(PROCESS)
        return None if process is None else _Turn(self, process, callback, args, context)


def start_in(process: Freezer | None, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start a task that belongs to a process, or to none."""
    context = copy_context()
    context.run(PROCESS.set, process)
    return asyncio.get_running_loop().create_task(work, context=context)
