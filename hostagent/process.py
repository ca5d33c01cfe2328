"""The agent's process: a fleet of one or many hosts, with health and metrics beside it.

Ending it, in good order or by force, never touches a VM.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from hostagent.client import HttpsGateway
from hostagent.fleet import Connect, Fleet, HostSetup
from hostagent.status import serve_status
from hostagent.timings import Timings

STOP_TIMEOUT_S = 10.0

_log = structlog.get_logger(__name__)


class AgentProcess(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent process is told at its start.

    `status` is where health and metrics are served: a path for a Unix socket, "127.0.0.1:PORT"
    (port 0: any), or None. `control` is a folder of words to simulated machines. `connect` makes
    each host's connections to the gateway.
    """

    hosts: Sequence[HostSetup]
    time_scale: float = 1.0
    status: str | None = None
    control: Path | None = None
    connect: Connect = HttpsGateway


async def run_agent(process: AgentProcess, stop: asyncio.Event | None = None) -> None:
    """Run until SIGTERM or SIGINT comes, or `stop` is set."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not in a thread other than the main one, where signals are somebody else's matter.
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    fleet = Fleet(
        process.hosts,
        timings=Timings().scaled(process.time_scale),
        control=process.control,
        connect=process.connect,
    )
    async with serve_status(fleet, process.status):
        running = asyncio.create_task(fleet.run())
        stopping = asyncio.create_task(stop.wait())
        _log.info("agent running", hosts=len(process.hosts))
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            stopping.cancel()
            running.cancel()
            await asyncio.wait({running}, timeout=STOP_TIMEOUT_S)
    _log.info("agent stopped; VMs run on")
