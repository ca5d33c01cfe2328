"""The gateway's HTTP application: contract C, spoken with agents that show a certificate."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from access.vault import Vault
from commands.api.problems import problem_response
from commands.gateway.fencing import FRESH_S, with_secrets, without_stale
from commands.gateway.intake import Desk, decider
from commands.gateway.loads import Averages
from commands.gateway.monitor import Monitor
from commands.gateway.renewal import RENEW_PATH, Renewals
from commands.gateway.requests import answer_of, body_of, fingerprint_of, number_of
from commands.gateway.restored import missing, strays, tells_all
from commands.gateway.sessions import (
    ClonedIdentity,
    NotYourHost,
    SessionOver,
    decide_hello,
    decide_taken_up,
    require_session,
)
from commands.gateway.tls import PEER_CERTIFICATE, peer_host_id
from commands.gateway.turns import Turns
from commands.gateway.view import GatewayView, TooOldError, ViewWorld
from commands.kernel.command import Context, Decision
from commands.kernel.fold import MissingStreamError, World
from commands.kernel.handler import ContextSource, Decide, Handler
from commands.kernel.refusal import InvalidField, Refusal
from commands.state.host import HOST, HostState
from events.log.port import LogReader
from events.wire.agent import (
    REPORT_ITEMS_MAX,
    SAMPLES_MAX,
    CapabilitiesItem,
    FenceItem,
    FullStateItem,
    Hello,
    Intent,
    Item,
    Orders,
    Renew,
    Report,
    ReportAck,
    Telemetry,
    VmState,
    VmStateItem,
    Welcome,
)
from events.wire.telemetry import TelemetrySink

log = structlog.get_logger(__name__)
WAIT_S_MAX = 60.0
CATCH_UP_S_MAX = 5.0
AT_ONCE_MAX = 32
HELLOS_AT_ONCE_MAX = 32
HELLO_WAIT_S_MAX = 5.0
HELLO_RETRY_S = 5.0
REPORTS_AT_ONCE_MAX = 256
"""Enough for groups of commits; few enough that the view takes in what follows from them."""
REPORT_TURN_WAIT_S_MAX = 5.0
REPORT_RETRY_S = 2.0
SourceFor = Callable[[str], ContextSource]
"""Gives the source of contexts for an actor."""


Ticket = Callable[[str, str, str], str]
"""Gives the ticket of a migration (its id) of a VM to a host."""


class Intervals(msgspec.Struct, frozen=True, kw_only=True):
    """What agents are told to keep, in seconds."""

    telemetry_s: float = 15.0
    poll_s: float = 25.0
    compare_s: float = 60.0
    fence_fresh_s: float = FRESH_S


class Gateway:
    """Answers agents. An agent is heard for its own host only."""

    def __init__(  # noqa: PLR0913, PLR0917 - the gateway joins what others are built from
        self,
        handler: Handler,
        reader: LogReader,
        view: GatewayView,
        monitor: Monitor,
        telemetry: TelemetrySink,
        source_for: SourceFor,
        intervals: Intervals,
        renewals: Renewals,
        ticket: Ticket | None = None,
        vault: Vault | None = None,
        loads: Averages | None = None,
    ) -> None:
        self._handler = handler
        self._reader = reader
        self._view = view
        self._monitor = monitor
        self._telemetry = telemetry
        self._source_for = source_for
        self._intervals = intervals
        self._ticket = ticket
        self._vault = vault
        self._loads = loads
        self._renewals = renewals
        self._desks: dict[str, Desk] = {}
        self._hellos = Turns(
            HELLOS_AT_ONCE_MAX, wait_s=HELLO_WAIT_S_MAX, retry_after_s=HELLO_RETRY_S
        )
        self._reports = Turns(
            REPORTS_AT_ONCE_MAX, wait_s=REPORT_TURN_WAIT_S_MAX, retry_after_s=REPORT_RETRY_S
        )

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/agent/v1/hello", self._guarded(self._hello), methods=["POST"]),
                Route("/agent/v1/orders", self._guarded(self._orders), methods=["GET"]),
                Route("/agent/v1/report", self._guarded(self._report), methods=["POST"]),
                Route("/agent/v1/telemetry", self._guarded(self._samples), methods=["POST"]),
                Route(RENEW_PATH, self._guarded(self._renew), methods=["POST"]),
            ]
        )

    def _guarded(
        self, answer: Callable[[Request, str], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            host = peer_host_id(request.scope)
            if host is None:
                return problem_response(NotYourHost("The certificate names no host."), request)
            try:
                return await answer(request, host)
            except Exception as error:  # noqa: BLE001 - every failure is answered as a problem
                return problem_response(error, request)

        return guarded

    async def _hello(self, request: Request, host: str) -> Response:
        hello = await body_of(request, Hello)
        async with self._hellos.taken():
            return await self._begin(request, host, hello)

    async def _begin(self, request: Request, host: str, hello: Hello) -> Response:
        """Begin a session."""
        fingerprint = fingerprint_of(request)
        before = self._session_of(host)
        await self._catch_up(await self._reader.head())  # or a host would begin session on session

        def decide(world: World, context: Context) -> Decision:
            decision = decide_hello(world, context, host, fingerprint, hello)
            state = world.get(HOST, host)
            if decision.extra.get("cloned") and state is not None and state.session != before:
                # Said before a reboot and read after it, by an engine that was stopped meanwhile:
                # its machine is no clone. A clone says hello again, and is known by that.
                raise SessionOver(
                    "Another hello of this host came before this one.", remedy="Say hello again."
                )
            return decision

        accepted = await self._handler.handle(decide, self._once(host), principal=f"host/{host}")
        await self._catch_up(accepted.position)
        answer = msgspec.json.decode(accepted.answer)
        if answer.get("cloned"):
            raise ClonedIdentity(
                "Two machines use this host's identity; both are refused.",
                remedy="Stop the machine that is not the host, then approve the host again.",
            )
        self._monitor.heard(host)
        log.info("a session began", host=host, session=answer["session"])
        return answer_of(
            Welcome(
                session=answer["session"],
                protocol=answer["protocol"],
                intent=await self._complete(self._view.intent(host), host),
                telemetry_interval_s=self._intervals.telemetry_s,
                poll_s=self._intervals.poll_s,
                compare_interval_s=self._intervals.compare_s,
            )
        )

    async def _orders(self, request: Request, host: str) -> Response:
        session, after = request.query_params.get("session", ""), number_of(request, "after")
        wait_s = min(number_of(request, "wait", 0.0), WAIT_S_MAX)
        deadline, heard = asyncio.get_running_loop().time() + wait_s, False
        while True:
            signal = self._view.signal(host)
            await self._require_session(request, host, session)
            if not heard:  # its question is a word of the host, the end of the wait is none
                self._monitor.heard(host)
                heard = True
            try:
                changes = self._view.changes(host, int(after))
            except TooOldError:
                raise SessionOver(
                    "The position is too far back.", remedy="Say hello again."
                ) from None
            left_s = deadline - asyncio.get_running_loop().time()
            if changes is not None:
                return answer_of(Orders(changes=await self._complete(changes, host, int(after))))
            if left_s <= 0:
                return Response(status_code=204)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await signal.wait()

    async def _complete(self, intent: Intent, host: str, after: int = 0) -> Intent:
        """Put in what is in no event: tickets and passwords; and of fencing what is still fresh."""
        now = self._source_for("gateway")().time
        open_orders = self._view.fences(host, after)
        fences = without_stale(open_orders, now, self._intervals.fence_fresh_s)
        intent = msgspec.structs.replace(intent, fences=fences)
        return await with_secrets(self._with_tickets(intent, host), self._vault)

    def _with_tickets(self, intent: Intent, host: str) -> Intent:
        """Give a migration's source its ticket, and its destination the ticket's digest."""
        if self._ticket is None:
            return intent
        jobs = []
        for job in intent.jobs:
            sending = job.sending
            if sending is not None:
                migration = job.id.partition("/")[0]
                secret = self._ticket(migration, job.vm, sending.destination)
                sending = msgspec.structs.replace(sending, ticket=secret)
                job = msgspec.structs.replace(job, sending=sending)  # noqa: PLW2901
            jobs.append(job)
        vms = []
        for item in intent.vms:
            receiving = item.receiving
            if receiving is not None:
                secret = self._ticket(receiving.migration, item.vm, host)
                digest = hashlib.sha256(secret.encode()).hexdigest()
                receiving = msgspec.structs.replace(receiving, ticket_sha256=digest)
                item = msgspec.structs.replace(item, receiving=receiving)  # noqa: PLW2901
            vms.append(item)
        return msgspec.structs.replace(intent, jobs=tuple(jobs), vms=tuple(vms))

    async def _report(self, request: Request, host: str) -> Response:
        report = await body_of(request, Report)
        if len(report.items) > REPORT_ITEMS_MAX:
            raise InvalidField(f"A report has at most {REPORT_ITEMS_MAX} items.", field="items")
        desk = self._desks.setdefault(host, Desk())
        async with desk.alone():
            await self._require_session(request, host, report.session)
            self._monitor.heard(host)
            if desk.is_outdated(report):
                raise SessionOver(
                    "A later report of this session was taken in already.",
                    remedy="Say hello again.",
                )
            async with self._reports.taken():
                positions = await self._take_items(request, host, report)
            position = max([self._view.position, *positions])
            desk.taken(report)
        await self._catch_up(position)
        return answer_of(ReportAck(sequence=report.sequence, position=position))

    async def _take_items(self, request: Request, host: str, report: Report) -> list[int]:
        """Append what follows from the items: those of one VM in order, VMs beside each other."""
        fingerprint = fingerprint_of(request)
        lanes: dict[str, list[Item]] = {"": []}
        for item in report.items:
            if isinstance(item, FullStateItem):
                self._note_strays(host, item)
                for state in item.vms if item.known else ():
                    if not self._is_known(decider(host, fingerprint, report, state), state):
                        lanes.setdefault(state.vm, []).append(state)
                lanes[""].append(item)
            elif isinstance(item, CapabilitiesItem):
                lanes[""].append(item)
            elif isinstance(item, FenceItem):
                lanes.setdefault(f"fence/{item.host}", []).append(item)
            else:
                lanes.setdefault(item.vm, []).append(item)
        limit = asyncio.Semaphore(AT_ONCE_MAX)

        async def lane(name: str, items: list[Item]) -> int:
            last = 0
            async with limit:
                for number, item in enumerate(items or [None] if not name else items):
                    decide = decider(host, fingerprint, report, item, self._strays(host, item))
                    last = max(last, await self._take(host, report, f"{name}:{number}", decide))
            return last

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(lane(name, items)) for name, items in lanes.items()]
        positions = [task.result() for task in tasks]
        speaker = self._view.hosts.get(host)
        if speaker is not None and speaker.unconfirmed and tells_all(report):
            # Only now, that all it runs is known: from here on it gets orders.
            lost = missing(report, self._view.expected(host))
            decide = decider(host, fingerprint, report, None, confirms=lost)
            positions.append(await self._take(host, report, "confirmed", decide))
        return positions

    def _note_strays(self, host: str, item: FullStateItem) -> None:
        if item.known:
            self._view.note_strays(host, (state.vm for state in self._strays(host, item)))

    def _strays(self, host: str, item: Item | None) -> tuple[VmStateItem, ...]:
        """Return what may be a stray in a full state, by what this process knows."""
        if not isinstance(item, FullStateItem):
            return ()
        return strays(ViewWorld(self._view), host, item.vms)

    def _is_known(self, decide: Decide, item: VmStateItem) -> bool:
        """Tell whether an item of a full state says nothing new, by what this process knows.

        Agents send it every minute, so that what the view did not show yet comes again; what is
        said once only (that a run is over) is never passed over.
        """
        if item.state is VmState.ABSENT or item.vm not in self._view.vms:
            return False
        try:
            decision = decide(ViewWorld(self._view), self._source_for("gateway")())
        except (Refusal, MissingStreamError):
            return False
        return not decision.events

    async def _take(self, host: str, report: Report, part: str, decide: Decide) -> int:
        key = f"{report.session}:{report.sequence}:{part}"
        principal = f"host/{host}"
        accepted = await self._handler.take(decide, self._once(host), principal=principal, key=key)
        return accepted.position if accepted is not None else 0

    async def _samples(self, request: Request, host: str) -> Response:
        batch = await body_of(request, Telemetry)
        if batch.host != host:
            raise NotYourHost("A host sends samples of itself only.")
        if len(batch.hosts) + len(batch.vms) > SAMPLES_MAX:
            raise InvalidField(f"A batch has at most {SAMPLES_MAX} samples.", field="vms")
        state = self._known_host(request, host)
        if state.duplicate:
            raise NotYourHost("The host is refused: two machines use its identity.")
        self._monitor.heard(host)
        if self._loads is not None:
            self._loads.heard(host, batch.hosts)
        self._telemetry.send(batch)
        return Response(status_code=202)

    async def _renew(self, request: Request, host: str) -> Response:
        renew = await body_of(request, Renew)
        certificate: bytes = request.scope["extensions"][PEER_CERTIFICATE]
        return answer_of(await self._renewals.renew(host, certificate, renew, self._once(host)))

    async def _require_session(self, request: Request, host: str, session: str) -> None:
        """Refuse by what this process knows; what is appended is checked again by its decision.

        Before it refuses, it makes sure to know the newest: another engine may have said welcome.
        """
        try:
            require_session(state := self._known_host(request, host), session)
        except Refusal:
            await self._catch_up(await self._reader.head())
            require_session(state := self._known_host(request, host), session)
        shown = fingerprint_of(request)
        if state.certificate_fingerprint != shown:
            await self._handler.handle(
                lambda world, context: decide_taken_up(world, context, host, shown),
                self._once(host),
                principal=f"host/{host}",
            )

    def _known_host(self, request: Request, host: str) -> HostState:
        state = self._view.hosts.get(host)
        if state is None or state.removed:
            raise NotYourHost("The host is not known here, or was removed.")
        if not state.counts(fingerprint_of(request)):
            raise NotYourHost("The certificate is not the host's newest.")
        return state

    async def _catch_up(self, position: int) -> None:
        """Wait until the view has taken in a position, so that what is answered includes it."""
        try:
            await self._view.reach(position, CATCH_UP_S_MAX)
        except TimeoutError:
            message = f"the gateway is {position - self._view.position} events behind"
            raise TimeoutError(message) from None

    def _session_of(self, host: str) -> str | None:
        state = self._view.hosts.get(host)
        return None if state is None else state.session

    def _once(self, host: str) -> ContextSource:
        return self._source_for(f"host:{host}")
