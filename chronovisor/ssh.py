"""Work on hosts over SSH, in the engine's process: of several engines, one does it."""

from __future__ import annotations

import asyncio
import uuid

import psycopg
import structlog

from chronovisor.leadership import Leadership
from commands.remote.worker import SshWorker, Tools

log = structlog.get_logger(__name__)
_PLACE = "chronovisor ssh"
_STANDBY_S = 1.0


async def work_over_ssh(dsn: str, tools: Tools) -> None:
    """Carry orders out while this process has the place, else wait for it; for ever."""
    while True:
        try:
            await _lead(dsn, tools)
        except (psycopg.Error, OSError, TimeoutError) as error:
            log.warning("the place of the SSH worker is lost", reason=str(error))
        await asyncio.sleep(_STANDBY_S * tools.time_scale)


async def _lead(dsn: str, tools: Tools) -> None:
    """Hold the lock and work; it only avoids contention, the fences are in log and machine."""
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5)
    async with connection:
        place = Leadership(connection, _PLACE, time_scale=tools.time_scale)
        await place.take()
        worker = SshWorker(tools, f"ssh-{uuid.uuid4()}")
        tasks = [asyncio.ensure_future(worker.run()), asyncio.ensure_future(place.keep())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
