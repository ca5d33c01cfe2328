"""Work on hosts over SSH, in the engine's process: of several engines, one does it."""

from __future__ import annotations

import asyncio
import uuid

import psycopg
import structlog

from chronovisor.leadership import lead
from commands.remote.worker import SshWorker, Tools

log = structlog.get_logger(__name__)
_PLACE = "chronovisor ssh"
_STANDBY_S = 1.0


async def work_over_ssh(dsn: str, tools: Tools) -> None:
    """Carry orders out while this process has the place, else wait for it; for ever."""

    async def work() -> None:
        await SshWorker(tools, f"ssh-{uuid.uuid4()}").run()

    while True:
        try:
            await lead(dsn, _PLACE, work, time_scale=tools.time_scale)
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.warning("the place of the SSH worker is lost", reason=str(error))
        await asyncio.sleep(_STANDBY_S * tools.time_scale)
