"""How the supervisor learns that a part is ready."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx

from chronovisor.supervisor_parts import Launched, Probe

PROBE_TIMEOUT_S = 3.0


def ready_when_logged(text: str) -> Probe:
    """Ready once the process has logged a line that holds `text`."""

    async def probe(launched: Launched) -> bool:
        return any(text in line for line in launched.log_text().splitlines())

    return probe


def ready_when_listening(path: Path) -> Probe:
    """Ready once a Unix socket takes connections."""

    async def probe(_: Launched) -> bool:
        with contextlib.suppress(OSError):
            _reader, writer = await asyncio.open_unix_connection(str(path))
            writer.close()
            return True
        return False

    return probe


def ready_when_healthy(url: str, *, trust: Path | None = None) -> Probe:
    """Ready once a GET of `url` answers 2xx; `trust` holds the CA certificates for HTTPS."""

    async def probe(_: Launched) -> bool:
        with contextlib.suppress(httpx.TransportError, OSError, ssl.SSLError):
            context = ssl.create_default_context(cafile=str(trust) if trust else None)
            async with httpx.AsyncClient(verify=context, trust_env=False) as client:
                answer = await client.get(url, timeout=PROBE_TIMEOUT_S)
                return answer.is_success
        return False

    return probe


def ready_when_true(function: Callable[[], bool]) -> Probe:
    """Ready once a blocking function answers True. It has to have a time limit of its own."""

    async def probe(_: Launched) -> bool:
        return await asyncio.to_thread(function)

    return probe
