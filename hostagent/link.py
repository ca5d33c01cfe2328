"""The agent's end of the line: hello, orders, reports and telemetry, session after session.

Three loops live as long as a session does. Whatever goes wrong they try again, later each time; an
answer that the session is over, or a message that the engine refuses, ends all three, and the agent
says hello again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec
import structlog

from events.wire.agent import PROTOCOL, Hello, Item, Welcome
from hostagent.backoff import Backoff
from hostagent.desk import Desk, moment, utc_now
from hostagent.gateway import (
    Gateway,
    GatewayAwayError,
    GatewayRefusedError,
    SessionEndedError,
)
from hostagent.metrics import Metrics
from hostagent.outbox import TelemetryBuffer
from hostagent.tasks import run_together

_log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")


class LinkOwner(Protocol):
    """What the link needs of its agent."""

    async def hello(self) -> Hello:
        """Return what to say of this host."""
        ...

    async def welcomed(self, welcome: Welcome, asked_at: float) -> None:
        """Take up a new session."""
        ...

    async def delivered(self, items: tuple[Item, ...], applied_position: int) -> None:
        """Take note that the engine has these items, which were told as of that position."""
        ...

    def reconnected(self) -> None:
        """Compare everything: the engine answers again."""
        ...


class Link:
    """Keeps one host in touch with the engine."""

    def __init__(
        self, host: str, gateway: Gateway, owner: LinkOwner, desk: Desk, metrics: Metrics
    ) -> None:
        self.connected = False
        self.telemetry = TelemetryBuffer()
        self.telemetry_interval_s = 15.0
        self.greeted = asyncio.Event()
        self._host = host
        self._gateway = gateway
        self._owner = owner
        self._desk = desk
        self._metrics = metrics
        self._telemetry_due = asyncio.Event()

    async def run(self) -> None:
        """Hold sessions, one after the other, for ever."""
        backoff = self._backoff()
        while True:
            begun, after_s = moment(), 0.0
            try:
                welcome = await self._greet()
                await self._hold(welcome)
            except Exception as error:  # noqa: BLE001
                # The next hello mends it, or says again what is wrong.
                _log.warning("no session", host=self._host, error=str(error) or repr(error))
                after_s = error.retry_after_s if isinstance(error, GatewayAwayError) else 0.0
                self._metrics.sessions_lost.inc()
            finally:
                self.connected = False
                self._desk.end_session()
            if moment() - begun > self._desk.timings.session_settled_s:
                backoff.reset()  # a session that lived was not taken away by a twin of this host
            await asyncio.sleep(backoff.next_s(after_s))

    def sampled(self) -> None:
        """Send what the telemetry buffer holds."""
        self._telemetry_due.set()

    async def _greet(self) -> Welcome:
        hello = msgspec.structs.replace(await self._owner.hello(), doubt="")
        asked_at = moment()
        try:
            welcome = await self._gateway.hello(hello)
        except SessionEndedError as error:
            if not error.doubt:
                raise
            asked_at = moment()
            hello = msgspec.structs.replace(hello, doubt=error.doubt)
            welcome = await self._gateway.hello(hello)
        if welcome.protocol not in hello.protocols:
            raise GatewayRefusedError(
                f"the engine speaks protocol {welcome.protocol}, this agent {PROTOCOL}"
            )
        self.telemetry_interval_s = welcome.telemetry_interval_s
        await self._owner.welcomed(welcome, asked_at)
        _log.info("session", host=self._host, session=welcome.session)
        self.connected = True
        self.greeted.set()
        self._metrics.sessions.inc()
        return welcome

    async def _hold(self, welcome: Welcome) -> None:
        await run_together(
            (self._poll(welcome), self._report(welcome.session), self._send_telemetry())
        )

    async def _poll(self, welcome: Welcome) -> None:
        desk = self._desk
        while True:
            before, begun = desk.position, moment()

            async def ask() -> None:
                asked_at = moment()
                orders = await self._gateway.orders(welcome.session, desk.position, welcome.poll_s)
                if orders.changes.position < desk.position:
                    raise SessionEndedError("the engine's log is shorter than it was")
                desk.take_up(orders.changes, asked_at)

            if await self._insist(ask):
                self._owner.reconnected()
            # An engine that answers at once, without news, must not be asked without a pause.
            if desk.position == before and moment() - begun < desk.timings.poll_pause_s:
                await asyncio.sleep(desk.timings.poll_pause_s)

    async def _report(self, session: str) -> None:
        """Send report after report: one that was sent twice is the last of its session.

        Its first copy may lie with an engine that stood still, or was left for another. If that
        took it in after a later report, it would take what was for what is. The new session ends
        this one in the host's stream, which each append of a report reads: so it comes too late.
        """
        desk = self._desk
        while True:
            await desk.outbox.changed.wait()
            report = desk.outbox.report(session, desk.position, utc_now())
            if report is None:
                desk.outbox.changed.clear()
                continue

            on_its_way = False

            async def send() -> None:
                nonlocal on_its_way
                asked_at = moment()
                try:
                    await self._gateway.report(report)  # noqa: B023
                except GatewayAwayError as error:
                    on_its_way = on_its_way or error.on_its_way
                    raise
                desk.heard(asked_at)

            await self._insist(send)
            self._metrics.reports.inc()
            applied_position = report.applied_position
            await self._owner.delivered(desk.outbox.acknowledged(), applied_position)
            if on_its_way:
                raise SessionEndedError("a copy of the last report may still be under way")

    async def _send_telemetry(self) -> None:
        while True:
            await self._telemetry_due.wait()
            batch = self.telemetry.batch(self._host, self._desk.boot, utc_now())
            if batch is None:
                self._telemetry_due.clear()
                continue

            async def send() -> None:
                await self._gateway.telemetry(batch)  # noqa: B023

            try:
                await self._insist(send)
                self._metrics.samples.inc(len(batch.hosts) + len(batch.vms))
            except GatewayRefusedError as error:
                # Samples may be lost; a batch that is never taken must not hold up the next.
                _log.warning("telemetry refused", host=self._host, error=str(error))
            self.telemetry.acknowledged()

    async def _insist(self, attempt: Callable[[], Awaitable[None]]) -> bool:
        """Try until the engine answers; return whether it had been away."""
        backoff = self._backoff()
        failed = False
        while True:
            try:
                await attempt()
            except GatewayAwayError as error:
                if self.connected:
                    _log.warning("engine away", host=self._host, error=str(error))
                self.connected = False
                failed = True
                self._metrics.failures.inc()
                await asyncio.sleep(backoff.next_s(error.retry_after_s))
            else:
                self.connected = True
                return failed

    def _backoff(self) -> Backoff:
        timings = self._desk.timings
        return Backoff(timings.retry_min_s, timings.retry_max_s)
