"""Starting, adopting and ending incarnations, each step written down before it counts."""

from __future__ import annotations

import asyncio

import structlog

from events.types.migration import Held
from events.types.vm import DownReason
from events.wire.agent import IntentVm, Role
from hostagent.desk import Desk, utc_now
from hostagent.driver import DriverError, UnknownStateError
from hostagent.lanes import Lanes
from hostagent.reconcile import End
from hostagent.records import Begun, Done, Record, RunKey, Tombstone

_log = structlog.get_logger(__name__)
DETAIL_CHARACTERS_MAX = 2_000


class Runs:
    """Carries out what the reconciler decided about incarnations."""

    def __init__(self, desk: Desk, lanes: Lanes) -> None:
        self._desk = desk
        self._lanes = lanes

    async def start(self, item: IntentVm) -> None:
        """Start an incarnation once.

        A failure that leaves no doubt is reported; after any other the next comparison finds out
        what became of it.
        """
        desk, key = self._desk, RunKey(item.vm, item.incarnation)
        async with self._lanes.calls:
            # It may have waited for its turn: look again at what is ordered.
            current = desk.intent.get(key)
            if current is None or current.role is not Role.RUN or current.spec is None:
                return
            if not desk.orders_fresh():
                return
            spec = current.spec
            await desk.journal.write(
                Begun(
                    vm=key.vm,
                    incarnation=key.incarnation,
                    boot=desk.boot,
                    restored=spec.restore_from is not None,
                    time=utc_now(),
                )
            )
            _log.info("starting", vm=key.vm, incarnation=key.incarnation)
            try:
                async with asyncio.timeout(desk.timings.start_timeout_s):
                    await desk.driver.start(spec)
            except UnknownStateError:
                raise
            except DriverError as error:
                await self._promise(key, DownReason.START_FAILED, str(error))
                return
        await desk.journal.write(Done(vm=key.vm, incarnation=key.incarnation, time=utc_now()))
        desk.touched.add(key.vm)

    async def adopt(self, key: RunKey) -> None:
        """Write down that an incarnation runs, without touching it."""
        desk = self._desk
        run, item = desk.journal.known.runs.get(key), desk.intent.get(key)
        restored = item is not None and item.spec is not None and bool(item.spec.restore_from)
        records: list[Record] = [Done(vm=key.vm, incarnation=key.incarnation, time=utc_now())]
        if run is None or run.boot != desk.boot:
            records.insert(
                0,
                Begun(
                    vm=key.vm,
                    incarnation=key.incarnation,
                    boot=desk.boot,
                    restored=restored,
                    time=utc_now(),
                ),
            )
        await desk.journal.write(*records)
        _log.info("adopted", vm=key.vm, incarnation=key.incarnation)

    async def land(self, key: RunKey) -> None:
        """Let an incarnation run that came in, now that its source has nothing of it."""
        desk = self._desk
        run = desk.journal.known.runs.get(key)
        if run is None or not run.arrival or run.tombstone is not None or run.done is not None:
            return
        async with self._lanes.calls, asyncio.timeout(desk.timings.call_timeout_s):
            await desk.driver.resume(key.vm, key.incarnation)
        await desk.journal.write(Done(vm=key.vm, incarnation=key.incarnation, time=utc_now()))
        desk.touched.add(key.vm)
        _log.info("landed", vm=key.vm, incarnation=key.incarnation)
        desk.wake.set()

    async def end(self, action: End) -> None:
        """See to it that an incarnation is gone, promise that it stays so, and say it."""
        desk, key = self._desk, action.run
        if action.only_half:
            there = await desk.list_domain(key)
            if there is not None and there.held is not Held.POST_COPY:
                return  # the other half came in the very last moment: the next comparison says it
        if action.destroy:
            async with self._lanes.calls, asyncio.timeout(desk.timings.destroy_timeout_s):
                await desk.driver.destroy(key.vm, key.incarnation)
            if await desk.list_domain(key) is not None:
                raise DriverError(f"VM {key.vm} is still there after it was destroyed")
        await self._promise(key, action.reason, action.detail)

    async def _promise(self, key: RunKey, reason: DownReason, detail: str) -> None:
        desk = self._desk
        run = desk.journal.known.runs.get(key)
        if run is None or run.tombstone is None:
            await desk.journal.write(tombstone(key, reason, detail))
            _log.info("ended", vm=key.vm, incarnation=key.incarnation, reason=reason, detail=detail)
        say_absent(desk, key)


def tombstone(key: RunKey, reason: DownReason, detail: str = "") -> Tombstone:
    """Return the promise that an incarnation never starts here again."""
    return Tombstone(
        vm=key.vm,
        incarnation=key.incarnation,
        reason=reason,
        detail=detail[:DETAIL_CHARACTERS_MAX],
        time=utc_now(),
    )


def say_absent(desk: Desk, key: RunKey) -> None:
    """Tell the engine that an incarnation is over; its tombstone must be durable."""
    desk.touched.add(key.vm)
    desk.domains.pop(key, None)
    desk.guests.pop(key, None)
    desk.endings.pop(key, None)
    desk.gone(key)
    if key in desk.intent:
        desk.tell_run(key)
