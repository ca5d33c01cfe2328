"""Asking the running warehouse: what `chronovisor history "SQL"` uses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from dwh.queries import Answer, Query
from dwh.query_server import ANSWER_BYTES_MAX, REQUEST_BYTES_MAX
from events.wire.telemetry import frame, read_frame

MARGIN_S = 5.0
CONNECT_TIMEOUT_S = 5.0


async def ask(path: Path, query: Query) -> tuple[Answer, bytes]:
    """Return the answer to a query and its rows, as JSON or an Arrow IPC stream.

    Raises OSError where no warehouse listens at the path, TimeoutError where it does not answer,
    ConnectionError where it went away meanwhile.
    """
    reader, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), CONNECT_TIMEOUT_S)
    try:
        content = msgspec.json.encode(query)
        if len(content) > REQUEST_BYTES_MAX:
            raise ValueError(f"a query has at most {REQUEST_BYTES_MAX} B")
        writer.write(frame(content))
        async with asyncio.timeout(query.timeout_s + MARGIN_S):
            await writer.drain()
            answer = msgspec.json.decode(await read_frame(reader), type=Answer)
            if answer.failure is not None:
                return answer, b""
            return answer, await read_frame(reader, ANSWER_BYTES_MAX)
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the warehouse went away before it answered") from error
    finally:
        writer.close()
