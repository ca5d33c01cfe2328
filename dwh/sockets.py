"""Unix sockets of the warehouse: for their owner only, and closed with all that hangs on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(path: Path, serve: Serve) -> AsyncIterator[asyncio.Server]:
    """Serve connections for the length of a `with` block; then end those that are still there.

    A socket that a dead process left behind is replaced: only the owner of the warehouse's file,
    which DuckDB locks, comes as far as listening.
    """
    connections: set[asyncio.Task[None]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        connections.add(task)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            # Cancelled below, and nobody waits for the outcome: asyncio would log it as an error.
            return
        finally:
            connections.discard(task)
            writer.close()

    path.unlink(missing_ok=True)  # noqa: ASYNC240  an instant's work, once
    server = await asyncio.start_unix_server(tracked, path)
    path.chmod(0o600)  # noqa: ASYNC240
    try:
        yield server
    finally:
        server.close()
        ending = list(connections)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
