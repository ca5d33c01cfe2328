"""`chronovisor up`: everything on one machine, under one supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import psycopg
import structlog

from chronovisor.embedded_postgres import EmbeddedPostgres
from chronovisor.enrol import enrol_hosts
from chronovisor.heartbeat import AT_WORK, read_health
from chronovisor.installation import Installation
from chronovisor.parts.fleet import SIMULATED, simulated_hardware
from chronovisor.settings import PREFIX
from chronovisor.supervisor import Supervisor
from chronovisor.supervisor_parts import Launched, Part, PartState, PartStatus
from chronovisor.supervisor_postgres import postgres_part
from commands.gateway.reception import bind
from hostagent.identity import read_hardware_id

log = structlog.get_logger(__name__)
HOSTS_MAX = 10_000
HOST_WAIT_S = 20.0
LIBVIRT = "libvirt"
_MEMORY_THRIFT = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072"}
Say = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: `hosts` simulated hosts, and this machine as a real one with `libvirt`."""

    hosts: int = 1
    libvirt: str | None = None


async def up(installation: Installation, plan: Plan, say: Say) -> None:
    """Run everything until a signal asks for the end; raises SupervisorRefusal and the like."""
    began = time.monotonic()
    installation.prepare()
    _require_free_ports(installation)
    supervisor = Supervisor(
        installation.folder.root, build_parts(installation, plan), on_change=_teller(say, began)
    )
    async with supervisor:
        if not await supervisor.start():
            return
        addresses = installation.read_addresses()
        if addresses is not None:
            folder = installation.folder
            say(f"Chronovisor is up after {time.monotonic() - began:.1f} s.")
            say(f"  API and documentation  {addresses.api}  ({addresses.api}/v1/docs)")
            say(f"  admin token            {folder.admin_token}")
            say(f"  CA certificate         {installation.server_files().trust}")
            say(f"  logs                   {folder.root / 'log'}")
            say("Press Ctrl-C to stop everything.")
        await supervisor.wait_for_stop()
        say("Stopping.")


def build_parts(installation: Installation, plan: Plan) -> tuple[Part, ...]:
    """Return the parts of an installation on one machine."""
    settings = installation.settings
    parts: list[Part] = []
    database: tuple[str, ...] = ()
    if installation.embedded:
        parts.append(postgres_part(EmbeddedPostgres(installation.folder.postgres)))
        database = ("postgres",)
    parts.append(_part(installation, "engine", after=database, ready=_engine_listens(installation)))
    parts += [
        _part(installation, name, after=("engine",), ready=_beats(installation, name))
        for name in ("policies", "projector", "dwh", "notifier")
    ]
    if settings.kafka.bootstrap is not None:
        parts.append(_part(installation, "relay", after=("engine",)))
    if plan.hosts:
        names = [f"host-{number:02d}" for number in range(1, plan.hosts + 1)]

        def enrol() -> None:
            place = installation.folder.hosts / SIMULATED
            enrol_hosts(installation, place, names, simulated_hardware)

        parts.append(
            _part(
                installation,
                "fleet",
                after=("engine", "projector"),
                ready=_hosts_connected(installation.folder.fleet_socket),
                before_start=enrol,
            )
        )
    if plan.libvirt is not None:
        parts.append(_libvirt_part(installation, plan.libvirt))
    return tuple(parts)


def _libvirt_part(installation: Installation, uri: str) -> Part:
    name = socket.gethostname().partition(".")[0] or "localhost"
    place = installation.folder.hosts / LIBVIRT

    def enrol() -> None:
        enrol_hosts(installation, place, [name], lambda _name: read_hardware_id())

    return _part(
        installation,
        "agent",
        "--host",
        str(place / name),
        "--libvirt",
        uri,
        after=("engine", "projector"),
        ready=_hosts_connected(installation.folder.agent_socket),
        before_start=enrol,
    )


def _part(
    installation: Installation,
    name: str,
    *more: str,
    after: tuple[str, ...] = (),
    ready: Callable[[Launched], Awaitable[bool]] | None = None,
    before_start: Callable[[], None] | None = None,
) -> Part:
    argv = (sys.executable, "-P", "-m", "chronovisor.parts", name)
    return Part(
        name=name,
        argv=(*argv, "--dir", str(installation.folder.root), *more),
        environment=_MEMORY_THRIFT,
        after=after,
        ready=ready,
        ready_timeout_s=60.0,
        stop_timeout_s=15.0,
        before_start=before_start,
    )


def _engine_listens(installation: Installation) -> Callable[[Launched], Awaitable[bool]]:
    async def listens(launched: Launched) -> bool:
        addresses = installation.read_addresses()
        return addresses is not None and addresses.pid == launched.pid

    return listens


def _beats(installation: Installation, name: str) -> Callable[[Launched], Awaitable[bool]]:
    """Tell whether a part's own heartbeat says that it is at work."""

    async def beats(launched: Launched) -> bool:
        del launched
        with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
            connection = await psycopg.AsyncConnection.connect(
                installation.dsn(), autocommit=True, connect_timeout=5
            )
            async with connection:
                parts = await read_health(connection)
            return any(part.part == name and part.state in AT_WORK for part in parts)
        return False

    return beats


def _hosts_connected(status_socket: Path) -> Callable[[Launched], Awaitable[bool]]:
    """Tell whether every host of an agent process has its session.

    It is waited for only so long: a host in trouble shows in the inventory, and must not keep the
    engine, which shows it, from being up.
    """
    begun: dict[int, float] = {}

    async def connected(launched: Launched) -> bool:
        if time.monotonic() - begun.setdefault(launched.pid, time.monotonic()) > HOST_WAIT_S:
            return True
        transport = httpx.AsyncHTTPTransport(uds=str(status_socket))
        with contextlib.suppress(httpx.HTTPError, ValueError):
            async with httpx.AsyncClient(transport=transport, timeout=5) as http:
                return bool((await http.get("http://fleet/health")).json()["status"] == "ok")
        return False

    return connected


def _teller(say: Say, began: float) -> Callable[[PartStatus], None]:
    def tell(status: PartStatus) -> None:
        if status.state is PartState.READY:
            say(f"  {status.name:<10} ready  {time.monotonic() - began:5.1f} s")
        elif status.state is PartState.RESTARTING:
            say(f"  {status.name:<10} ended and is started again: {status.last_error or ''}")
        elif status.state is PartState.FAILED:
            say(f"  {status.name:<10} failed: {status.last_error or 'see its log'}")

    return tell


def _require_free_ports(installation: Installation) -> None:
    """Say at once that a port is taken; raises PortInUse."""
    settings = installation.settings
    for host, port in (
        (settings.api.host, settings.api.port),
        (settings.gateway.host, settings.gateway.port or (settings.api.port or -1) + 1),
    ):
        if port:
            _bindable(host, port)


def _bindable(host: str, port: int) -> int:
    """Return the port that could be had; raises PortInUse, or OSError that names the address."""
    try:
        with bind(host, port) as free:
            found: int = free.getsockname()[1]
            return found
    except OSError as error:
        raise OSError(
            error.errno, f"the address {host} of the settings: {error.strerror}"
        ) from error


def run_up(folder: Path, plan: Plan, port: int | None, say: Say) -> None:
    """Run `up` from the command line; `port` wins over the settings, 0 is any free one.

    Ports are chosen here and handed down, so that an engine that is restarted keeps them.
    """
    if port is not None:
        os.environ[f"{PREFIX}API__PORT"] = str(port)
    installation = Installation.open(folder)
    if installation.settings.api.port == 0:
        for section, host in (
            ("API", installation.settings.api.host),
            ("GATEWAY", installation.settings.gateway.host),
        ):
            if section == "GATEWAY" and installation.settings.gateway.port:
                continue
            os.environ[f"{PREFIX}{section}__PORT"] = str(_bindable(host, 0))
        installation = Installation.open(folder)
    asyncio.run(up(installation, plan, say))
