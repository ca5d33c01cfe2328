"""The worker: carries out what is ordered over SSH and has not ended, whatever was done before.

It looks at the hosts as the engine's view has them, and needs no other memory. With several engines
one has the place (a lock, against contention only); the fence is in the log (`HostSshBegun`) and on
the machine (the number that each script shows).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import msgspec
import structlog

from access.ssh_key import SshKey
from access.vault import SecretForgotten, Vault
from commands.gateway.enrolment import Enrolment
from commands.gateway.view import GatewayView
from commands.kernel.handler import ContextSource, Handler
from commands.remote.book import Book, SupersededError
from commands.remote.machine import (
    KeyRefusedError,
    Login,
    ShownKey,
    SshError,
    key_with,
    machine,
    shown_key,
)
from commands.remote.source import AgentSource, EnginePlace
from commands.remote.steps import Engine, Site
from commands.remote.work import Work
from commands.state.host import HostState
from commands.state.host_ssh import SshAccess, SshOrder
from events.log.port import OverloadedError, UnavailableError
from events.types.base import Event
from events.types.host_ssh import HostSshKeyPinned, HostSshKeyRefused, SshTask

LOOK_S = 0.5
AT_ONCE_MAX = 16
RETRY_S = 5.0
CATCH_UP_S_MAX = 10.0
log = structlog.get_logger(__name__)


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker works with. `secret_sha256` gives the digest of an enrolment token's secret."""

    handler: Handler
    view: GatewayView
    source: ContextSource
    vault: Vault
    key: SshKey
    agent: AgentSource
    enrolment: Enrolment
    place: EnginePlace
    secret_sha256: Callable[[str], str]
    time_scale: float = 1.0


class SshWorker:
    """One worker; `name` is its own, different at every start. `run` never ends by itself."""

    def __init__(self, tools: Tools, name: str) -> None:
        self._tools = tools
        self._name = name
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look for orders, and carry each out, until cancelled."""
        try:
            while True:
                self._look()
                await asyncio.sleep(LOOK_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _look(self) -> None:
        self._tasks = {order: task for order, task in self._tasks.items() if not task.done()}
        for host in self._tools.view.hosts.values():
            order = host.ssh.order
            if order is None or host.removed or order.order in self._tasks:
                continue
            if len(self._tasks) >= AT_ONCE_MAX:
                return
            self._tasks[order.order] = asyncio.ensure_future(self._carry_out(host, order))

    async def _carry_out(self, host: HostState, order: SshOrder) -> None:
        """Carry one order out, or leave it to the next look."""
        words = {"host": host.name, "order": order.order, "task": str(order.task)}
        log.info("an order over SSH is taken", **words)
        try:
            await self._work(host.id, order)
        except SupersededError:
            log.info("an order over SSH is over, or another's", **words)
        except (UnavailableError, OverloadedError, TimeoutError) as error:
            log.warning("an order over SSH waits for the log", **words, reason=str(error))
            await asyncio.sleep(RETRY_S * self._tools.time_scale)
        except Exception:
            log.exception("an order over SSH failed unexpectedly, and is tried again", **words)
            await asyncio.sleep(RETRY_S)

    async def _work(self, host: str, order: SshOrder) -> None:
        tools = self._tools
        book = Book(tools.handler, tools.source, tools.secret_sha256, host, order.order, self._name)
        number = await book.begin()
        await tools.view.reach(number, CATCH_UP_S_MAX)
        state = await book.state()
        current = state.ssh.order or order
        sites = _Sites(tools, book, number)
        await Work(book, state, current, sites.open).run()
        if order.password is not None:
            with contextlib.suppress(UnavailableError):  # the vault's keeper will
                await tools.vault.delete(order.password)


class _Sites:
    """Opens the machine of one order, as often as it takes."""

    def __init__(self, tools: Tools, book: Book, number: int) -> None:
        self._tools = tools
        self._book = book
        self._number = number

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Site]:
        """Log in; raises SshError. What is shown of the machine's key is pinned before."""
        state = await self._book.state()
        order, access = state.ssh.order, state.ssh.access
        if order is None or access is None:
            raise SshError("How the machine is reached over SSH is not known.")
        if order.task is SshTask.INSTALL:
            _require_reachable(self._tools.place, access.address)
        login = await self._login(order, access)
        try:
            state = await self._pin(order, access)
            access = state.ssh.access or access
            key = ShownKey(fingerprint=access.fingerprint, key_type=access.key_type)
            async with machine(login, key) as opened:
                if order.task is not SshTask.RESTART_AGENT:  # for that, less will do
                    await opened.become_root()
                greeting = (
                    f"Logged in to {access.address} as {access.user};"
                    f" its SSH key is {access.fingerprint}."
                )
                engine = await self._engine()
                yield Site(opened, engine, self._book, state, self._number, greeting)
        except KeyRefusedError as error:
            expected, shown = error.expected, error.shown
            await self._book.write(lambda host, order: _refused(host, order, expected, shown))
            raise

    async def _login(self, order: SshOrder, access: SshAccess) -> Login:
        password = None
        if order.password is not None:
            try:
                password = await self._tools.vault.get(order.password)
            except SecretForgotten as error:
                raise SshError("The password is not kept any more: order it again.") from error
        return Login(
            address=access.address,
            port=access.port,
            user=access.user,
            key=self._tools.key.private,
            password=password,
        )

    async def _pin(self, order: SshOrder, access: SshAccess) -> HostState:
        """Have the machine's key be known: as the admin gave it, or as it is shown now."""
        given = order.fingerprint
        if access.fingerprint and given in {"", access.fingerprint}:
            return await self._book.state()
        if given:
            shown = await key_with(access.address, access.port, given)
        else:
            shown = await shown_key(access.address, access.port)

        def pinned(state: HostState, order: SshOrder) -> Event | None:
            return HostSshKeyPinned(
                name=state.name,
                order=order.order,
                fingerprint=shown.fingerprint,
                key_type=shown.key_type,
                given=bool(given),
            )

        await self._book.write(pinned)
        return await self._book.state()

    async def _engine(self) -> Engine:
        tools = self._tools
        try:
            agent = await tools.agent.bundle()
            trust = await asyncio.to_thread(tools.enrolment.trust)
        except OSError as error:
            raise SshError(f"The engine cannot make the agent's bundle: {error}") from error
        return Engine(
            place=tools.place,
            agent=agent,
            trust=trust,
            public_key=tools.key.public,
            time_scale=tools.time_scale,
            token_text=tools.enrolment.token_text,
            view=tools.view,
        )


def _refused(state: HostState, order: SshOrder, expected: str, shown: str) -> Event:
    return HostSshKeyRefused(name=state.name, order=order.order, expected=expected, shown=shown)


def _require_reachable(place: EnginePlace, address: str) -> None:
    """Refuse where the engine listens for nobody but its own machine, and the host is another."""
    for what, url in (("API", place.api), ("gateway", place.gateway)):
        engine = urlsplit(url).hostname or ""
        if _is_loopback(engine) and not _is_loopback(address):
            raise SshError(
                f"The engine's {what} is at {url}, where no other machine reaches it: set api.host,"
                " gateway.host and api.names."
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
