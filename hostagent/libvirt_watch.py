"""The driver's connection and what comes over it: calls out, events in.

An event is told only when it is true: the end of a run not before its process is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import structlog

from events.types.vm import DownReason
from hostagent.driver import DriverEvent, Happening, UnknownStateError
from hostagent.libvirt_connection import STOP_TIMEOUT_S, Keeper
from hostagent.libvirt_events import Interpreter, Paused, RawEvent
from hostagent.libvirt_lines import Lines
from hostagent.libvirt_port import Connection, Hypervisor, LostConnectionError
from hostagent.libvirt_processes import ProcessTable
from hostagent.libvirt_threads import Threads, TooManyCallsError

EVENTS_MAX = 10_000
CALL_THREADS = 8
LONG_CALL_THREADS = 16
GONE_TIMEOUT_S = 5.0
GONE_POLL_S = 0.05

log = structlog.get_logger()
T = TypeVar("T")


class Watch:
    """One connection, kept. `starting` and `saving` are the runs that this driver is just starting,
    or whose memory it is just saving. `connections` counts how often a connection was taken up.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        processes: ProcessTable,
        *,
        call_timeout_s: float,
        retry_min_s: float,
        retry_max_s: float,
    ) -> None:
        self.interpreter = Interpreter()
        self.starting: dict[str, int] = {}
        self.saving: dict[str, int] = {}
        self.connections = 0
        self._up_since_s = 0.0
        self._held_back: dict[str, list[DriverEvent]] = {}
        self._hypervisor = hypervisor
        self._processes = processes
        self._call_timeout_s = call_timeout_s
        self._calls = Threads("libvirt-call", CALL_THREADS)
        self._long_calls = Threads("libvirt-long-call", LONG_CALL_THREADS)
        self._files = Threads("storage", CALL_THREADS)
        self._lines = Lines(hypervisor.connect_for_calls, hypervisor.disconnect)
        self._raw: asyncio.Queue[RawEvent] = asyncio.Queue(EVENTS_MAX)
        self._told: asyncio.Queue[DriverEvent] = asyncio.Queue(EVENTS_MAX)
        self._up = asyncio.Event()
        self._pump_task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper = Keeper(
            connect=lambda on_over: hypervisor.connect(self._hear, on_over),
            disconnect=hypervisor.disconnect,
            on_up=self._take_up,
            on_down=self._lost,
            retry_min_s=retry_min_s,
            retry_max_s=retry_max_s,
        )

    async def start(self) -> None:
        """Connect, and keep connected."""
        self._loop = asyncio.get_running_loop()
        if self._pump_task is None:
            self._pump_task = asyncio.create_task(self._pump(), name="libvirt events")
        await self._keeper.start()

    async def stop(self) -> None:
        """Let go."""
        if self._pump_task is not None:
            self._pump_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump_task
            self._pump_task = None
        await self._keeper.stop()
        with contextlib.suppress(Exception):  # the process's end closes them as well
            await self._calls.run(self._lines.close, STOP_TIMEOUT_S)

    def up_for_s(self) -> float:
        """Return for how long the connection has lasted."""
        return asyncio.get_running_loop().time() - self._up_since_s

    async def events(self) -> AsyncIterator[DriverEvent]:
        """Yield what happens, in order."""
        while True:
            yield await self._told.get()

    async def call(
        self,
        function: Callable[[Connection], T],
        timeout_s: float | None = None,
        *,
        long: bool = False,
    ) -> T:
        """Ask libvirt; raises UnknownStateError if it does not answer in time.

        A `long` call takes no thread from others, and is waited for to its end, which comes at the
        latest with that of its connection.
        """
        self._keeper.require()
        threads = self._long_calls if long else self._calls
        limit_s = None if long else timeout_s or self._call_timeout_s
        try:
            return await threads.run(lambda: self._lines.call(function), limit_s)
        except TimeoutError:
            raise UnknownStateError(f"libvirt gave no answer within {limit_s:g} s") from None
        except TooManyCallsError:
            raise UnknownStateError("too many calls wait for libvirt") from None
        except LostConnectionError:
            self._keeper.over()
            raise

    async def work(self, function: Callable[[], T], timeout_s: float | None = None) -> T:
        """Do something with files or the process table, in a thread."""
        return await self._files.run(function, timeout_s)

    def tell(self, event: DriverEvent) -> None:
        """Tell the driver's reader of something; if it does not read, to compare everything."""
        if self._told.full():
            log.error("driver_events_dropped", count=EVENTS_MAX)
            while not self._told.empty():
                self._told.get_nowait()
            event = DriverEvent(happening=Happening.RECONNECTED)
        self._told.put_nowait(event)

    def _hear(self, raw: RawEvent) -> None:
        """Called from libvirt's thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the agent has ended
                self._loop.call_soon_threadsafe(self._queue_raw, raw)

    def _queue_raw(self, raw: RawEvent) -> None:
        if self._raw.full():
            # The reader compares everything, and finds out what the dropped ones would have told.
            while not self._raw.empty():
                self._raw.get_nowait()
            self.tell(DriverEvent(happening=Happening.RECONNECTED))
        self._raw.put_nowait(raw)

    async def _take_up(self, connection: Connection) -> None:
        """Learn what runs, then let events through: they are about runs that are known."""
        del connection  # it only tells
        self._lines.renew()
        listing = self._hypervisor.active
        for listed in await self.call(listing):
            if listed.own is not None:
                paused = listed.paused is not None and listed.paused != Paused.STARTING_UP
                self.interpreter.know(listed.uuid, listed.own.incarnation, paused=paused)
        self._up_since_s = asyncio.get_running_loop().time()
        self.connections += 1
        self._up.set()
        log.info("libvirt_connected")
        self.tell(DriverEvent(happening=Happening.RECONNECTED))

    def _lost(self) -> None:
        self._up.clear()
        self._lines.renew()
        self.tell(DriverEvent(happening=Happening.LOST))

    async def _pump(self) -> None:
        while True:
            raw = await self._raw.get()
            await self._up.wait()
            event = self.interpreter.read(raw, asyncio.get_running_loop().time())
            if event is None or self._is_part_of_saving(event):
                continue
            if event.happening is Happening.ENDED and not await self._gone(event.vm):
                log.error("process_outlives_domain", vm=event.vm, incarnation=event.incarnation)
                # Not the end, then; and not nothing either: whoever looks finds it unknown.
                event = DriverEvent(happening=Happening.RECONNECTED)
            if event.vm in self.starting:
                self._held_back.setdefault(event.vm, []).append(event)
            else:
                self.tell(event)

    def started(self, vm: str, *, failed: bool) -> None:
        """End the time in which a run is `starting`, and tell what happened to it meanwhile.

        Not before, since until then it is not listed either; and not at all of one that never came
        to be, which is only its starter's business.
        """
        self.starting.pop(vm, None)
        for event in self._held_back.pop(vm, ()):
            if not failed:
                self.tell(event)

    def _is_part_of_saving(self, event: DriverEvent) -> bool:
        """A guest that is saved pauses and ends, which is told once its memory is in place."""
        if event.vm not in self.saving:
            return False
        return (
            event.happening in (Happening.PAUSED, Happening.CONTINUED)
            or event.reason is DownReason.SUSPENDED
        )

    async def _gone(self, vm: str) -> bool:
        deadline = asyncio.get_running_loop().time() + GONE_TIMEOUT_S
        while await self.work(lambda: self._processes.of_vm(vm)):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(GONE_POLL_S)
        return True
