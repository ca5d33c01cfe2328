"""The steps of each task: what is done on the machine, what is said of it, how it is taken back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from commands.gateway.view import GatewayView
from commands.remote.book import Book
from commands.remote.machine import Machine, SshError, marked, sentences
from commands.remote.scripts import script
from commands.remote.source import BUNDLE_PATH, AgentFile, EnginePlace
from commands.state.host import HostState
from commands.state.host_ssh import SshAccess, SshOrder
from events.types.host_ssh import SshTask

AGENT_PLACE = "/opt/chronovisor-agent/current"
STATUS_SOCKET = "/run/chronovisor-agent.sock"
MIGRATION_PORT = 54329
JOIN_S = 120.0
ANSWER_S = 120.0
POLL_S = 0.25
QUICK_S, SLOW_S, VERY_SLOW_S = 120.0, 600.0, 3_600.0


class Stopped(Exception):
    """The order was cancelled."""


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """What steps need of the engine. `token_text` gives the text of a token, by its id."""

    place: EnginePlace
    agent: AgentFile
    trust: str
    public_key: str
    time_scale: float
    token_text: Callable[[str], str]
    view: GatewayView


class Site:
    """A machine that is being worked on, for one order. `greeting` says how we got in."""

    def __init__(
        self,
        machine: Machine,
        engine: Engine,
        book: Book,
        state: HostState,
        number: int,
        greeting: str,
    ) -> None:
        if state.ssh.order is None or state.ssh.access is None:
            raise AssertionError("a site is opened for an order")
        self.machine = machine
        self.engine = engine
        self.book = book
        self.host = state.id
        self.order: SshOrder = state.ssh.order
        self.access: SshAccess = state.ssh.access
        self.greeting = greeting
        self.session_before: str | None = None
        self.last_output = ""
        self._number = number

    async def run(
        self,
        name: str,
        action: str,
        limit_s: float = QUICK_S,
        *,
        variables: Mapping[str, str] | None = None,
        documents: Mapping[str, str] | None = None,
        first: bool = False,
    ) -> str:
        """Run a step's script; return the sentence that it says. Raises SshError."""
        common = {
            "ORDER": self.order.order,
            "HOST": self.host,
            "NUMBER": str(self._number),
            "LIMIT_S": f"{limit_s:.0f}",
            "FIRST": "yes" if first else "no",
            "ACTION": action,
        }
        text = script(name, {**common, **(variables or {})}, documents or {})
        output = await self.machine.run(text, limit_s)
        said, failed = sentences(output)
        if output.status != 0:
            raise SshError(failed)
        self.last_output = output.out
        return said

    async def forget(self) -> None:
        """Take away what the machine noted for an undo that is done."""
        await self.run("finish", "undo", first=True)

    def stopped(self) -> bool:
        """Tell whether the order was cancelled, by what this process knows."""
        state = self.engine.view.hosts.get(self.host)
        order = state.ssh.order if state is not None else None
        return order is not None and order.cancel_requested


Do = Callable[[Site], Awaitable[str]]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `begins` is said while it is under way; without `undo` it changes nothing."""

    name: str
    begins: str
    do: Do
    undo: Do | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A task. `undoes`: it is taken back where it fails; `leaves`: it ends by locking us out."""

    steps: tuple[Step, ...]
    undoes: bool = False
    leaves: bool = False


async def _connected(site: Site) -> str:
    return site.greeting


async def _inspect(site: Site) -> str:
    architecture = site.engine.agent.architecture
    variables = {"ARCHITECTURE": architecture}
    said = await site.run("inspect", "do", variables=variables, first=True)
    joined = marked(site.last_output, "JOINED ")
    if joined not in {"", site.host}:
        _require_no_other(site, joined)
    return said


async def _packages(site: Site) -> str:
    variables = {"PYTHON": site.engine.agent.python}
    return await site.run("packages", "do", VERY_SLOW_S, variables=variables)


async def _bundle(site: Site) -> str:
    return await site.run(
        "bundle",
        "do",
        SLOW_S,
        documents={"TRUST": site.engine.trust},
        variables={
            "PYTHON": site.engine.agent.python,
            "SHA256": site.engine.agent.sha256,
            "URL": f"{site.engine.place.api}{BUNDLE_PATH}/{site.engine.agent.sha256}",
        },
    )


async def _authorize(site: Site) -> str:
    return await site.run(
        "authorize",
        "do",
        variables={
            "SSH_USER": site.access.user,
            "PUBLIC_KEY": site.engine.public_key,
            "FREE_SUDO": "yes" if site.machine.free_sudo else "no",
        },
    )


async def _join(site: Site) -> str:
    needed = await _must_join(site)
    token = await site.book.issue_token() if needed else ""
    joining = asyncio.ensure_future(
        site.run(
            "join",
            "do",
            JOIN_S + QUICK_S,
            documents={"TOKEN": site.engine.token_text(token) if needed else ""},
            variables={
                "URL": site.engine.place.api,
                "JOIN_S": f"{JOIN_S:.0f}",
                "NEEDED": "yes" if needed else "no",
                "OPTIONS": _options(site),
            },
        )
    )
    try:
        approved = not needed
        while not joining.done():
            if not approved:
                approved = await site.book.approve(token)
            await asyncio.wait({joining}, timeout=POLL_S * 4)
        return joining.result()
    finally:
        joining.cancel()
        with contextlib.suppress(asyncio.CancelledError, SshError):
            await joining


async def _must_join(site: Site) -> bool:
    """Tell whether the machine needs a certificate; raises SshError where it is another's host."""
    said = await site.run("join", "look")
    found = msgspec.json.decode(said or "{}", type=dict[str, str])
    host = found.get("host")
    if host is None:
        return True
    if host == site.host:
        identity = (await site.book.state()).identity
        return identity is None or identity.public_key_sha256 != found["key"]
    _require_no_other(site, host)
    return True


def _require_no_other(site: Site, joined: str) -> None:
    """Refuse a machine that is another host, of this installation or of another one.

    That of a host which was removed may become one again.
    """
    other = site.engine.view.hosts.get(joined)
    if other is None or not other.removed:
        name = other.name if other is not None else "of another installation"
        raise SshError(
            f"The machine is host {name} already ({joined}). Uninstall that host first, or take"
            " its agent off the machine."
        )


def _options(site: Site) -> str:
    options = {
        "libvirt": "qemu:///system",
        "status": STATUS_SOCKET,
        "migration": _with_port(site.access.address),
        "time_scale": site.engine.time_scale,
    }
    return msgspec.json.encode(options).decode()


def _with_port(address: str) -> str:
    return f"[{address}]:{MIGRATION_PORT}" if ":" in address else f"{address}:{MIGRATION_PORT}"


async def _firewall(site: Site) -> str:
    wanted = str(site.order.firewall_type) if site.order.firewall else "no"
    variables = {"FIREWALL": wanted, "PORT": str(MIGRATION_PORT)}
    return await site.run("firewall", "do", variables=variables)


async def _start(site: Site) -> str:
    site.session_before = (await site.book.state()).session
    return await site.run("start", "do")


async def _answer(site: Site) -> str:
    """Wait for a session that began after the start; then what was noted for an undo may go."""
    deadline = asyncio.get_running_loop().time() + ANSWER_S
    while True:
        state = site.engine.view.hosts.get(site.host)
        session = state.session if state is not None else None
        if state is not None and session not in {None, site.session_before} and state.capabilities:
            break
        if site.stopped():
            raise Stopped
        if asyncio.get_running_loop().time() > deadline:
            raise SshError(
                f"The agent runs, but was not heard within {ANSWER_S:.0f} s: see that the machine"
                f" reaches {site.engine.place.gateway}."
            )
        await asyncio.sleep(POLL_S)
    await site.run("finish", "do")
    return "The agent is heard."


async def _restart(site: Site) -> str:
    output = await site.machine.restart(f"{AGENT_PLACE}/service.sh restart")
    if output.status != 0:
        raise SshError(sentences(output)[1])
    return "The agent was restarted."


def _scripted(name: str, action: str, limit_s: float = QUICK_S) -> Do:
    """Return what runs a script that needs no more than all of them get."""

    async def do(site: Site) -> str:
        variables = {
            "SSH_USER": site.access.user,
            "SHA256": site.engine.agent.sha256,
            "PORT": str(MIGRATION_PORT),
            "PYTHON": site.engine.agent.python,
        }
        first = action == "undo"
        return await site.run(name, action, limit_s, variables=variables, first=first)

    return do


INSTALL = Plan(
    undoes=True,
    steps=(
        Step(name="connect", begins="Logging in.", do=_connected),
        Step(name="inspect", begins="Looking at the machine.", do=_inspect),
        Step(
            name="packages",
            begins="Installing packages.",
            do=_packages,
            undo=_scripted("packages", "undo", VERY_SLOW_S),
        ),
        Step(
            name="libvirt",
            begins="Looking at libvirt.",
            do=_scripted("libvirt", "do"),
            undo=_scripted("libvirt", "undo"),
        ),
        Step(
            name="bundle",
            begins="Fetching the agent.",
            do=_bundle,
            undo=_scripted("bundle", "undo"),
        ),
        Step(
            name="authorize",
            begins="Letting the engine's SSH key in.",
            do=_authorize,
            undo=_scripted("authorize", "undo"),
        ),
        Step(name="join", begins="Joining.", do=_join, undo=_scripted("join", "undo")),
        Step(
            name="firewall",
            begins="Looking at the firewall.",
            do=_firewall,
            undo=_scripted("firewall", "undo"),
        ),
        Step(
            name="start",
            begins="Starting the agent.",
            do=_start,
            undo=_scripted("start", "undo"),
        ),
        Step(name="answer", begins="Waiting for the agent.", do=_answer),
    ),
)
UNINSTALL = Plan(
    leaves=True,
    steps=(
        Step(name="connect", begins="Logging in.", do=_connected),
        Step(name="inspect", begins="Looking at the machine.", do=_inspect),
        Step(name="stop", begins="Stopping the agent.", do=_scripted("start", "remove")),
        Step(
            name="firewall",
            begins="Closing the migration port.",
            do=_scripted("firewall", "remove"),
        ),
        Step(name="files", begins="Removing the agent.", do=_scripted("finish", "remove")),
        Step(
            name="authorize",
            begins="Locking the engine's SSH key out.",
            do=_scripted("authorize", "remove"),
        ),
    ),
)
RESTART = Plan(
    steps=(
        Step(name="connect", begins="Logging in.", do=_connected),
        Step(name="restart", begins="Restarting the agent.", do=_restart),
    )
)
PLANS: dict[SshTask, Plan] = {
    SshTask.INSTALL: INSTALL,
    SshTask.UNINSTALL: UNINSTALL,
    SshTask.RESTART_AGENT: RESTART,
}
