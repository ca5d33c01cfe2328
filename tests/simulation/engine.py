"""The engine and the policies, as processes that can be killed at any point and started again."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import uuid
from collections.abc import Callable
from typing import Any, cast

import msgspec

from chronovisor.parts.engine import follow
from commands.gateway.app import Gateway, Intervals
from commands.gateway.contacts import Contacts
from commands.gateway.monitor import Monitor, Patience
from commands.gateway.renewal import Renewals
from commands.gateway.tls import PEER_CERTIFICATE
from commands.gateway.view import SHAPE, GatewayView
from commands.kernel.command import Context
from commands.kernel.handler import Handler
from commands.kernel.snapshots import Keeper
from commands.policies.fence_rules import FenceRules
from commands.policies.office import SupersededError
from commands.policies.runner import Runner
from commands.policies.saga import RestartRules, Timeouts
from events.log.port import Log, OverloadedError, UnavailableError
from events.wire.agent import Telemetry
from tests.simulation.certificates import EngineRenewals
from tests.simulation.loop import Freezer
from tests.simulation.patches import EPOCH
from tests.simulation.process import Process

PATIENCE = Patience(timeout_s=40.0, grace_s=30.0, interval_s=2.0, failing_s=300.0)
INTERVALS = Intervals(telemetry_s=100_000.0, poll_s=10.0, compare_s=30.0)
TIMEOUTS = Timeouts(
    launch_s=60.0,
    retry_s=20.0,
    restarts=RestartRules(long_interval_s=120.0, well_s=120.0, starts_per_host=2),
    fencing=FenceRules(off_timeout_s=60.0, on_timeout_s=60.0, margin_s=10.0, retry_s=60.0),
)


RESTART_S = 1.0
"""What the supervisor takes to start a process again that ended because the log was away."""


class Sources:
    """Contexts with counted ids, so that the same run draws the same."""

    def __init__(self, time_s: Callable[[], float]) -> None:
        self._time_s = time_s
        self._ids = 0

    def context(self, actor: str) -> Context:
        """Return a fresh context."""
        return Context(
            command=self.id(),
            time=EPOCH + dt.timedelta(seconds=self._time_s()),
            actor=actor,
            ids=tuple(str(self.id()) for _ in range(4)),
            randoms=tuple(self._ids * 100 + n for n in range(4)),
        )

    def source_for(self, actor: str) -> Callable[[], Context]:
        """Return a source of contexts for an actor."""
        return lambda: self.context(actor)

    def id(self) -> uuid.UUID:
        """Return an id that was not given out before."""
        self._ids += 1
        return uuid.UUID(int=self._ids)


class _NoTelemetry:
    def send(self, telemetry: Telemetry) -> None:
        """Drop it."""

    async def run(self) -> None:
        return


class EngineProcess(Process):
    """The gateway with its view and its monitor, over the log.

    The view is taken up from a snapshot, one of which is written every `snapshot_events` events.
    """

    def __init__(
        self,
        log: Log,
        contacts: Contacts,
        sources: Sources,
        name: str,
        ending: set[str],
        snapshot_events: int,
    ) -> None:
        super().__init__(Freezer())
        self.dead = False
        self._log = log
        self._keeper = Keeper(log, SHAPE, events_between=snapshot_events)
        self._serves = asyncio.Event()
        self.view = GatewayView()
        self.handler = handler = Handler(log, known=self.view.known)
        self.monitor = Monitor(
            handler,
            self.view,
            contacts,
            PATIENCE,
            sources.source_for("gateway"),
            asyncio.get_running_loop().time,
            name=name,
        )
        gateway = Gateway(
            handler,
            log,
            self.view,
            self.monitor,
            _NoTelemetry(),
            sources.source_for,
            INTERVALS,
            cast("Renewals", EngineRenewals(handler, ending)),
            _ticket,
        )
        self._app = gateway.app()
        self.begin(self._run())

    def kill(self) -> None:
        """See `Process.kill`: whoever was connected finds the connection broken."""
        self.dead = True
        super().kill()

    async def _run(self) -> None:
        while not self._serves.is_set():
            try:
                await self._keeper.restore(self.view)
                self._serves.set()
            except UnavailableError:
                await asyncio.sleep(RESTART_S)
        self.begin(self.monitor.run())
        try:
            await follow(self._log, self.view, self.handler, self._keeper)
        finally:
            await self._keeper.close()

    async def answer(
        self, certificate: bytes, method: str, path: str, query: str, body: bytes
    ) -> tuple[int, bytes]:
        """Answer a request that showed the host's certificate; to be spawned in this process."""
        await self._serves.wait()
        status, answer = 0, bytearray()
        requests = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if requests:
                return requests.pop()
            return await asyncio.Future()

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "https",
            "query_string": query.encode(),
            "headers": [],
            "server": ("engine", 443),
            "extensions": {PEER_CERTIFICATE: certificate},
        }
        await self._app(scope, receive, send)
        return status, bytes(answer)


def _ticket(migration: str, vm: str, host: str) -> str:
    return f"{migration} {vm} {host}"


class PoliciesProcess(Process):
    """The policies' runner, which is started again where the log was away."""

    def __init__(self, log: Log, sources: Sources, name: str, snapshot_events: int) -> None:
        super().__init__(Freezer())

        def make(attempt: int) -> Runner:
            name_now = f"{name}.{attempt}" if attempt else name
            return Runner(log, sources.context, TIMEOUTS, name_now, snapshot_events=snapshot_events)

        self._make = make
        self.runner = make(0)
        self.begin(self._run())

    async def _run(self) -> None:
        for attempt in itertools.count(1):
            try:
                await self.runner.run()
            except SupersededError:
                return
            except (UnavailableError, OverloadedError):
                await asyncio.sleep(RESTART_S)
            self.runner = self._make(attempt)


def encoded(message: msgspec.Struct) -> bytes:
    """Return a message as it goes over the wire."""
    return msgspec.json.encode(message)
