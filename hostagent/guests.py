"""Asking guests: whether they are up, and what they call themselves.

A guest is up once its agent answered, or once it had the time to boot. Until then it is asked
often, afterwards now and then, and at once when the hypervisor says that its agent came.
"""

from __future__ import annotations

import asyncio

import structlog

from hostagent.desk import Desk, moment, utc_now
from hostagent.records import RunKey, Up

ASKED_AT_ONCE_MAX = 8

_log = structlog.get_logger(__name__)


class Guests:
    """Watches the guests of one host."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._due: dict[RunKey, float] = {}
        self._changed = asyncio.Event()
        self._room = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

    def ask_now(self, key: RunKey) -> None:
        """Ask a guest at the next opportunity."""
        self._due[key] = 0.0
        self._changed.set()

    def look(self) -> None:
        """Take up the domains that came and drop those that went."""
        desk = self._desk
        for key in list(self._due):
            if key not in desk.domains:
                del self._due[key]
        for key in desk.domains:
            if key not in self._due:
                self.ask_now(key)

    async def run(self) -> None:
        """Ask guests as they become due, for ever."""
        while True:
            self._changed.clear()
            now = moment()
            due = [key for key, at in self._due.items() if at <= now]
            if due:
                await asyncio.gather(*(self._ask(key) for key in due))
                continue
            next_due = min(self._due.values(), default=now + self._desk.timings.guest_refresh_s)
            try:
                async with asyncio.timeout(max(0.01, next_due - now)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _ask(self, key: RunKey) -> None:
        desk = self._desk
        domain, run = desk.domains.get(key), desk.journal.known.runs.get(key)
        up = run is not None and run.up
        wait_s = desk.timings.guest_refresh_s if up else desk.timings.guest_poll_s
        if run is not None and run.done is None:
            wait_s = desk.timings.poll_pause_s  # it is being launched: ask as soon as it is
        self._due[key] = moment() + wait_s
        if domain is None or run is None or run.done is None or run.tombstone is not None:
            return
        guest = None
        async with self._room:
            try:
                async with asyncio.timeout(desk.timings.call_timeout_s):
                    guest = await desk.driver.guest(key.vm, key.incarnation)
            except Exception as error:  # noqa: BLE001
                _log.debug("guest not asked", vm=key.vm, error=repr(error))
        if key not in desk.domains:
            return
        if guest is not None:
            desk.guests[key] = guest
        had_time = (utc_now() - run.done).total_seconds() >= desk.timings.boot_timeout_s
        if not up and (guest is not None or (had_time and not domain.paused)):
            await desk.journal.note(Up(vm=key.vm, incarnation=key.incarnation))
        if key in desk.domains and desk.known:
            desk.tell_run(key)
