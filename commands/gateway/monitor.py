"""Telling silence from deafness: when a host counts as silent (contract D 1).

A host is silent only if the gateway itself could listen for the whole time-out. Whenever it could
not (it just started, was stopped, its clock jumped, the database was away), all hosts' times begin
anew after a grace. So they do where another engine stops listening: its hosts spoke to it. Before a
host is turned off, its silence is asked after (`host.silence_questioned`), and confirmed by the
same rule: an engine that was just started, or stood still, confirms nothing. So is a host that was
turned on, and does not say hello for the whole time that it has to boot.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Mapping

import msgspec
import structlog

from commands.gateway.contacts import Contacts
from commands.gateway.view import GatewayView
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.handler import ContextSource, Handler
from commands.state.host import HOST, Duty, HostState, HostStatus
from events.types.host import HostSilent
from events.types.host_boot import HostBootOverdue
from events.types.host_failing import HostRecovered
from events.types.host_power import HostSilenceConfirmed

log = structlog.get_logger(__name__)
CLOCKS_DIFFER_S_MAX = 5.0
"""Engines' clocks may differ by so much; contract C alerts beyond it."""
ENGINE = "engine/"
"""Under this, with their names, engines say among the contacts that they listen."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long hosts may be silent, may boot, and stay in error after failed starts, in seconds."""

    timeout_s: float = 60.0
    boot_timeout_s: float = 600.0
    grace_s: float = 300.0
    interval_s: float = 2.0
    failing_s: float = 1_800.0

    @property
    def deaf_s(self) -> float:
        """A gap between two looks that is longer than this means that we could not listen."""
        return self.interval_s * 3 + 1.0

    @property
    def engine_away_s(self) -> float:
        """Another engine that says nothing for so long listens no more."""
        return min(self.deaf_s * 3, self.timeout_s / 2)


class Hearing:
    """Since when the gateway has listened without a break."""

    def __init__(self, patience: Patience, now: dt.datetime, monotonic_s: float) -> None:
        self._patience = patience
        self._last = (now, monotonic_s)
        self.since = now

    def look(self, now: dt.datetime, monotonic_s: float) -> None:
        """Note that the gateway runs now; a gap or a clock's jump begins everything anew."""
        last_now, last_s = self._last
        passed_s = monotonic_s - last_s
        jumped_s = abs((now - last_now).total_seconds() - passed_s)
        self._last = (now, monotonic_s)
        if passed_s > self._patience.deaf_s or jumped_s > self._patience.deaf_s:
            log.warning("the gateway could not listen", gap_s=passed_s, jump_s=jumped_s)
            self.since = now

    def lost(self, now: dt.datetime) -> None:
        """Note that something the gateway needs for listening is away."""
        self.since = now

    def silent_s(self, heard: dt.datetime, now: dt.datetime) -> float:
        """Return for how long the host's silence counts."""
        counts_from = self.since + dt.timedelta(seconds=self._patience.grace_s)
        return (now - max(heard, counts_from)).total_seconds()


class Monitor:
    """Shares what was heard, and appends `host.silent` where it is due."""

    def __init__(
        self,
        handler: Handler,
        view: GatewayView,
        contacts: Contacts,
        patience: Patience,
        source: ContextSource,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        name: str = "",
    ) -> None:
        self._name = f"{ENGINE}{name}" if name else ""
        self._others: frozenset[str] = frozenset()
        self._handler = handler
        self._view = view
        self._contacts = contacts
        self._patience = patience
        self._source = source
        self._monotonic = monotonic
        self._heard: dict[str, dt.datetime] = {}
        self._known: dict[str, dt.datetime] = {}
        self._hearing = Hearing(patience, source().time, monotonic())

    def heard(self, host: str) -> None:
        """Note a sign of life."""
        self._heard[host] = self._source().time

    async def run(self) -> None:
        """Look again and again."""
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - whatever it is, we could not listen
                self._hearing.lost(self._source().time)
                log.warning("host monitoring is interrupted", reason=repr(error))
            await asyncio.sleep(self._patience.interval_s)

    async def look(self) -> None:
        """Look once: share contacts, find silent hosts."""
        now = self._source().time
        self._hearing.look(now, self._monotonic())
        heard, self._heard = self._heard, {}
        try:
            said = heard | {self._name: now} if self._name else heard
            if said:
                await self._contacts.store(said)
            shared = await self._contacts.read()
        except Exception:
            self._heard = heard | self._heard
            raise
        self._watch_others(now, shared)
        self._remember(now, shared, heard)
        for host in list(self._view.hosts.values()):
            if self._has_rested(host, now):
                await self._recovered(host.id)
            if self._boots_for_too_long(host, now):
                await self._overdue(host)
            watched, questioned = _is_watched(host), _is_questioned(host)
            if not (watched or questioned) or host.id in self._heard:
                continue
            last = self._last_word(host, now)
            if self._hearing.silent_s(last, now) <= self._patience.timeout_s:
                continue
            if watched:
                await self._silent(host, last)
            else:
                await self._confirm(host, last)

    def _watch_others(self, now: dt.datetime, shared: Mapping[str, dt.datetime]) -> None:
        """Begin anew where another engine has stopped to listen: we do not know what it heard."""
        limit = now - dt.timedelta(seconds=self._patience.engine_away_s)
        listening = frozenset(
            name
            for name, said in shared.items()
            if name.startswith(ENGINE) and name != self._name and said > limit
        )
        if self._others - listening:
            log.warning("another engine listens no more", engines=sorted(self._others - listening))
            self._hearing.lost(now)
        self._others = listening

    def _remember(self, now: dt.datetime, *sources: Mapping[str, dt.datetime]) -> None:
        """Keep what was ever heard: the shared table forgets everything when its database crashes.

        Times from the future were taken by a clock that was set back since; they say nothing.
        """
        latest = now + dt.timedelta(seconds=CLOCKS_DIFFER_S_MAX)
        known = {host: heard for host, heard in self._known.items() if heard <= latest}
        for source in sources:
            for host, heard in source.items():
                if heard <= latest:
                    known[host] = max(heard, known.get(host, heard))
        self._known = {host: heard for host, heard in known.items() if host in self._view.hosts}

    def _last_word(self, host: HostState, now: dt.datetime) -> dt.datetime:
        """Return when a host was last heard of, by contact or by a hello that lies in the log.

        The log may tell of a hello before the contact does: the engine that took it shares what it
        heard a moment later, and until then a host that was away for long would be silent again.
        """
        last = self._known.get(host.id, self._hearing.since)
        hello, latest = host.session_at, now + dt.timedelta(seconds=CLOCKS_DIFFER_S_MAX)
        return hello if hello is not None and last < hello <= latest else last

    def _has_rested(self, host: HostState, now: dt.datetime) -> bool:
        """Tell whether a host on which starts failed was left alone for long enough."""
        since = host.failing.since
        return since is not None and (now - since).total_seconds() > self._patience.failing_s

    def _boots_for_too_long(self, host: HostState, now: dt.datetime) -> bool:
        since = host.power.turned_on_at
        if since is None or not _boots(host) or host.id in self._heard:
            return False
        return self._hearing.silent_s(since, now) > self._patience.boot_timeout_s

    async def _overdue(self, host: HostState) -> None:
        """Say that a host should have said hello by now, which its status tells."""
        host_id, since = host.id, host.power.turned_on_at

        def decide(world: World, context: Context) -> Decision:
            del context
            state = world.get(HOST, host_id)
            if state is None or since is None or not _boots(state):
                return Decision(id=host_id)
            if state.power.turned_on_at != since:
                return Decision(id=host_id)
            overdue = HostBootOverdue(
                name=state.name, turned_on_at=since, timeout_s=self._patience.boot_timeout_s
            )
            return Decision(id=host_id, events=on(HOST.stream(host_id), overdue))

        await self._handler.handle(decide, self._source, principal="gateway")
        log.warning("a host was turned on, and says nothing", host=host_id)

    async def _recovered(self, host_id: str) -> None:
        """Let a host have VMs again on which starts had failed a while ago."""
        context = self._source()

        def decide(world: World, context: Context) -> Decision:
            del context
            state = world.get(HOST, host_id)
            if state is None or state.failing.since is None or state.removed:
                return Decision(id=host_id)
            recovered = HostRecovered(name=state.name)
            return Decision(id=host_id, events=on(HOST.stream(host_id), recovered))

        await self._handler.handle(decide, lambda: context, principal="gateway")

    async def _silent(self, host: HostState, last: dt.datetime) -> None:
        context, host_id, session = self._source(), host.id, host.session

        def decide(world: World, context: Context) -> Decision:
            del context
            state = world.get(HOST, host_id)
            if state is None or not _is_watched(state) or state.session != session:
                return Decision(id=host_id)
            silent = HostSilent(
                name=state.name, last_contact=last, timeout_s=self._patience.timeout_s
            )
            return Decision(id=host_id, events=on(HOST.stream(host_id), silent))

        await self._handler.handle(decide, lambda: context, principal="gateway")
        log.warning("a host is silent", host=host_id, last_contact=last.isoformat())

    async def _confirm(self, host: HostState, last: dt.datetime) -> None:
        host_id = host.id

        def decide(world: World, context: Context) -> Decision:
            del context
            state = world.get(HOST, host_id)
            if state is None or not _is_questioned(state):
                return Decision(id=host_id)
            confirmed = HostSilenceConfirmed(
                name=state.name, last_contact=last, timeout_s=self._patience.timeout_s
            )
            return Decision(id=host_id, events=on(HOST.stream(host_id), confirmed))

        await self._handler.handle(decide, self._source, principal="gateway")


def _is_questioned(host: HostState) -> bool:
    return host.silent and not host.removed and host.power.questioned > host.power.confirmed


def _boots(host: HostState) -> bool:
    return host.status is HostStatus.REBOOT


def _is_watched(host: HostState) -> bool:
    return (
        host.session is not None
        and not host.silent
        and not host.removed
        and not host.duplicate
        and host.duty is not Duty.MAINTENANCE
    )
